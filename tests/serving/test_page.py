"""The web page in a real headless Chromium, which asks a real endpoint. Where there is no Chromium, root installs Debian's; else these tests are skipped."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from pathlib import Path

import pytest
from chromium import element, until
from completions import completions
from endpoint import endpoint, known_texts, make_bundle
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from selftrain.bundle.classifier import Classifier
from selftrain.serving.language_model import Augmentation
from selftrain.serving.models import ModelSource

TOKEN = "0123456789abcdef-token"
DARK = "return getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def served(bundle, other_bundle):
    with endpoint(ModelSource(bundle=str(bundle)), ModelSource(bundle=str(other_bundle), version="2")) as local:
        yield local


@pytest.fixture
def page(browser, served):
    browser.get(served.url)
    until(browser, lambda: "Live: news" in element(browser, "live").text)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def bars(box) -> list[tuple[str, float, float]]:
    """(label, written percent, percent of the bar's width) of the bars in `box`, the folded ones too."""
    for folded in box.find_elements(By.TAG_NAME, "details"):
        folded.find_element(By.TAG_NAME, "summary").click()
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


def test_a_text_that_fits_no_class_is_said_to(page, browser, tmp_path) -> None:
    assert not element(page, "none").is_displayed()
    with endpoint(ModelSource(bundle=str(make_bundle(tmp_path / "known", known=known_texts())))) as local:
        browser.get(local.url)
        until(browser, lambda: element(browser, "none").is_displayed())
        assert "5.0 % of texts like the known documents" in element(browser, "none-how").text
        element(browser, "none").click()
        element(browser, "texts").send_keys("<script>alert(9)</script>", Keys.ENTER, known_texts(1)[0])
        element(browser, "classify").click()
        until(browser, lambda: element(browser, "said").text.startswith("2 texts"))
        none, fits = (one.text for one in browser.find_elements(By.TAG_NAME, "article"))
        assert "None of these: 0.4 % of the known documents are as strange." in none and "None of these" not in fits
        file = tmp_path / "nonsense.csv"
        file.write_text("text\n<script>alert(9)</script>\n")
        element(browser, "file").send_keys(str(file))
        until(browser, lambda: element(browser, "label").is_enabled())
        element(browser, "label").click()
        until(browser, lambda: element(browser, "download").is_displayed())
        _, (row,) = rows_of(browser, file)
        assert (row["label"], row["error"], row["none_of_these"]) == ("", "", "true") and float(row["typicality"]) < 0.01
        browser.get("about:blank")  # before the server ends


def test_two_models_are_compared_on_the_same_text(page) -> None:
    element(page, "texts").send_keys("music at the bank")
    Select(element(page, "other")).select_by_value("other@2")
    element(page, "classify").click()
    until(page, lambda: "and other, version 2" in element(page, "said").text)
    left, right = page.find_elements(By.CSS_SELECTOR, "article .columns > div")
    assert left.find_element(By.TAG_NAME, "h3").text == "news, built May 6, 2024" and right.find_element(By.TAG_NAME, "h3").text == "other, version 2"
    assert page.find_element(By.CSS_SELECTOR, "article.differs .badge").text == "The models disagree"  # their classes have no name in common
    assert element(page, "said").text.endswith("they disagree on 1.")
    assert {label for label, _, _ in bars(left)} == {"sport", "tech", "politics"} and {label for label, _, _ in bars(right)} == {"bank", "music"}


def test_continuations_are_offered_where_there_is_a_language_model(page, bundle) -> None:
    assert not element(page, "augment").is_displayed()
    with completions() as writer, endpoint(ModelSource(bundle=str(bundle)), augmentation=Augmentation(url=writer.url)) as local:
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


def test_a_model_is_never_compared_with_itself(page, bundle) -> None:
    assert [one.text for one in Select(element(page, "model")).options] == ["news, built May 6, 2024 (default)", "other, version 2"]
    assert [one.get_attribute("value") for one in Select(element(page, "other")).options] == ["", "other@2"]
    Select(element(page, "model")).select_by_value("other@2")
    assert [one.text for one in Select(element(page, "other")).options] == ["nothing", "news, built May 6, 2024"]
    assert "T07:08" not in page.find_element(By.TAG_NAME, "body").text
    with endpoint(ModelSource(bundle=str(bundle))) as local:
        page.get(local.url)
        until(page, lambda: "Live: news" in element(page, "live").text)
        assert not element(page, "other").is_displayed()
        page.get("about:blank")  # before the server goes


def test_the_whole_box_may_be_one_text(page, bundle) -> None:
    mail = "the team won\n\nthe minister lost the vote"
    assert element(page, "texts-label").text == "One text a line"
    element(page, "whole").click()
    assert element(page, "texts-label").text == "One text"
    element(page, "texts").send_keys(mail, Keys.CONTROL + Keys.ENTER)
    until(page, lambda: element(page, "said").text.startswith("1 text by news"))
    (article,) = page.find_elements(By.TAG_NAME, "article")
    assert article.find_element(By.CLASS_NAME, "text").text == mail
    assert bars(article)[0][0] == Classifier.load(bundle, device="cpu").predict([mail])[0]


def test_a_long_text_is_clamped_until_it_is_asked_for(page) -> None:
    page.execute_script("arguments[0].value = 'a phone\\n' + 'the match '.repeat(400)", element(page, "texts"))
    element(page, "classify").click()
    until(page, lambda: element(page, "said").text.startswith("2 texts"))
    short, long = page.find_elements(By.CSS_SELECTOR, "article .text")
    assert len(page.find_elements(By.CSS_SELECTOR, "article button")) == 1 and "clamped" not in short.get_attribute("class")
    clamped, button = long.size["height"], page.find_element(By.CSS_SELECTOR, "article button")
    button.send_keys(Keys.ENTER)
    assert long.size["height"] > 2 * clamped and button.text == "Show less" and button.get_attribute("aria-expanded") == "true"
    button.send_keys(Keys.ENTER)
    assert long.size["height"] == clamped and button.get_attribute("aria-expanded") == "false"


def test_classes_without_a_share_are_folded(page) -> None:
    page.execute_script(
        "document.getElementById('answers').append(verdict({label: 'a', probability: .6, probabilities:"
        "{a: .6, b: .2, c: .1, d: .05, e: .03, f: .015, g: .004, h: .0004}}), verdict({label: 'a', probability: 1, probabilities: {a: 1, b: 0}}))"
    )
    first, second = page.find_elements(By.CSS_SELECTOR, "#answers > div")
    assert [one.find_element(By.TAG_NAME, "summary").text for one in (first, second)] == ["2 more, each at most 0.4 %", "1 more, each below 0.1 %"]
    shown = [one for one in first.find_elements(By.CLASS_NAME, "bar") if one.is_displayed()]
    assert len(shown) == 6 and "first" in shown[0].get_attribute("class") and shown[0].text.split("\n") == ["a", "60.0 %"]
    assert [label for label, _, _ in bars(first)] == list("abcdefgh")


def test_an_example_needs_one_click(page) -> None:
    element(page, "example").click()
    until(page, lambda: element(page, "said").text.startswith("3 texts by news"))
    assert element(page, "texts").get_attribute("value").split("\n")[0] == "I am writing to you about sport."


def test_the_request_is_copied_for_a_terminal(page) -> None:
    element(page, "texts").send_keys("it's a phone", Keys.ENTER, "the match")
    element(page, "copy").click()
    until(page, lambda: element(page, "copied").text)
    command = element(page, "curl").text
    answer = json.loads(subprocess.run(command, shell=True, capture_output=True, check=True, timeout=60).stdout)
    assert answer["model"]["name"] == "news" and len(answer["results"]) == 2
    assert page.execute_script("return getSelection().toString()") in ("", command)


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


def rows_of(page, file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of the labeled file that the page offers."""
    element(page, "download").click()
    labeled = page.downloads / f"{file.stem}-labeled.csv"
    until(page, labeled.exists)
    with open(labeled, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    return list(reader.fieldnames or ()), rows


def test_two_models_are_compared_on_a_file(page, bundle, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("compared")
    again = make_bundle(folder / "again", seed=5, name="again")
    file = folder / "compared.csv"
    texts = [f"text {number} about a {word}" for number in range(20) for word in ("match", "phone", "vote")]
    file.write_text("number,text\n" + "\n".join(f"{number},{text}" for number, text in enumerate([*texts, ""])) + "\n", encoding="utf-8")
    with endpoint(ModelSource(bundle=str(bundle), version="3"), ModelSource(bundle=str(again), version="1")) as local:
        page.get(local.url)
        until(page, lambda: "Live: news, version 3" in element(page, "live").text)
        Select(element(page, "other")).select_by_value("again@1")
        element(page, "file").send_keys(str(file))
        until(page, lambda: "61 rows" in element(page, "file-said").text)
        element(page, "label").click()
        until(page, lambda: "rows done" in element(page, "file-said").text)
        names, rows = rows_of(page, file)
        assert names == ["number", "text", "label", "probability", "error", "compared_label", "compared_probability", "agree"]
        own, other = (Classifier.load(one, device="cpu").predict(texts).tolist() for one in (bundle, again))
        assert [(row["label"], row["compared_label"]) for row in rows[:60]] == list(zip(own, other, strict=True))
        assert [row["agree"] for row in rows] == ["yes" if one == two else "no" for one, two in zip(own, other, strict=True)] + [""]
        agreed = sum(one == two for one, two in zip(own, other, strict=True))
        assert 0 < agreed < 60 and f"The models agree on {agreed} of 60 rows." in element(page, "file-said").text
        first = page.find_element(By.CSS_SELECTOR, "#differences li").text
        place = next(index for index in range(60) if own[index] != other[index])
        assert first == f"Row {place + 1}: {own[place]} or {other[place]}? {texts[place]}"
        page.get("about:blank")  # before the server goes


def test_finished_rows_are_kept_after_stop(page, tmp_path: Path) -> None:
    file = tmp_path / "stopped.csv"
    file.write_text("text\n" + "a phone\n" * 1000, encoding="utf-8")
    element(page, "file").send_keys(str(file))
    until(page, lambda: "1000 rows" in element(page, "file-said").text)
    # Stop as soon as the first answers are there.
    page.execute_script(
        "new MutationObserver(() => { if (/^[1-9]/.test(document.getElementById('file-said').textContent)) document.getElementById('stop').click(); })"
        ".observe(document.getElementById('file-said'), {childList: true});"
    )
    element(page, "label").click()
    until(page, lambda: element(page, "file-said").text.startswith("Stopped after "))
    done = int(element(page, "file-said").text.split()[2])
    _, rows = rows_of(page, file)
    assert 0 < done < 1000 and len(rows) == 1000
    assert [bool(row["label"]) for row in rows].count(True) == done
    assert {(row["label"], row["probability"]) for row in rows if row["error"]} == {("", "")}
    assert [row["error"] for row in rows].count("not labeled") == 1000 - done


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
    assert not element(page, "column-box").is_displayed() and not element(page, "label").is_enabled()


def test_a_file_can_be_dropped(page) -> None:
    page.execute_script(
        "const data = new DataTransfer(); data.items.add(new File(['text;id\\na phone;1\\n'], 'dropped.csv'));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));"
    )
    until(page, lambda: "dropped.csv: 1 row. The first text: “a phone”" in element(page, "file-said").text)
    assert [one.text for one in Select(element(page, "column")).options] == ["text", "id"]


def test_it_is_readable_on_a_phone_and_in_the_dark(page) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    element(page, "texts").send_keys("a phone")
    element(page, "classify").click()
    until(page, lambda: element(page, "said").text.startswith("1 text"))
    assert element(page, "classify").size["height"] >= 40  # a finger finds it
    boxes = page.execute_script("return [...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right)")
    assert max(boxes) <= 360
    colours = []
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        colours.append(page.execute_script(DARK))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_every_control_has_a_name(page) -> None:
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, select, textarea, progress')].filter(one => !one.getAttribute('aria-label')"
        " && !(one.labels && one.labels.length) && !one.textContent.trim()).map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_a_token_is_asked_for_and_kept_in_memory_only(browser, bundle) -> None:
    with endpoint(ModelSource(bundle=str(bundle)), token=TOKEN.encode()) as local:
        browser.get(local.url)
        until(browser, lambda: element(browser, "token").is_displayed() and "needs a token" in element(browser, "live").text)
        element(browser, "token").send_keys(TOKEN, Keys.ENTER)
        until(browser, lambda: "Live: news" in element(browser, "live").text)
        element(browser, "texts").send_keys("a phone", Keys.CONTROL + Keys.ENTER)
        until(browser, lambda: element(browser, "said").text.startswith("1 text by news"))
        element(browser, "copy").click()
        until(browser, lambda: "Bearer $SELFTRAIN_SERVE_TOKEN" in element(browser, "curl").text)
        kept = browser.execute_script(
            "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.body.innerHTML])"
        )
        assert TOKEN not in kept
        browser.refresh()
        until(browser, lambda: element(browser, "token").is_displayed())
        browser.get_log("browser")  # the refusals are there, as they should be


def test_groups_stand_below_the_label_and_in_the_labeled_file(page, tmp_path) -> None:
    parents = [["free time"], ["work"], ["work"]]
    tree = make_bundle(tmp_path / "tree", parents=parents)
    (row,) = Classifier.load(tree, device="cpu").predict_proba(["a phone"])
    group = dict(zip(("sport", "tech", "politics"), (above for (above,) in parents), strict=True))[("sport", "tech", "politics")[row.argmax()]]
    share = row[0] if group == "free time" else row[1] + row[2]
    with endpoint(ModelSource(bundle=str(tree))) as local:
        page.get(local.url)
        until(page, lambda: "Live: news" in element(page, "live").text)
        element(page, "texts").send_keys("a phone", Keys.CONTROL + Keys.ENTER)
        until(page, lambda: element(page, "said").text.startswith("1 text by news"))
        assert page.find_element(By.CSS_SELECTOR, "article .soft.small").text == f"in {group} {100 * share:.1f} %"
        lines = page.execute_script(
            "return labeled([['text'], ['a'], ['b']], [[{label: 'tech', probability: .5, parents: {work: .75, office: .5}}, {error: 'empty'}]], ['m'])"
        )
        assert lines == [["text", "label", "probability", "error", "parents"], ["a", "tech", "0.5", "", "work / office"], ["b", "", "", "empty", ""]]
        page.get("about:blank")  # before the server goes
