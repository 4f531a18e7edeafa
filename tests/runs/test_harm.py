"""Runs that decide by themselves: texts about another class than the one that was asked for, texts that are right, and a training that spoils what it began with."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from completions import choices, completions
from light_runs import described, furnish

from selftrain.bundle.classifier import Classifier
from selftrain.runs.run import run

OTHER = {"sport": "business", "business": "sport"}


def writer(right):
    """Texts that read like the prompts of a class; a continuation names none."""

    def reply(body):
        _, asked, description = body["prompt"].rpartition("In terms of ")
        if not asked:
            return choices(body, ["And it went on and on."] * body.get("n", 1), "stop")
        name = description.rstrip(",")
        return choices(body, [f"It is about {name if right else OTHER[name]}."] * body.get("n", 1), "stop")

    return reply


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return furnish(tmp_path_factory.mktemp("home"))


def ran(home, right):
    with completions(writer(right)) as server:
        experiment = described(
            home,
            "head",
            data={"source": str(home / "documents.jsonl"), "label_column": "label", "classes": ["sport", "business"], "test_documents": 20},
            method={"name": "genco", "rounds": 2, "steps_per_round": 2, "text_check": 0.5},
            augment={"server": server.url, "model": "writer", "cache": str(home / f"texts-{right}")},
            variants={"equation 5": {"method": {"input_augmentation": False, "conditional_augmentation": False}}},
        )
        return run(experiment)


def said(result):
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    report = (result.folder / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    rows = {row["variant"]: row for row in result.metrics["rows"]}
    return result.metrics["decisions"], {event["event"]: event for event in events}, report, rows


def test_texts_on_another_class_are_not_used_and_log_metrics_and_report_say_so(home):
    decisions, events, report, rows = said(ran(home, right=False))
    (decision,) = decisions
    assert (decision["variant"], decision["question"], decision["used"]) == ("genco", "texts", False)
    assert "The language model's texts were not used: the encoder as it was files 0.000 of the first round's" in decision["why"]
    assert events["texts not used"]["why"] == decision["why"] and "texts used" not in events
    header = report.split("</header>")[0]
    assert decision["why"] in header and report.count(decision["why"]) == 2
    assert rows["genco"]["scores"] == rows["equation 5"]["scores"]  # to the last digit


def test_texts_on_their_class_are_used_and_the_report_says_why(home):
    decisions, events, report, rows = said(ran(home, right=True))
    (decision,) = decisions
    assert decision["used"] and "files 1.000 of the first round's" in decision["why"] and events["texts used"]["why"] == decision["why"]
    assert decision["why"] not in report.split("</header>")[0] and report.count(decision["why"]) == 1
    assert rows["genco"]["scores"] != rows["equation 5"]["scores"]


def test_a_training_that_spoils_its_start_hands_over_the_start_and_says_so(home):
    names = ["the team and its coach won", "the bank lost profit"]  # documents begin with them
    documents = [(name, f"{name} {n}") for name in names for n in range(80)]
    (home / "many.jsonl").write_text("\n".join(json.dumps({"text": text}) for _, text in documents), encoding="utf-8")
    experiment = described(
        home,
        "head",
        data={"source": str(home / "many.jsonl"), "classes": names, "prompts": ["{label}"], "test_documents": 0},
        method={
            "name": "genco",
            "rounds": 2,
            "steps_per_round": 5,
            "learning_rate": 1e3,
            "input_augmentation": False,
            "conditional_augmentation": False,
        },
        variants={"zero-shot": {"method": {"rounds": 0}}, "unchecked": {"method": {"start_check": False}}},
    )
    result = run(experiment)
    decisions, events, report, rows = said(result)
    (decision,) = decisions
    assert (decision["variant"], decision["question"], decision["used"]) == ("genco", "training", False)
    assert events["training not used"]["why"] == decision["why"] and decision["why"] in report.split("</header>")[0]
    assert rows["genco"]["predicted"] == rows["zero-shot"]["predicted"] != rows["unchecked"]["predicted"]
    bundled = Counter(Classifier.load(result.bundle).predict([text for _, text in documents]))
    assert bundled == rows["zero-shot"]["predicted"]
