"""The page that asks about documents, in a real headless Chromium, in front of a real server; and `selftrain label` itself, killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from audits import answered, questions, truth, write
from chromium import element, until
from endpoint import endpoint, free_port
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from several import CLASSES, truth_of

from selftrain.cli import main
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import CHOICE, Choice, Folder, open_folder
from selftrain.runs.labelling.retraining import Retraining
from selftrain.serving.gate import Gate
from selftrain.serving.headers import Hosts
from selftrain.serving.labelling import labelling_app
from selftrain.serving.listener import Listener
from selftrain.serving.metrics import Metrics
from selftrain.serving.models import ModelSource

TOKEN = "0123456789abcdef-token"


@contextmanager
def asking(folder: Path, token: bytes | None = None, program: str | None = None, **desk: float) -> Iterator[str]:
    """The address of a page that asks from a folder; `program` stands in for a training run."""
    port = free_port()
    opened = open_folder(folder)
    retraining = Retraining(opened, Path.cwd(), **({"program": (sys.executable, "-c", program)} if program else {}))
    app = labelling_app(Desk(opened, **desk), retraining)
    hosts = Hosts.of("127.0.0.1", token=token is not None)
    listener = Listener(Gate(app, metrics=Metrics(), token=token, hosts=hosts), "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}/label"
    finally:
        listener.stop()
        retraining.stop()


@pytest.fixture
def page(browser, here):
    with asking(here / "audit") as url:
        browser.get(url.replace("/label", "/healthz"))  # of the same origin, and takes no question
        browser.execute_script("sessionStorage.clear()")
        browser.get_log("browser")  # that page has no icon
        browser.get(url)
        until(browser, lambda: element(browser, "count").text == "0 of 24")
        yield browser
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        browser.get("about:blank")  # before the server goes


def press(browser, key: str) -> None:
    browser.find_element(By.TAG_NAME, "body").send_keys(key)


def kept(folder: Path = Path("audit")) -> list[tuple[str, str | None]]:
    """The journal: (id, answer), None where an answer was taken back."""
    lines = (folder / "answers.jsonl").read_text().splitlines()
    return [(entry["question"], entry.get("answer")) for entry in map(json.loads, lines)]


def text(browser) -> str:
    return element(browser, "text").text


def test_an_audit_is_answered_by_keyboard_alone_and_its_file_gives_the_figures(page, here, capsys) -> None:
    rows = questions()
    answers = [truth(row["text"]) for row in rows]
    answers[2:4] = ["none of these", "skip"]
    keys = {"sport": "1", "business": "2", "none of these": "0", "skip": "s"}
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        assert text(page) == row["text"]
        assert element(page, "count").text == f"{place} of 24"
        press(page, keys[answer])
        until(page, lambda place=place: element(page, "count").text == f"{place + 1} of 24")
        assert kept()[-1] == (row["id"], answer)  # on the disk before the next is shown
    assert text(page) == "All 24 questions are answered. Thank you."
    shown = element(page, "interval").text
    element(page, "download").click()
    file = page.downloads / "answers.csv"
    until(page, file.exists)
    assert main(["audit", "bundle", "--documents", "documents.csv", "--answers", str(file)]) == 0
    found = json.loads(Path("audit/audit.json").read_text())
    accuracy = {name: f"{100 * value:.0f} %" for name, value in found["accuracy"].items()}
    assert shown == f"{accuracy['estimate']}, from {accuracy['low']} to {accuracy['high']}"
    assert (found["asked"], found["skipped"], found["anytime"]) == (24, 1, False) and found["none_of_these"]["estimate"] > 0
    assert element(page, "valid").text == "95 % interval, for all planned answers"
    file.unlink()


def test_an_answer_is_taken_back_and_given_again(page) -> None:
    assert not element(page, "undo").is_enabled()
    first = text(page)
    press(page, "2")
    until(page, lambda: element(page, "said").text == "Kept: business.")
    assert text(page) != first and "whenever you stop" in element(page, "valid").text
    press(page, "u")
    until(page, lambda: text(page) == first)
    before = page.find_element(By.CSS_SELECTOR, "#answering .before")
    assert before.text == "2\nbusiness" and element(page, "count").text == "0 of 24" and not element(page, "undo").is_enabled()
    assert element(page, "said").text == "Taken back. What is the right answer?"
    press(page, "1")
    until(page, lambda: element(page, "count").text == "1 of 24")
    assert [answer for _, answer in kept()] == ["business", None, "sport"] and not page.find_elements(By.CSS_SELECTOR, "#answering .before")


def test_keys_that_are_no_answer_say_nothing(page) -> None:
    first = text(page)
    for key in ("3", "9", "x", Keys.F2, Keys.CONTROL + "1" + Keys.NULL, Keys.ALT + "s" + Keys.NULL):
        press(page, key)
    page.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true}))")
    time.sleep(0.3)
    assert text(page) == first and not Path("audit/answers.jsonl").exists()


def test_buttons_answer_too_and_stay_where_they_are_whatever_the_text(page, here) -> None:
    rows = questions()
    rows[1]["text"] = "word " * 2000 + "end"
    write(here / "audit/questions.csv", rows)
    with asking(here / "audit") as url:
        page.get(url)
        until(page, lambda: text(page) == rows[0]["text"])
        sport, business = page.find_elements(By.CSS_SELECTOR, "#classes button")
        places = [one.rect for one in (sport, business, element(page, "skip"), element(page, "accuracy"))]
        sport.click()
        until(page, lambda: text(page).endswith("end"))
        assert [one.rect for one in (sport, business, element(page, "skip"), element(page, "accuracy"))] == places
        assert page.execute_script(
            "const box = document.getElementById('document'); return box.scrollHeight > box.clientHeight && box.scrollTop === 0"
        )
        element(page, "skip").click()
        until(page, lambda: element(page, "count").text == "2 of 24")
        element(page, "none").send_keys(Keys.ENTER)
        until(page, lambda: element(page, "count").text == "3 of 24")
        assert [answer for _, answer in kept()] == ["sport", "skip", "none of these"]
        page.get("about:blank")


def test_two_browsers_are_never_asked_the_same_and_a_closed_one_gives_its_question_back(page) -> None:
    url, one = page.current_url, page.current_window_handle
    page.switch_to.new_window("tab")  # with a session of its own
    other = page.current_window_handle
    page.get(url)
    until(page, lambda: element(page, "count").text == "0 of 24")
    seen = {one: [], other: []}
    for done in range(12):
        page.switch_to.window((one, other)[done % 2])
        seen[page.current_window_handle].append(text(page))
        press(page, "1")
        until(page, lambda done=done: element(page, "count").text == f"{done + 1} of 24")
    assert len({*seen[one], *seen[other]}) == 12 == len(kept()) and len(seen[one]) == 6
    page.switch_to.window(other)
    open_question = text(page)
    page.close()
    page.switch_to.window(one)
    press(page, "1")
    until(page, lambda: element(page, "count").text == "13 of 24")
    assert text(page) == open_question


def test_the_last_question_of_another_browser_is_waited_for(browser, here) -> None:
    write(here / "audit/questions.csv", answered(23))
    with asking(here / "audit", lease_seconds=1.0) as url:
        last = questions()[23]["id"]
        assert asked(url, "next", browser="another-browser")["question"]["id"] == last
        browser.get(url)
        until(browser, lambda: text(browser) == "The last question is open in another browser.")
        assert element(browser, "count").text == "23 of 24" and not element(browser, "skip").is_enabled()
        until(browser, lambda: text(browser) == questions()[23]["text"])  # nobody hears of the other one any more
        late = asked(url, "answer", browser="another-browser", question=last, answer="sport")
        assert late["late"] and late["done"] == 23
        browser.get("about:blank")


def asked(url: str, what: str, token: str = "", **body: str) -> dict:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{what}", json.dumps(body).encode(), headers), timeout=60) as answer:
        return json.load(answer)


def test_several_classes_of_a_document_are_chosen_and_confirmed(browser, several_here) -> None:
    rows = questions()
    with asking(several_here / "audit") as url:
        browser.get(url)
        until(browser, lambda: element(browser, "count").text == "0 of 24")
        assert "Choose every class that a document has, and confirm." in element(browser, "purpose").text
        assert element(browser, "h-accuracy").text == "Exact match so far"
        press(browser, Keys.ENTER)
        assert element(browser, "said").text == "No class is chosen. If the document has none of them, say so: 0."
        assert not Path("audit/answers.jsonl").exists()
        for place, row in enumerate(rows):
            until(browser, lambda place=place: element(browser, "count").text == f"{place} of 24")
            assert text(browser) == row["text"] and pressed(browser) == []
            names = truth_of(row["text"])
            for name in reversed(names):  # in any order
                press(browser, str(CLASSES.index(name) + 1))
            if place == 0:  # what was chosen by mistake is taken back
                other = next(name for name in CLASSES if name not in names)
                for _ in range(2):
                    press(browser, str(CLASSES.index(other) + 1))
            assert pressed(browser) == names and element(browser, "none").is_enabled() == (not names)
            press(browser, Keys.ENTER if names else "0")
        until(browser, lambda: text(browser) == "All 24 questions are answered. Thank you.")
        assert kept() == [(row["id"], ", ".join(truth_of(row["text"])) or "none of these") for row in rows]
        shown = element(browser, "interval").text
        element(browser, "download").click()
        file = browser.downloads / "answers.csv"
        until(browser, file.exists)
        browser.get("about:blank")
    try:
        assert main(["audit", "bundle", "--documents", "documents.csv", "--answers", str(file)]) == 0
        found = json.loads(Path("audit/audit.json").read_text())
        exact = {name: f"{100 * value:.0f} %" for name, value in found["exact_match"].items()}
        assert shown == f"{exact['estimate']}, from {exact['low']} to {exact['high']}" and found["asked"] == 24
        assert main(["thresholds", "bundle", "--answers", str(file), "--label-column", "label", "--risk", "0.5"]) == 0
    finally:
        file.unlink()


def test_several_classes_are_chosen_by_mouse_and_come_back_with_undo(browser, several_here) -> None:
    with asking(several_here / "audit") as url:
        browser.get(url)
        until(browser, lambda: element(browser, "count").text == "0 of 24")
        first = text(browser)
        sport, business, film = browser.find_elements(By.CSS_SELECTOR, "#classes button")
        sport.click()
        film.click()
        assert pressed(browser) == ["sport", "film"] and not element(browser, "none").is_enabled()
        press(browser, "0")  # says nothing beside a class
        browser.execute_script("next()")  # an open page says that it is there: what is chosen stays
        time.sleep(0.3)
        assert pressed(browser) == ["sport", "film"] and element(browser, "count").text == "0 of 24"
        film.send_keys(Keys.ENTER)  # confirms, and does not take film back
        until(browser, lambda: element(browser, "said").text == "Kept: sport, film.")
        assert text(browser) != first and pressed(browser) == []
        business.click()
        press(browser, "u")
        until(browser, lambda: text(browser) == first)
        assert pressed(browser) == ["sport", "film"]  # of the answer before, not of the question in between
        film.send_keys(Keys.SPACE)
        element(browser, "give").click()
        until(browser, lambda: element(browser, "count").text == "1 of 24")
        element(browser, "none").click()
        until(browser, lambda: element(browser, "count").text == "2 of 24")
        press(browser, "u")
        until(browser, lambda: element(browser, "count").text == "1 of 24")
        assert pressed(browser) == [] and browser.find_element(By.CSS_SELECTOR, "#answering .before").text == "0\nNone of these"
        press(browser, "s")
        until(browser, lambda: element(browser, "count").text == "2 of 24")
        assert [answer for _, answer in kept()] == ["sport, film", None, "sport", "none of these", None, "skip"]
        for wrong in ("sport", ["sprot"]):
            with pytest.raises(urllib.error.HTTPError) as refused:
                asked(url, "answer", browser="browser-one", question=questions()[5]["id"], answer=wrong)
            assert refused.value.code == 422 and "answer must be a list of sport, business, film; or one of" in json.load(refused.value)["error"]
        browser.get("about:blank")


def test_several_classes_and_the_button_that_confirms_are_in_sight_on_a_phone(browser, several_here) -> None:
    with asking(several_here / "audit") as url:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
        try:
            browser.get(url)
            until(browser, lambda: element(browser, "count").text == "0 of 24")
            buttons = browser.find_elements(By.CSS_SELECTOR, "#answering button")
            assert min(one.size["height"] for one in buttons) >= 44 and len(buttons) == 7
            assert max(one.rect["y"] + one.rect["height"] for one in buttons) <= 740
            buttons[0].click()
            buttons[3].click()
            until(browser, lambda: element(browser, "said").text == "Kept: sport.")
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            browser.get("about:blank")


def pressed(browser) -> list[str]:
    """The classes that are chosen."""
    return [one.get_attribute("data-answer") for one in browser.find_elements(By.CSS_SELECTOR, "#classes button[aria-pressed=true]")]


def test_a_wrong_token_sees_no_document_and_the_right_one_does(browser, here) -> None:
    with asking(here / "audit", token=TOKEN.encode()) as url:
        browser.get(url)
        until(browser, lambda: element(browser, "token").is_displayed())
        first = questions()[0]["text"]
        for token, seen in (("a-wrong-token-of-16", False), (TOKEN, True)):
            element(browser, "token").send_keys(token, Keys.ENTER)
            until(browser, lambda seen=seen: element(browser, "desk").is_displayed() == seen and element(browser, "token").is_displayed() != seen)
            assert (first in browser.page_source) == seen
        press(browser, "1")
        until(browser, lambda: element(browser, "count").text == "1 of 24")
        stored = browser.execute_script("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert TOKEN not in stored and TOKEN not in browser.page_source
        for what, body in (
            ("next", {}),
            ("answer", {"question": questions()[1]["id"], "answer": "sport"}),
            ("undo", {"question": questions()[0]["id"]}),
            ("leave", {}),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                asked(url, what, token="a-wrong-token-of-16", browser="somebody-else", **body)
            assert refused.value.code == 401
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/answers.csv", timeout=60)
        assert refused.value.code == 401 and len(kept()) == 1
        browser.get("about:blank")
    browser.get_log("browser")  # the refusals are there, as they should be


def test_what_does_not_fit_is_refused_in_a_sentence(here) -> None:
    with asking(here / "audit") as url:
        first = asked(url, "next", browser="browser-one")["question"]["id"]
        for body, says in (
            ({"browser": "x"}, "browser: String should have at least 8 characters"),
            ({"browser": "browser-one", "question": first, "answer": "sprot"}, "answer must be one of sport, business, none of these, skip"),
            ({"browser": "browser-one", "question": "q1-0", "answer": "sport"}, "question must be one of this folder"),
            ({"browser": "browser-one", "question": first}, "answer: Field required"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                asked(url, "answer", **body)
            assert refused.value.code == 422 and says in json.load(refused.value)["error"]
        assert not Path("audit/answers.jsonl").exists()


def test_the_page_of_an_endpoint_leads_to_it_behind_the_same_token(browser, here, bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), token=TOKEN.encode(), labelling=here / "audit") as served:
        browser.get(served.url)
        browser.find_element(By.LINK_TEXT, "Label documents").click()
        until(browser, lambda: element(browser, "token").is_displayed())
        element(browser, "token").send_keys(TOKEN, Keys.ENTER)
        until(browser, lambda: text(browser) == questions()[0]["text"])
        assert "/label/answer" in urllib.request.urlopen(f"{served.url}/docs", timeout=60).read().decode()
        browser.get("about:blank")
    with endpoint(ModelSource(bundle=str(bundle))) as served:
        browser.get(served.url)
        until(browser, lambda: "Live: news" in element(browser, "live").text)
        assert not browser.find_elements(By.LINK_TEXT, "Label documents")
        browser.get("about:blank")
    browser.get_log("browser")  # the refusals are there, as they should be


def test_training_shows_counts_and_no_accuracy(browser, here) -> None:
    folder = here / "training"
    folder.mkdir()
    write(folder / "questions.csv", [{"id": f"t{place}-x", "text": f"text <b>{place}</b>", "label": ""} for place in range(1, 5)])
    choice = Choice(classes=tuple(f"class {place}" for place in range(1, 12)), questions=("t3-x", "t1-x"))
    (folder / CHOICE).write_text(choice.model_dump_json())
    with asking(folder) as url:
        browser.get(url)
        until(browser, lambda: element(browser, "count").text == "0 of 2")
        assert text(browser) == "text <b>3</b>" and not element(browser, "accuracy").is_displayed()
        assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#classes kbd")] == list("123456789")
        press(browser, "9")
        until(browser, lambda: element(browser, "count").text == "1 of 2")
        buttons = browser.find_elements(By.CSS_SELECTOR, "#classes button")
        assert buttons[8].text == "9\nclass 9\n1" and buttons[10].text == "class 11"
        buttons[10].click()  # has no key
        until(browser, lambda: element(browser, "count").text == "2 of 2")
        assert kept(folder) == [("t3-x", "class 9"), ("t1-x", "class 11")]
        browser.get("about:blank")


@pytest.fixture
def taught(here, monkeypatch) -> Folder:
    """30 documents to learn from, apart from an audit that is answered; 24 of them have an answer. The successor's encoder is the tiny one."""
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    words = ["--training", "bundle", "--documents", "documents.csv", "--budget", "30", "--apart-from", "audit"]
    assert main(["label", "training", "--port", str(free_port()), *words]) == 0
    choice = json.loads((here / "training" / CHOICE).read_text())
    (here / "training" / CHOICE).write_text(json.dumps(choice | {"model": {"encoder": str((here / "bundle").resolve())}}))
    write(here / "audit/questions.csv", answered(24))
    folder = open_folder(here / "training")
    desk = Desk(folder)
    for one in folder.questions[:24]:
        desk.answer("browser-one", one.key, truth(one.text))
    return folder


