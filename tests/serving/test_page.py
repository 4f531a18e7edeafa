"""The web page in a real headless Chromium, which asks a real endpoint. Where there is no Chromium, root installs Debian's; else these tests are skipped."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import pytest
from completions import completions
from debian import install
from endpoint import VERSION, endpoint
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from selftrain.bundle.classifier import Classifier
from selftrain.serving.language_model import Augmentation
from selftrain.serving.models import Source

TOKEN = "0123456789abcdef-token"
DARK = "return getComputedStyle(document.body).backgroundColor"


def programs() -> tuple[str, str] | None:
    """Paths of Chromium and of its driver; None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def served(bundle, other_bundle):
    with endpoint(Source(bundle=str(bundle)), Source(bundle=str(other_bundle), version="2")) as local:
        yield local


@pytest.fixture
def page(browser, served):
    browser.get(served.url)
    until(browser, lambda: "Live: news" in element(browser, "live").text)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def element(browser, name: str):
    return browser.find_element(By.ID, name)


def until(browser, condition) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())


def bars(box) -> list[tuple[str, float, float]]:
    """(label, percent that is written, percent that the bar is wide) of the bars in `box`."""
    found = []
    for line in box.find_elements(By.CLASS_NAME, "bar"):
        label, number = (one.text for one in line.find_elements(By.TAG_NAME, "span"))
        width = line.find_element(By.CSS_SELECTOR, ".track div").get_attribute("style")
        found.append((label, float(number.rstrip(" %")), float(width.partition("width: ")[2].partition("%")[0])))
    return found


def test_texts_are_classified_by_keyboard_alone(page, bundle) -> None:
    texts = ["the team won the match", "a phone"]
    for _ in range(10):  # Tab reaches the text field
        page.switch_to.active_element.send_keys(Keys.TAB)
        if page.switch_to.active_element.get_attribute("id") == "texts":
            break
    page.switch_to.active_element.send_keys(texts[0], Keys.ENTER, texts[1], Keys.CONTROL + Keys.ENTER)
    until(page, lambda: element(page, "said").text.startswith("2 texts by news"))
    articles = page.find_elements(By.TAG_NAME, "article")
    classifier = Classifier.load(bundle, device="cpu")
    assert [one.find_element(By.CLASS_NAME, "text").text for one in articles] == texts
    for article, row in zip(articles, classifier.predict_proba(texts), strict=True):
        found = bars(article)
        expected = sorted(zip(classifier.classes_, row, strict=True), key=lambda one: -one[1])
        assert [label for label, _, _ in found] == [label for label, _ in expected]
        for (_, number, width), (_, value) in zip(found, expected, strict=True):
            assert number == pytest.approx(100 * value, abs=0.06) and width == pytest.approx(100 * value, abs=0.01)


def test_two_models_are_compared_on_the_same_text(page) -> None:
    element(page, "texts").send_keys("music at the bank")
    Select(element(page, "other")).select_by_value("other@2")
    element(page, "classify").click()
    until(page, lambda: "and other, version 2" in element(page, "said").text)
    left, right = page.find_elements(By.CSS_SELECTOR, "article .columns > div")
    assert (
        left.find_element(By.TAG_NAME, "h3").text == f"news, version {VERSION}" and right.find_element(By.TAG_NAME, "h3").text == "other, version 2"
    )
    assert {label for label, _, _ in bars(left)} == {"sport", "tech", "politics"} and {label for label, _, _ in bars(right)} == {"bank", "music"}


def test_continuations_are_offered_where_there_is_a_language_model(page, bundle) -> None:
    assert not element(page, "augment").is_displayed()
    with completions() as writer, endpoint(Source(bundle=str(bundle)), augmentation=Augmentation(url=writer.url)) as local:
        page.get(local.url)
        until(page, lambda: element(page, "augment").is_displayed())
        element(page, "texts").send_keys(*(f"a phone{Keys.ENTER}" for _ in range(10)))
        element(page, "augment").send_keys(Keys.SPACE)
        element(page, "classify").click()
        until(page, lambda: element(page, "said").text.startswith("10 texts by news"))
        assert [one.text for one in page.find_elements(By.CSS_SELECTOR, "article .soft")] == ["Read with 1 continuation."] * 10
        assert sum(body is not None for _, _, body in writer.asked) == 10
        element(page, "augment").click()
        element(page, "classify").click()
        until(page, lambda: not page.find_elements(By.CSS_SELECTOR, "article .soft"))
        page.get("about:blank")  # before the server goes


def test_a_text_stays_text(page) -> None:
    element(page, "texts").send_keys("<img src=x onerror=alert(1)> the match")
    element(page, "classify").click()
    until(page, lambda: element(page, "said").text.startswith("1 text by"))
    assert page.find_element(By.CSS_SELECTOR, "article .text").text == "<img src=x onerror=alert(1)> the match"
    assert page.find_elements(By.TAG_NAME, "img") == []


