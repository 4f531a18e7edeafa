import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from selftrain.evaluation import plots
from selftrain.evaluation.levels import scores_by_level
from selftrain.evaluation.naming.report import NamesFound, NameShown
from selftrain.evaluation.report import CAPTIONS, Findings, hardest_documents, render
from selftrain.evaluation.summary import summarise, text_table

ATTACK = '<script>alert("x")</script> & <img src=http://evil.example/a.png>'
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def findings() -> Findings:
    kept = {"document": ATTACK, "kind": "conditional", "label": "sport", "text": "The match was decided late. " * 40, "kept": True, "reason": None}
    dropped = {"document": "Shares fell", "kind": "input", "label": None, "text": "fell fell fell", "kept": False, "reason": "repeated"}
    likely = np.array([[0.95, 0.05], [0.51, 0.49], [0.1, 0.9]])
    hardest = hardest_documents(
        likely, np.array([1, 0, 1]), ["id0", "id1", "id2"], ["first text", ATTACK, "third text"], ["business", "sport"], count=1
    )
    shown = NameShown("business <b>", 0.62, 1.1, "sport", 0.9, ("shares", "<i>fell</i>"), ("Shares fell", ATTACK))
    empty = NameShown("sport", 0.0, 0.0, "business <b>", 0.0, (), ())
    names = NamesFound(300, 0.97, (shown, empty), ("No document is nearest to the name <b>'sport'</b>.",))
    return Findings(examples=[kept, dropped], hardest=hardest, names=names)