RUN = "import pathlib, sys, time; f = pathlib.Path(sys.argv[1], 'retraining.step'); f.write_text('[3, 20, 1, 9]'); print('a line'); sys.stdout.flush(); "


# The process as it is, but for the number of steps.
SHORT = """
import sys
from pathlib import Path
from selftrain.runs.labelling import retrainer, successor
whole = successor.settings_of
successor.settings_of = lambda *given: whole(*given) | {"method.rounds": "2", "method.steps_per_round": "2", "evaluation.map": "none"}
sys.exit(retrainer.main(Path(sys.argv[1])))
"""


def give_the_token(browser) -> None:
    until(browser, lambda: element(browser, "token").is_displayed())
    element(browser, "token").send_keys(TOKEN, Keys.ENTER)


def start_the_run(browser) -> None:
    element(browser, "train").click()
    assert not element(browser, "train").is_displayed() and element(browser, "go") == browser.switch_to.active_element
    element(browser, "go").click()


def test_a_run_is_confirmed_shown_after_a_reload_and_alone(browser, taught) -> None:
    with asking(taught.path, token=TOKEN.encode(), program=RUN + "time.sleep(600)") as url:
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(url, "training", browser="somebody-else", confirm=True)
        assert refused.value.code == 401
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(url, "training", token=TOKEN, browser="somebody-else", confirm=False)
        assert refused.value.code == 422 and not list(taught.path.glob("retraining.*"))
        browser.get(url)
        give_the_token(browser)
        until(browser, lambda: element(browser, "train").is_displayed())
        says = "says the same of" if "hardly" in element(browser, "settling").text else "says something else of"
        assert says in element(browser, "settling").text and "the first 19 of 24 answers" in element(browser, "settling").text
        element(browser, "train").click()
        element(browser, "cancel").click()
        assert not list(taught.path.glob("retraining.*"))  # nothing before it is confirmed
        start_the_run(browser)
        until(browser, lambda: element(browser, "pace").text.startswith("Round 3 of 20, "))
        assert element(browser, "pace").text.endswith(" s, 24 answers") and element(browser, "line").text == "a line"
        assert not element(browser, "start").is_displayed()
        browser.refresh()
        give_the_token(browser)
        until(browser, lambda: element(browser, "pace").text.startswith("Round 3 of 20, "))
        press(browser, "1")  # one may go on answering
        until(browser, lambda: element(browser, "count").text == "25 of 30")
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(url, "training", token=TOKEN, browser="somebody-else", confirm=True)
        assert refused.value.code == 409 and "going on already" in json.load(refused.value)["error"]
        Retraining(taught, Path.cwd()).stop()  # started nothing, and stops nothing
        assert element(browser, "runs").is_displayed()
        browser.get("about:blank")
    with asking(taught.path, program=RUN + "1 / 0") as url:  # the server was stopped, and its run with it
        browser.get(url)
        until(browser, lambda: element(browser, "why").text == "The run was ended before it was done; its last line: a line")
        start_the_run(browser)
        until(browser, lambda: "ZeroDivisionError" in element(browser, "why").text)
        browser.get("about:blank")
    browser.get_log("browser")  # the refusals are there, as they should be