def test_a_csv_file_comes_back_labeled(page, bundle, tmp_path: Path) -> None:
    texts = ['the "team", won', "two\nlines about a phone", "", *(f"text {number} of the minister" for number in range(300))]
    file = tmp_path / "mails.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["number", "body"], *([str(number), text] for number, text in enumerate(texts))])
    element(page, "file").send_keys(str(file))
    until(page, lambda: f"{len(texts)} rows" in element(page, "file-said").text)
    Select(element(page, "column")).select_by_visible_text("body")
    element(page, "label").click()
    until(page, lambda: "rows done" in element(page, "file-said").text)
    assert element(page, "file-said").text == f"{len(texts)} rows done, 1 with an error."
    assert element(page, "row-errors").text == "Row 3: the text is empty"
    assert element(page, "progress").get_attribute("value") == "1"
    element(page, "download").click()
    labeled = page.downloads / "mails-labeled.csv"
    until(page, labeled.exists)
    with open(labeled, newline="", encoding="utf-8") as stream:
        head, *rows = list(csv.reader(stream))
    assert head == ["number", "body", "label", "probability", "error"]
    assert [row[1] for row in rows] == texts and [row[0] for row in rows] == [str(number) for number in range(len(texts))]
    assert rows[2][2:] == ["", "", "the text is empty"]
    good = [row for row in rows if not row[4]]
    classifier = Classifier.load(bundle, device="cpu")
    assert [row[2] for row in good] == classifier.predict([row[1] for row in good]).tolist()
    assert [float(row[3]) for row in good] == pytest.approx(classifier.predict_proba([row[1] for row in good]).max(axis=1).tolist(), abs=1e-5)


def test_the_labeled_file_is_no_formula_and_has_no_column_twice(page, tmp_path: Path) -> None:
    head = ["text", "label", "predicted_label", "error", "=1+1"]
    kept = ["a phone", "-5", "+3.5e-2", "1=2", "'=a"]
    formulas = ["=HYPERLINK(A1)", "+SUM(A1)", "-1+1|cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", '=1,"2"', "-1-"]
    file = tmp_path / "evil.csv"
    rows = [[text, "sport", "old", "none", "x"] for text in (*kept, *formulas)]
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])
    element(page, "file").send_keys(str(file))
    until(page, lambda: f"evil.csv: {len(rows)} rows" in element(page, "file-said").text)
    element(page, "label").click()
    until(page, lambda: "rows done" in element(page, "file-said").text)
    element(page, "download").click()
    labeled = page.downloads / "evil-labeled.csv"
    until(page, labeled.exists)
    with open(labeled, newline="", encoding="utf-8") as stream:
        found_head, *found = list(csv.reader(stream))
    assert found_head == [*head[:4], "'=1+1", "predicted_predicted_label", "probability", "predicted_error"]
    assert [row[0] for row in found] == [*kept, *("'" + text for text in formulas)]
    assert all(row[1:5] == ["sport", "old", "none", "x"] and row[5] for row in found)


@pytest.mark.parametrize(
    "make",
    [
        "const one = document.createElement('script'); one.append('window.ran = true'); document.head.append(one)",
        "const one = document.createElement('script'); one.src = 'data:text/javascript,window.ran = true'; document.head.append(one)",
        "document.body.innerHTML = '<img src=x onerror=\"window.ran = true\">'",
        "document.body.setAttribute('onclick', 'window.ran = true'); document.body.click()",
    ],
)
def test_a_script_that_is_not_the_pages_own_does_not_run(page, make) -> None:
    page.execute_script(f"window.ran = false; try {{ {make} }} catch (error) {{ }}")
    time.sleep(0.2)  # an image that cannot be loaded says so a little later
    assert page.execute_script("return window.ran") is False
    page.get_log("browser")  # the refusals are there, as they should be


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"text\n\xff\xfe\n", "it is not UTF-8"), (b"text\n", "no rows"), (b'text\n"never closed\n', "never closed"), (b"", "no rows")],
)
def test_a_file_that_is_no_csv_is_refused_in_a_sentence(page, tmp_path: Path, content, words) -> None:
    file = tmp_path / "file.csv"
    file.write_bytes(content)
    element(page, "file").send_keys(str(file))
    until(page, lambda: words in element(page, "file-said").text)
    assert not element(page, "label").is_enabled()


def test_a_file_can_be_dropped(page) -> None:
    page.execute_script(
        "const data = new DataTransfer(); data.items.add(new File(['text;id\\na phone;1\\n'], 'dropped.csv'));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));"
    )
    until(page, lambda: "dropped.csv: 1 rows." in element(page, "file-said").text)
    assert [one.text for one in Select(element(page, "column")).options] == ["text", "id"]


def test_it_is_readable_on_a_phone_and_in_the_dark(page) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    element(page, "texts").send_keys("a phone")
    element(page, "classify").click()
    until(page, lambda: element(page, "said").text.startswith("1 text"))
    boxes = page.execute_script("return [...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right)")
    assert max(boxes) <= 360
    colours = []
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        colours.append(page.execute_script(DARK))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_a_token_is_asked_for_and_kept_in_memory_only(browser, bundle) -> None:
    with endpoint(Source(bundle=str(bundle)), token=TOKEN.encode()) as local:
        browser.get(local.url)
        until(browser, lambda: element(browser, "token").is_displayed() and "wants a token" in element(browser, "live").text)
        element(browser, "token").send_keys(TOKEN, Keys.ENTER)
        until(browser, lambda: "Live: news" in element(browser, "live").text)
        element(browser, "texts").send_keys("a phone", Keys.CONTROL + Keys.ENTER)
        until(browser, lambda: element(browser, "said").text.startswith("1 text by news"))
        kept = browser.execute_script(
            "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.body.innerHTML])"
        )
        assert TOKEN not in kept
        browser.refresh()
        until(browser, lambda: element(browser, "token").is_displayed())
        browser.get_log("browser")  # the refusals are there, as they should be