class Page(HTMLParser):
    """Tags with their attributes, the text that a reader sees, and whether every tag is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


@pytest.fixture(scope="module")
def pixel() -> dict[str, bytes]:
    return {"confusion": PIXEL, "my_own.png": PIXEL}


@pytest.mark.slow
def test_page_holds_all_that_it_shows(example, pixel):
    metrics = example()
    html = render(metrics, findings(), {**plots.from_metrics(metrics), **pixel})
    page = Page(html)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "srcset", "xlink:href") or (value or "").startswith(("data:image/", "#"))
    assert not re.search(r"url\((?!#)|@import|http:", html.replace("http://evil.example", ""))
    assert page.ids() == ["names", "variants", "pictures", "hardest", "asked", "happened", "examples", "cost", "serve", "origin"]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == [f"#{name}" for name in page.ids()]
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = {attributes["href"][1:] for _, attributes in page.tags if (attributes.get("href") or "").startswith("#")}
    assert len(names) == len(set(names)) and targets <= set(names)  # the ids of one picture are not those of another


def test_what_others_wrote_is_escaped(example):
    metrics = json.loads(json.dumps(example()).replace("sport", "<b>sport</b>").replace("genco", "<i>genco</i>"))
    metrics["run"]["command"] = "selftrain run <script>"
    html = render(metrics, findings(), {})
    assert "<script" not in html and "<b>sport" not in html and "<i>" not in html and "<img" not in html
    assert "&lt;script&gt;" in html
    assert ATTACK in Page(html).text


def test_class_names_come_first_with_warnings_and_typical_documents(example):
    text = Page(render(example(), findings(), {})).text
    section = text[text.index("Class names No document") : text.index("How good it is Variant")]
    assert "No document is nearest to the name <b>'sport'</b>." in section and "of 300 unlabeled documents" in section
    assert f"business <b> 62.0 % shares, <i>fell</i> Shares fell {ATTACK}" in section and "sport 0.0 %" in section


def test_numbers_of_the_page_are_those_of_the_metrics(example):
    metrics = example()
    page = Page(render(metrics, findings(), {}))
    for entry in metrics["summary"]:
        assert f"{entry['accuracy']['mean']:.3f} ± {entry['accuracy']['std']:.3f}" in page.text
    genco = next(entry for entry in metrics["summary"] if entry["variant"] == "genco")
    zero = next(entry for entry in metrics["summary"] if entry["variant"] == "zero-shot encoder")
    assert f"genco reached an accuracy of {genco['accuracy']['mean']:.3f} ± " in page.text
    assert f"without having seen a label; zero-shot encoder reached {zero['accuracy']['mean']:.3f} ± " in page.text
    assert "65,120 tokens from 201,400 tokens of prompts" in page.text
    assert "190,000 tokens of prompts and 64,000 of texts; 0.20 hours, 0.15 GPU-hours; 1.25 EUR" in page.text
    assert "0.14 hours, 0.12 GPU-hours" in page.text and "none: the price file has no teacher 'writer'" in page.text
    assert "8 min 37 s" in page.text  # 517.3 seconds
    assert "duplicate 99 0, 17, 34" in page.text and "323 and 79 more" in page.text  # 20 of the skipped rows are listed
    assert "1 March 2026, 10:15 UTC" in page.text


def test_best_row_is_bold_and_bounds_are_marked(example):
    html = render(example(), Findings(), {})
    assert html.count('<tr class="best">') == 1 and html.count('<tr class="bound">') == 1
    bound = html[html.index('<tr class="bound">') :]
    assert bound.index("supervised on all labels") < bound.index("</tr>")


@pytest.mark.parametrize("classes", [2, 40])
def test_without_labels_and_language_model_and_with_one_seed(example, classes):
    metrics = example(labeled=False, llm=False, seeds=(0,), classes=classes)
    metrics["data"]["skipped"], metrics["data"]["skipped_rows"], metrics["registered"] = {}, [], None
    page = Page(render(metrics, Findings(), plots.from_metrics(metrics)))
    assert page.ids() == ["variants", "asked", "happened", "cost", "serve", "origin"]
    assert "no true labels" in page.text and "The run used no language model." in page.text
    assert not re.search(r"Accuracy|F1|±|None\b(?!\.)|nan", page.text)
    for name, count in metrics["rows"][0]["predicted"].items():
        assert f"{name} {count}" in page.text


def test_a_run_that_measured_nothing(example):
    metrics = example()
    metrics["rows"], metrics["summary"], metrics["stages"] = [], [], []
    assert "Nothing was measured." in Page(render(metrics, Findings(), {})).text


@pytest.mark.slow
def test_pictures_keep_their_order_and_kind(example, pixel):
    drawn = plots.confusion([[1, 0], [0, 1]], ["a", "b"])
    page = Page(render(example(), Findings(), {"reliability": drawn, **pixel}))
    shown = [(tag, attributes) for tag, attributes in page.tags if tag == "img" or attributes.get("role") == "img"]
    assert [tag for tag, _ in shown] == ["svg", "img", "img"]
    assert [attributes.get("alt") or attributes["aria-label"] for _, attributes in shown] == [
        CAPTIONS["reliability"],
        CAPTIONS["confusion"],
        "My own.",
    ]
    assert base64.b64decode(shown[1][1]["src"].split(",", 1)[1]) == PIXEL and shown[1][1]["width"] == "1"
    with pytest.raises(ValueError, match="'notes' is neither PNG nor SVG"):
        render(example(), Findings(), {"notes": b"GIF89a"})


def test_the_page_begins_with_how_good_it_is(example):
    metrics = example()
    genco = next(entry for entry in metrics["summary"] if entry["variant"] == "genco")
    text = Page(render(metrics, Findings(), {})).text
    large = f"{genco['accuracy']['mean']:.3f} ± {genco['accuracy']['std']:.3f} accuracy genco, 300 test documents, mean of 3 seeds"
    assert large in text and text.index(large) < text.index("Macro-F1") < text.index("Command")
    unknown = Page(render(example(labeled=False, seeds=(0,)), Findings(), {})).text
    assert "300 documents labeled True labels are not known" in unknown and "mean confidence" in unknown


def test_the_accuracy_stands_beside_the_variant(example):
    """On a phone the first two columns are in sight."""
    head = render(example(), Findings(), {}).split('<th class="name">Variant</th>', 1)[1]
    assert head.lstrip().startswith('<th class="number">Accuracy</th>')


def test_examples_are_folded(example):
    page = render(example(), findings(), {})
    assert page.index("<details>") < page.index("2 examples, 1 of them kept") < page.index("The match was decided late.")


def test_every_picture_of_this_package_has_a_caption():
    drawn = {name for name, value in vars(plots).items() if hasattr(value, "__wrapped__") and value.__module__ == plots.__name__}
    assert drawn == (set(CAPTIONS) - {"accuracy_per_round"}) | {"per_round"}


def test_hardest_documents_by_hand():
    likely = np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.2, 0.8, 0.0], [0.5, 0.3, 0.2]])
    found = hardest_documents(likely, np.array([1, 0, 2, 0]), list("abcd"), ["A", "B", "C", "D"], ["x", "y", "z"], count=2)
    assert [(entry["id"], entry["why"], entry["label"], entry["predicted"]) for entry in found] == [
        ("a", "wrong", "y", "x"),
        ("c", "wrong", "z", "y"),
        ("b", "undecided", "x", "x"),
        ("d", "undecided", "x", "x"),
    ]
    assert (found[0]["probability"], found[2]["margin"]) == (pytest.approx(0.9), pytest.approx(0.05))
    unlabeled = hardest_documents(likely, None, list("abcd"), ["A", "B", "C", "D"], ["x", "y", "z"], count=1)
    assert [(entry["id"], entry["why"], entry["label"]) for entry in unlabeled] == [("b", "undecided", None)]


def test_classes_of_a_tree_stand_below_their_groups(example):
    metrics = example(classes=3, seeds=(0,), documents=40, llm=False)
    parents = [["money", "firms"], ["free time"], []]
    metrics["asked"]["parents"] = parents
    for row in metrics["rows"]:
        labels = np.arange(40) % 3
        likely = np.eye(3)[np.where(np.arange(40) < 30, labels, 2)]
        row["levels"] = scores_by_level(likely, labels, metrics["asked"]["classes"], parents)
        row["predicted"] = {"business": 10, "entertainment": 10, "politics": 20}
    metrics["summary"] = summarise(metrics["rows"])
    assert [entry["mean"] for entry in metrics["summary"][0]["levels"]] == [0.825, 0.825]
    head, _, first, *_ = text_table(metrics["summary"]).splitlines()
    assert first[head.index("groups, level 2") :].startswith("0.825")
    page = render(metrics, findings(), {})
    section = page[page.index("<h3>Classes") : page.index("What was asked</h2>")]
    assert re.findall(r"<td( style[^>]*)?>(?:<strong>)?(money|firms|business|free time|entertainment|politics)<", section) == [
        ("", "money"),
        (' style="padding-left: 1.2em"', "firms"),
        (' style="padding-left: 2.4em"', "business"),
        ("", "free time"),
        (' style="padding-left: 1.2em"', "entertainment"),
        ("", "politics"),
    ]
    assert "Groups, level 1" in page and page.count("0.825") >= 2 and not Page(page).open
    assert "Groups" not in render(example(classes=3, seeds=(0,), documents=40, llm=False), findings(), {})
