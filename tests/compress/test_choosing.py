"""One command from a teacher to the champion: which student is taken, which is not, and what is left of a command that was stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from scipy.stats import norm
from taught import file_of

from selftrain.bundle.backends import read_record
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import read_card
from selftrain.cli import main
from selftrain.compress import distill as distilling
from selftrain.compress import onnx as compiling
from selftrain.compress import students, tiers
from selftrain.compress.choosing import choose
from selftrain.compress.tiers import Measured
from selftrain.errors import ServiceError
from selftrain.evaluation.tiers import Tier
from selftrain.evaluation.tolerance import enough, fewest, loss, smallest
from selftrain.tracking import champion_bundle

RATES = {"torch": 10.0, "onnx": 20.0, "onnx-int8": 30.0, "numpy": 1000.0}  # texts a second: a clock would choose another one every time


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tiers, "speed", lambda classifier, texts: RATES[classifier.backend])
    monkeypatch.setattr(compiling, "_MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(compiling, "_MEASURED_ROUNDS", 1)
    monkeypatch.chdir(tmp_path)  # where MLflow puts its artifacts


def answers(documents: int, wrong: range = range(0)) -> np.ndarray:
    """Whether answers are right: all but `wrong`."""
    found = np.ones(documents, dtype=bool)
    found[list(wrong)] = False
    return found


@pytest.mark.parametrize(("documents", "losses", "number"), [(400, 0, 1), (400, 4, 1), (1000, 25, 3), (7600, 100, 5)])
def test_where_a_student_is_right_nowhere_else_the_bound_is_wilsons(documents: int, losses: int, number: int) -> None:
    found = loss(answers(documents), answers(documents, range(losses)), number)
    z, share = norm.ppf(1 - 0.05 / number), losses / documents
    wilson = (share + z**2 / (2 * documents) + z * math.sqrt(share * (1 - share) / documents + (z / (2 * documents)) ** 2)) / (1 + z**2 / documents)
    assert found.estimate == pytest.approx(share) and found.at_most == pytest.approx(wilson, abs=1e-6) and found.differ == pytest.approx(share)


def test_what_both_get_wrong_at_times_still_makes_the_bound_wider() -> None:
    same = loss(answers(1000, range(80)), answers(1000, range(80)), 1)
    other = loss(answers(1000, range(20)), answers(1000, range(20, 40)), 1)
    assert same.estimate == other.estimate == 0 and (same.differ, other.differ) == (0, 0.04)
    assert same.at_most < 0.003 < 0.009 < other.at_most < 0.012
    better = loss(answers(1000, range(40)), answers(1000, range(20, 40)), 1)
    assert better.estimate == -0.02 and better.at_most < 0


@pytest.mark.parametrize(("within", "number"), [(0.01, 1), (0.01, 5), (0.1, 3)])
def test_so_many_documents_show_it_and_one_less_does_not(within: float, number: int) -> None:
    needed = fewest(within, number)
    for documents, shown in ((needed, True), (needed - 1, False)):
        assert (loss(answers(documents), answers(documents), number).at_most <= within) is shown
        assert (smallest(documents, number) <= within) is shown


def test_about_so_many_documents_would_show_it() -> None:
    teacher, student = answers(500, range(10)), answers(500, range(8, 21))  # two wins and five or more losses
    found = loss(teacher, student, 3)
    more = enough(found, 0.01, 3)
    assert found.estimate == 0.006 < 0.01 < found.at_most and more is not None
    for times, shown in ((0.8, False), (1.2, True)):
        repeated = round(times * more / 500)
        assert (loss(np.tile(teacher, repeated), np.tile(student, repeated), 3).at_most <= 0.01) is shown
    assert enough(loss(answers(500), answers(500, range(5)), 3), 0.01, 3) is None  # it loses as much as that


def candidate(name: str, rate: float, wrong: range) -> Measured:
    right = answers(2000, wrong)
    return Measured(Tier(name=name, right=float(right.mean()), texts_per_second=rate, size_mb=1.0), Path(name), "torch", right)


def test_the_fastest_of_those_that_keep_the_tolerance_is_chosen() -> None:
    rows = [candidate("slow", 20, range(4)), candidate("good", 30, range(8)), candidate("bad", 300, range(60))]
    choice = choose(rows, answers(2000), 10.0, within=0.01, students=3, figure="accuracy")
    assert choice.chosen is rows[1] and [row.loss for row in choice.rows] == [0.002, 0.004, 0.03]
    assert all(row.at_most is not None and row.loss is not None and row.at_most > row.loss for row in choice.rows)
    assert choice.sentence.startswith(
        "chosen: good, the fastest that loses at most 0.01: accuracy 0.9960 against 1.0000, a loss of 0.0040 and of at most 0.00"
    )
    assert choice.sentence.endswith("with 95% confidence, 3.0 times as fast as the teacher")


def test_none_is_chosen_where_none_keeps_it_or_none_is_faster() -> None:
    rows = [candidate("near", 20, range(17)), candidate("far", 300, range(60))]
    found = choose(rows, answers(2000), 10.0, within=0.01, students=2, figure="agreement")
    assert found.chosen is None and "none is shown to lose at most 0.01; nearest is near: agreement 0.9915" in found.sentence
    assert "documents like these could show it, these are 2,000" in found.sentence
    found = choose(rows[1:], answers(2000), 10.0, within=0.01, students=1, figure="agreement")
    assert found.chosen is None and "could show it" not in found.sentence
    found = choose(rows, answers(2000), 20.0, within=0.02, students=2, figure="agreement")
    assert found.chosen is None and found.sentence == "none is chosen: near would do by agreement, and none is faster than the teacher (20.0 texts/s)"


def asked(teacher: Path, file: Path, *further: str) -> list[str]:
    return ["distill", str(teacher), "--documents", str(file), "--label-column", "label", "--test-documents", "200", "--out", "out", *further]


def test_the_chosen_student_is_champion_by_one_command(teacher, tmp_path, capsys) -> None:
    """Of the teacher's three layers two are kept, and the teacher itself is there in 8 bits; the static student is not asked for."""
    file = file_of(tmp_path, 700, labeled=True)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = ["--student", "shallow", "--layers", "2,3", "--within", "0.1", "--promote", "--tracking-uri", uri]
    assert main(asked(teacher, file, *words)) == 0
    printed = capsys.readouterr().out
    document = json.loads(Path("out/tiers.json").read_text())
    names = [tier["name"] for tier in document["tiers"]]
    assert names == ["teacher (torch)", "shallow_2 (onnx)", "shallow_2 (onnx-int8)", "exported (onnx)", "exported (onnx-int8)"]
    assert document["within"] == 0.1 and document["verdict"] in printed and document["tiers"][3]["loss"] == 0 and document["tiers"][0]["loss"] is None
    assert "chosen: shallow_2 (onnx-int8)" in printed or "chosen: exported (onnx-int8)" in printed
    assert "news version 1, champion" in printed
    served = champion_bundle("news", uri)
    record = read_record(served.folder)
    assert record is not None and record.chosen == "onnx-int8" == Classifier.load(served.folder, device="cpu").backend
    assert read_card(served.folder).name in ("news_shallow_2", "news")
    assert MlflowClient(uri, uri).get_model_version("news", "1").tags["champion_decision"] == document["verdict"]
    assert {path.name for path in Path("out").iterdir()} == {"shallow_2", "exported", "tiers.json", "tiers.svg"}