@pytest.mark.slow
def test_a_run_of_a_tiny_head_gives_a_bundle_compared_with_the_one_before(browser, taught) -> None:
    with asking(taught.path, program=SHORT) as url:
        browser.get(url)
        until(browser, lambda: element(browser, "train").is_displayed())
        start_the_run(browser)
        until(browser, lambda: element(browser, "runs").is_displayed())
        WebDriverWait(browser, 120).until(lambda _: element(browser, "done").is_displayed() or element(browser, "why").text)
        assert element(browser, "why").text == ""
        made = Path(element(browser, "bundle").text)
        assert made.parent.parent == Path.cwd() / "runs" and (made / "selftrain.json").is_file()
        assert element(browser, "serve").text == f"selftrain serve --bundle {made}"
        rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#compared tr")]
        assert [row.split()[0] for row in rows] == ["Before", "New", "Gain"] and "Accuracy on the audit's 24 answers" in element(
            browser, "compared"
        ).text
        assert element(browser, "made").text.endswith("has learned from 24 answers.") and element(browser, "train").is_displayed()
        browser.get("about:blank")
    card = json.loads((made / "selftrain.json").read_text())
    most = max(Counter(truth(one.text) for one in taught.questions[:24]).values())
    assert (card["method"], card["supervision"]) == ("ssc", f"{most} a class") and len(list(Path("runs").iterdir())) == 1


