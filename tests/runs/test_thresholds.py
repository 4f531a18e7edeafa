"""`selftrain thresholds`: which classes get a threshold by the answers, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audits import questions, write
from several import CLASSES, truth_of

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card
from selftrain.cli import main
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.multi_label import thresholds_for
from selftrain.runs.thresholds import set_thresholds


def answers(*, films: int, separator: str = ",") -> list[dict[str, str]]:
    """All documents with their labels, but for those of most films."""
    rows, left = [], films
    for row in questions("documents.csv"):
        names = truth_of(row["text"])
        left -= names == ["film"]
        label = "" if names == ["film"] and left < 0 else f"{separator} ".join(names) or separator
        rows.append({"words": row["text"], "topics": label})
    return rows


def test_a_class_of_which_there_are_too_few_keeps_its_threshold(several_here, capsys) -> None:
    rows = answers(films=5)
    write(Path("answers.csv"), [*rows, rows[0], {"words": "nobody knows", "topics": "music"}])
    words = ["thresholds", "bundle", "--answers", "answers.csv", "--label-column", "topics", "--text-column", "words", "--risk", "0.2"]
    assert main(words) == 0
    said, card = capsys.readouterr().out.splitlines(), read_card("bundle")
    known = [row for row in rows if row["topics"]]
    truth = np.array([[name in truth_of(row["words"]) for name in CLASSES] for row in known])
    probabilities = Classifier.load("bundle", device="cpu").predict_proba([row["words"] for row in known])
    expected = thresholds_for(probabilities, truth, risk=0.2)
    assert card.thresholds == pytest.approx((expected[0].threshold, expected[1].threshold, 0.5)) and card.thresholds[0] != 0.5
    promise = card.found_labels
    assert (promise.risk, promise.level, promise.classes, promise.answers, promise.backend) == (0.2, 0.95, ("sport", "business"), 125, "torch")
    assert promise.missed == sum(one.missed for one in expected) > 0
    assert said[0] == f"sport: threshold {expected[0].threshold:.4f}, {expected[0].missed} of 60 answers that have the class are missed."
    assert said[2] == "film: no threshold for 20 %: 5 answers have the class, and it takes 19 even if none is missed."
    assert said[3] == "Rows with a label that is no class (skip is none either), which do not count: 1."
    assert said[4] == f"Promise: {promise.sentence}. It is kept in the bundle." and promise.sentence.startswith(
        "at most 20 % of the texts of a class"
    )


def test_too_few_answers_change_nothing(several_here, capsys) -> None:
    write(Path("answers.csv"), [row for row in answers(films=5) if row["topics"]][:12])
    before = Path("bundle/selftrain.json").read_bytes()
    found = set_thresholds(Path("bundle"), Path("answers.csv"), risk=0.2, label_column="topics", text_column="words")
    assert found.promise is None and found.text.endswith("\nNo threshold was changed.") and Path("bundle/selftrain.json").read_bytes() == before


def test_another_separator_is_another_way_to_write_the_same(several_here) -> None:
    made = []
    for separator in (",", "|"):
        write(Path("answers.csv"), answers(films=30, separator=separator))
        made.append(
            set_thresholds(
                Path("bundle"), Path("answers.csv"), risk=0.2, label_column="topics", text_column="words", separator=separator
            ).promise.model_dump(exclude={"made"})
        )
    assert made[0] == made[1] and made[0]["classes"] == CLASSES and made[0]["answers"] == 150


def test_what_cannot_be_asked_is_one_sentence(several_here, made) -> None:
    write(Path("answers.csv"), [row | {"topics": ""} for row in answers(films=5)])
    wanted = {"risk": 0.2, "label_column": "topics", "text_column": "words"}
    with pytest.raises(DataError, match=r"answers\.csv has no answer in the column 'topics'"):
        set_thresholds(Path("bundle"), Path("answers.csv"), **wanted)
    with pytest.raises(ConfigError, match="thresholds are for several labels a text, and the bundle toy gives one; audit it instead"):
        set_thresholds(made / "bundle", Path("answers.csv"), **wanted)
    for risk in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match=r"risk must be a share of missed labels above 0 and below 1, such as 0\.1 \(got"):
            set_thresholds(Path("bundle"), Path("answers.csv"), **wanted | {"risk": risk})
