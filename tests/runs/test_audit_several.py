"""An audit of several labels a document, from the command line and from the desk of the labelling page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audits import csv_rows, questions, write
from several import CLASSES, answered_sets, truth_of

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card, restate
from selftrain.cli import main
from selftrain.data.label_sets import cell_of, labels_in, separator_for
from selftrain.errors import ConfigError, DataError
from selftrain.runs.audit_design import SeveralDesign, read_any_design
from selftrain.runs.labelling.comparing import compare
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import Folder, open_folder
from selftrain.runs.labelling.training import plan_training

ONE = "browser-one"
PLAN = ["audit", "bundle", "--documents", "documents.csv"]
READ = [*PLAN, "--answers", "answers.csv"]


@pytest.fixture
def folder(several_here) -> Folder:
    return open_folder(Path("audit"))


def fails(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("selftrain: ") and len(said.strip().splitlines()) == 1
    return said


def test_questions_are_a_simple_random_sample_and_the_design_says_what_was_predicted(several_here, capsys) -> None:
    design = read_any_design(Path("audit"))
    assert isinstance(design, SeveralDesign)
    assert (design.planned, design.population, design.separator, design.thresholds) == (24, 150, ",", (0.5, 0.5, 0.5))
    texts = [row["text"] for row in questions("documents.csv")]
    found = Classifier.load("bundle", device="cpu").predict_proba(texts) >= 0.5
    assert design.predicted == tuple(found.sum(axis=0)) and len(design.questions) == 150
    said = dict(zip(texts, found, strict=True))
    for row, question in zip(questions(), design.questions, strict=False):
        assert row["label"] == "" and question.labels == tuple(np.flatnonzero(said[row["text"]]))
    assert main([*PLAN, "--budget", "24", "--seed", "1", "--out", "other"]) == 0
    assert "sport, business, film (several with ',' in between); or 'none of these', or 'skip'" in capsys.readouterr().out
    assert {row["text"] for row in questions("other/questions.csv")} != {row["text"] for row in questions()}


def test_answers_give_the_figures_of_every_class(several_here, capsys) -> None:
    write(several_here / "answers.csv", answered_sets(q2="SKIP", q3="none of these", q4="film,Sport"))
    assert main(READ) == 0
    said, found = capsys.readouterr().out, json.loads(Path("audit/audit.json").read_text())
    design = read_any_design(Path("audit"))
    truth = [{CLASSES.index(name) for name in truth_of(row["text"])} for row in questions()]
    truth[2:4] = [set(), {0, 2}]
    pairs = [(set(question.labels), labels) for place, (question, labels) in enumerate(zip(design.questions, truth, strict=False)) if place != 1]
    assert (found["asked"], found["skipped"], found["anytime"], found["documents"]) == (24, 1, False, 150)
    assert found["exact_match"]["estimate"] == pytest.approx(np.mean([one == other for one, other in pairs]))
    right, labels = (sum(len(of(one, other)) for one, other in pairs) for of in (set.intersection, lambda one, other: [*one, *other]))
    assert found["micro_f1"]["estimate"] == pytest.approx(2 * right / labels) and 0.4 < 2 * right / labels < 1
    assert found["none_of_these"]["estimate"] == pytest.approx(np.mean([not other for _, other in pairs]))
    for place, one in enumerate(found["classes"]):
        predicted = [place in other for mine, other in pairs if place in mine]
        assert one["name"] == CLASSES[place] and one["predicted"] == pytest.approx(design.predicted[place] / 150)
        assert one["precision"]["estimate"] == pytest.approx(np.mean(predicted))
        assert one["share"]["estimate"] == pytest.approx(np.mean([place in other for _, other in pairs]))
        assert one["recall"]["low"] <= one["recall"]["estimate"] <= one["recall"]["high"]
    assert said.startswith("exact match 0.") and "\nmicro-F1 0." in said and "counted as wrong" not in said
    assert said.split("\n\nreport")[0] in Path("audit/audit.md").read_text()


def test_further_questions_keep_the_answers_as_they_were(several_here) -> None:
    write(several_here / "answers.csv", answered_sets(q1="skip", q2=",", q3="film,Sport"))
    assert main([*READ, "--budget", "40"]) == 0
    more = questions("audit/questions-40.csv")
    assert [row["label"] for row in more[:3]] == ["skip", ",", "sport, film"] and len(more) == 40 and more[24]["label"] == ""
    assert [labels_in(row["label"], ",") for row in more[3:24]] == [truth_of(row["text"]) for row in more[3:24]]
    opened = open_folder(Path("audit"))
    assert len(opened.questions) == 40 and list(opened.given.values())[:2] == ["skip", "none of these"]


def test_what_does_not_fit_is_one_sentence(several_here, capsys) -> None:
    assert "--promise is for one label a text, and the bundle several gives several; leave it out: `selftrain thresholds` promises" in fails(
        capsys, *PLAN, "--out", "new", "--promise", "0.1"
    )
    assert "--none-of-these is for one label a text" in fails(capsys, *READ, "--none-of-these", "0.1")
    assert "--budget must be at most 150, the number of different documents (got 151)" in fails(capsys, *PLAN, "--out", "new", "--budget", "151")
    assert not Path("new").exists()
    write(several_here / "answers.csv", answered_sets(q3="sport, sprot"))
    assert "has the label 'sport, sprot', which is no class; did you mean 'sport'?" in fails(capsys, *READ)
    write(several_here / "answers.csv", answered_sets())
    assert "--budget must be at most 150, the questions of this design (got 151)" in fails(capsys, *READ, "--budget", "151")
    card = read_card("bundle")
    restate(Path("bundle"), card.model_copy(update={"thresholds": (0.5, 0.4, 0.5)}))
    assert "has other thresholds than when the audit in" in fails(capsys, *READ)
    with pytest.raises(ConfigError, match="training answers are for one label a text"):
        plan_training(Path("bundle"), "documents.csv", Path("new"))
    with pytest.raises(DataError, match="audit holds no audit of one label a document"):
        compare(Path("bundle"), Path("audit"), frozenset())


@pytest.mark.parametrize(
    "change",
    [
        {"predicted": [1, 2]},
        {"thresholds": [0.5]},
        {"population": 100},
        {"predicted": [0, 60, 60]},
        {"separator": ""},
        {"questions": [{"id": "x", "labels": [3]}]},
        {"questions": [{"id": "x", "labels": [0]}, {"id": "x", "labels": [0]}]},
    ],
)
def test_a_design_whose_numbers_do_not_fit_is_damaged(several_here, capsys, change) -> None:
    file = Path("audit/design.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    write(several_here / "answers.csv", answered_sets())
    assert "design.json is damaged" in fails(capsys, *READ)


def test_the_two_kinds_of_audits_are_not_mixed(several_here, made, capsys) -> None:
    write(several_here / "answers.csv", answered_sets())
    other = ["audit", str(made / "bundle"), "--documents", "documents.csv", "--answers", "answers.csv", "--out", "audit"]
    assert "--out 'audit' holds an audit of several labels a document; set the folder of one of a single label" in fails(capsys, *other)
    assert "holds an audit of one label a document, and the bundle several gives several" in fails(capsys, *READ, "--out", str(made / "audit"))


def test_the_desk_keeps_sets_and_its_file_is_read_by_audit_and_thresholds(folder, capsys) -> None:
    desk = Desk(folder)
    given = [truth_of(row["text"]) for row in questions()]
    given[0] = "skip"
    keys = [row["id"] for row in questions()]
    for key, answer in zip(keys, given, strict=True):
        desk.next(ONE)
        desk.answer(ONE, key, answer if answer == "skip" else answer[::-1])
    kept = desk.answers()
    assert set(kept.values()) == {"skip", "none of these", "sport", "business", "film", "sport, business"}
    assert desk.undo(ONE, keys[-1]).before == kept[keys[-1]]
    desk.answer(ONE, keys[-1], given[-1])
    assert Desk(open_folder(Path("audit"))).answers() == kept  # the journal is one of this folder
    figure, anytime = folder.accuracy(kept)
    assert not anytime and folder.accuracy({}) is None
    file = folder.write(kept)
    rows = csv_rows(file.read_text())
    assert [labels_in(row["label"], ",") for row in rows[1:]] == given[1:] and rows[0]["label"] == "skip"
    assert {row["label"] for row in rows if not truth_of(row["text"])} <= {",", "skip"}
    assert main([*PLAN, "--answers", str(file)]) == 0
    found = json.loads(Path("audit/audit.json").read_text())["exact_match"]
    assert (figure.estimate, figure.low, figure.high) == tuple(found[name] for name in ("estimate", "low", "high"))
    capsys.readouterr()
    assert main(["thresholds", "bundle", "--answers", str(file), "--label-column", "label", "--risk", "0.5"]) == 0
    said, promise = capsys.readouterr().out, read_card("bundle").found_labels
    assert "Rows with a label that is no class (skip is none either), which do not count: 1." in said and promise.answers == 23


def test_what_is_no_answer_is_refused_and_nothing_is_kept(folder) -> None:
    desk = Desk(folder)
    key = desk.next(ONE).question.key
    for wrong in ("sport", "sport, business", ["sport", "sprot"], ["skip"], ["none of these"]):
        with pytest.raises(DataError, match="answer must be a list of sport, business, film; or one of none of these, skip"):
            desk.answer(ONE, key, wrong)
    assert not (folder.path / "answers.jsonl").exists()
    for line in ("sport, sprot", "", "sport; business", "sport, skip"):
        (folder.path / "answers.jsonl").write_text(json.dumps({"question": key, "answer": line, "browser": ONE}) + "\n")
        with pytest.raises(DataError, match=r"answers\.jsonl holds answers to other questions, or is damaged"):
            Desk(folder)


def test_answers_of_the_file_stand_and_are_not_asked_again(several_here, capsys) -> None:
    write(several_here / "audit/questions.csv", answered_sets(3, q1="Business , SPORT", q2="none of these", q3="skip"))
    desk = Desk(open_folder(Path("audit")))
    assert list(desk.answers().values()) == ["sport, business", "none of these", "skip"] and desk.next(ONE).question.key == questions()[3]["id"]
    write(several_here / "audit/questions.csv", answered_sets(3, q2="sport, skip"))
    assert "has the label 'sport, skip', which is no class" in fails(capsys, "label", "audit")


def test_the_command_says_which_commands_use_the_answers(several_here, monkeypatch, capsys) -> None:
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    monkeypatch.setattr("selftrain.serving.label_server.checked_token", lambda *_, **__: None)
    write(several_here / "audit/questions.csv", answered_sets(3))
    assert main(["label", "audit"]) == 0
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("then: ")]
    assert first == "then: selftrain audit BUNDLE --documents FILE --out audit --answers audit/answers.csv"
    assert second == "then: selftrain thresholds BUNDLE --answers audit/answers.csv --label-column label"


def test_a_class_with_a_comma_gets_another_sign() -> None:
    assert [separator_for(names) for names in (["a", "b"], ["a, b", "c"], ["a,", "b;"], [",;|/"])] == [",", ";", "|", "||"]
    assert (cell_of(["a, b", "c"], ";"), labels_in("a, b; c", ";"), cell_of([], ";"), labels_in(";", ";")) == ("a, b; c", ["a, b", "c"], ";", [])