def test_a_float_graph_that_is_chosen_is_the_one_that_is_served(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(RATES, "onnx", 40.0)
    documents = load_documents(read_card(teacher), file_of(tmp_path, 700, labeled=True), label_column="label", test_documents=200)
    result = distilling.distill(teacher, documents, students=("shallow",), layers=[3], within=0.1, out="out")
    assert result.chosen == tmp_path / "out" / "exported" and "chosen: exported (onnx)," in result.verdict
    record = read_record(result.chosen)
    assert record is not None and record.chosen == "onnx" == Classifier.load(result.chosen, device="cpu").backend


def test_where_none_qualifies_nothing_is_promoted(teacher, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(students, "_learn", lambda *_, **__: None)  # of the static student no answer is more than a guess
    words = ["--student", "static", "--within", "0.1", "--promote", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert main(asked(teacher, file_of(tmp_path, 700, labeled=True), *words)) == 2
    printed = capsys.readouterr()
    assert "none is chosen: none is shown to lose at most 0.1; nearest is static (numpy): accuracy 0.5" in printed.out
    assert "champion" not in printed.out and not (tmp_path / "mlflow.db").exists() and Path("out/static").is_dir()


def test_a_stopped_command_goes_on_behind_what_was_finished(teacher, tmp_path, capsys, monkeypatch) -> None:
    file = file_of(tmp_path, 300, labeled=False)
    words = ["distill", str(teacher), "--documents", str(file), "--out", "out", "--layers", "1,2"]
    made, real = [], students.shallow_student

    def stopped(taught: students.Teacher, *, layers: int) -> students.DistilledStudent:
        made.append(layers)
        if layers == 2 and made == [1, 2]:
            raise KeyboardInterrupt
        return real(taught, layers=layers)

    monkeypatch.setattr(distilling, "shallow_student", stopped)
    assert main(words) == 130
    assert "the same command goes on behind the students that are finished" in capsys.readouterr().err
    (partial,) = tmp_path.glob("out.*.partial")
    assert {path.name for path in partial.iterdir()} == {"static", "shallow_1"} and not Path("out").exists()
    first = Classifier.load(partial / "shallow_1", device="cpu").predict_proba(["a team"])
    (partial / ".shallow_2").mkdir()  # what a kill leaves of one that is being written
    assert main([*words[:-1], "2"]) == 0 and made == [1, 2, 2] and partial.is_dir()  # another command takes nothing over
    Path("out").rename("other")
    assert main(words) == 0 and made == [1, 2, 2, 2] and not partial.exists()
    assert {path.name for path in Path("out").iterdir()} == {"static", "shallow_1", "shallow_2", "tiers.json", "tiers.svg"}
    np.testing.assert_array_equal(Classifier.load("out/shallow_1", device="cpu").predict_proba(["a team"]), first)


def test_a_registry_that_fails_in_the_end_leaves_the_student_and_the_command(teacher, tmp_path, capsys, monkeypatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ServiceError("The tracking server does not answer.")

    monkeypatch.setattr("selftrain.runs.register.register", away)
    assert main(asked(teacher, file_of(tmp_path, 700, labeled=True), "--student", "static", "--within", "0.3", "--promote")) == 2
    said = capsys.readouterr().err
    assert "does not answer. The student is finished; `selftrain register " in said and "out/static --model news --promote` makes it champion" in said
    assert Path("out/static").is_dir()


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (["--promote"], "--promote needs to know how much a student may lose; pass that too, such as --within 0.01."),
        (["--within", "0.1", "--model", "mail"], "pass --promote too"),
        (["--within", "0"], "--within must be a share above 0 and below 1, such as 0.01 (got 0)"),
        (["--within", "0.01"], "--within 0.01 takes at least "),
        (["--test-documents", "700"], "leaves 0 to learn from, fewer than data.min_documents (20); lower --test-documents."),
        (["--layers", "2,x"], "--layers must be whole numbers separated by commas, such as 3 or 2,3 (got '2,x')"),
        (["--layers", "2,2"], "--layers must be different numbers (got 2, 2)"),
        (["--layers", "4", "--within", "0.1"], "--layers must be from 1 to 3, since the teacher has 3 (got 4)"),
        (["--within", "0.1", "--promote", "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
        (["--within", "0.1", "--promote", "--model", "a name"], "--model must be 1 to 128 letters"),
    ],
)
def test_what_cannot_be_chosen_is_said_before_anything_is_trained(teacher, tmp_path, capsys, further, words) -> None:
    file = file_of(tmp_path, 700, labeled=True)
    assert main(asked(teacher, file, *further)) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
