"""A real headless Chromium. Where there is none, root installs Debian's; else what needs it is skipped."""

from __future__ import annotations

import shutil

import pytest
from debian import install
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def programs() -> tuple[str, str] | None:
    """Paths of Chromium and of its driver; None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    found = programs()
    if found is None:
        install("chromium", "chromium-driver")
        found = programs()
    if found is None:
        pytest.skip("no Chromium: install it with `apt-get install chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    # Without a sandbox of its own where we are root: Chromium refuses to start otherwise. It sees our own page alone.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1000,900"):
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=found[1])) as driver:
        driver.downloads = downloads
        yield driver


def element(browser, name: str):
    return browser.find_element(By.ID, name)


def until(browser, condition) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())