def test_it_is_readable_on_a_phone_and_in_the_dark_and_every_control_has_a_name(page) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    try:
        press(page, "1")
        until(page, lambda: element(page, "count").text == "1 of 24")
        buttons = [one for one in page.find_elements(By.CSS_SELECTOR, "#answering button") if one.is_displayed()]
        assert min(one.size["height"] for one in buttons) >= 44 and len(buttons) == 5
        assert max(one.rect["y"] + one.rect["height"] for one in buttons) <= 740  # all in sight beside the text
        assert (
            page.execute_script("return Math.max(...[...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right))") <= 360
        )
        colours = []
        for scheme in ("light", "dark"):
            page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            colours.append(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, progress, section')].filter(one => !one.getAttribute('aria-label')"
        " && !one.getAttribute('aria-labelledby') && !(one.labels && one.labels.length) && !one.textContent.trim()).map(one => one.outerHTML)"
    )
    assert unnamed == []


@contextmanager
def command(port: int) -> Iterator[subprocess.Popen[str]]:
    """`selftrain label audit`, when it answers."""
    words = [str(Path(sys.executable).parent / "selftrain"), "label", "audit", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            assert f"24 questions at http://127.0.0.1:{port}/label" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_kill_loses_no_answer_and_a_stop_writes_the_file(browser, here) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/label"
    with command(port) as process:
        browser.get(url)
        until(browser, lambda: element(browser, "count").text == "0 of 24")
        for done in (1, 2, 3):
            press(browser, "1")
            until(browser, lambda done=done: element(browser, "count").text == f"{done} of 24")
        process.send_signal(signal.SIGKILL)  # as soon as the next question is seen
        assert process.wait(30) == -signal.SIGKILL
    third = text(browser)
    with command(port) as process:
        press(browser, "2")  # the page, still open, goes on where it was
        until(browser, lambda: element(browser, "count").text == "4 of 24")
        assert [answer for _, answer in kept()] == ["sport", "sport", "sport", "business"] and text(browser) != third
        browser.get("about:blank")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and "4 of 24 questions are answered: audit/answers.csv" in said
        assert "then: selftrain audit BUNDLE --documents FILE --out audit --answers audit/answers.csv" in said
    browser.get_log("browser")  # the lost connections are there, as they should be
    with Path("audit/answers.csv").open(newline="") as opened:
        assert [row["label"] for row in csv.DictReader(opened)][:5] == ["sport", "sport", "sport", "business", ""]
    assert main(["audit", "bundle", "--documents", "documents.csv", "--answers", "audit/answers.csv"]) == 0
    assert json.loads(Path("audit/audit.json").read_text())["asked"] == 4
