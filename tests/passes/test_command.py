"""`selftrain predict` for many files: what becomes a pass, and what is said. No pass is made."""

from __future__ import annotations

import pytest

from selftrain.cli import main
from selftrain.errors import DataError, ProcessDied
from selftrain.passes import prediction
from selftrain.passes.prediction import PredictedFiles


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """Calls of `predict_files`; `passes.answer` is what it returns or raises."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("x.csv", "x[1].csv", "docs/y.csv"):
        (tmp_path / name).write_text("text\na\n")

    class Calls(list):
        answer: object = PredictedFiles("/labeled", 7, 2, {}, 1, found=False)

    calls = Calls()

    def predict_files(*given, **options):
        calls.append((given, options))
        if isinstance(calls.answer, BaseException):
            raise calls.answer
        return calls.answer

    monkeypatch.setattr(prediction, "predict_files", predict_files)
    return calls


def run(*words: str) -> int:
    return main(["predict", "--bundle", "b", *words])


@pytest.mark.parametrize(
    ("file", "out"),
    [("docs", "labeled"), ("docs/*.csv", "labeled"), ("s3://bucket/docs", "labeled"), ("x.csv", "s3://bucket/labeled"), ("x?csv", "labeled.csv")],
)
def test_many_files_or_an_address_make_a_pass(passes, file, out):
    assert run("--file", file, "--out", out) == 0
    (given, options) = passes[0]
    assert [str(one) for one in given] == ["b", file, out]
    assert options == {"text_column": "text", "address": None, "at_once": None, "abstain": False, "sets": False, "none_of_these": None}


def test_a_cluster_makes_a_pass_of_one_file_and_options_reach_it(passes, capsys):
    more = ("--address", "auto", "--at-once", "3", "--threads", "2", "--gpus", "0.5", "--text-column", "body")
    assert run("--file", "x.csv", "--out", "labeled", *more) == 0
    asked = {"text_column": "body", "address": "auto", "at_once": 3, "threads": 2, "gpus": "0.5"}
    assert passes[0][1] == {"abstain": False, "sets": False, "none_of_these": None, **asked}
    assert capsys.readouterr().out == "7 rows labeled in labeled, 2 of them without a label (column error)\n"


@pytest.mark.parametrize("file", ["x.csv", "x[1].csv", "nothing.csv"])
def test_one_file_of_this_machine_needs_no_ray(passes, capsys, file):
    assert run("--file", file, "--out", "labeled.csv") == 2
    assert not passes and ("No such file: nothing.csv" if file == "nothing.csv" else "There is no folder 'b'") in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--at-once=2", "--threads=2", "--gpus=0"])
def test_options_of_a_pass_are_refused_elsewhere(passes, capsys, option):
    assert run("--file", "x.csv", "--out", "labeled.csv", option) == run("a text", option) == 2
    assert capsys.readouterr().err.count(f"{option.partition('=')[0]} is for many files: a folder, a wildcard or an address with --file") == 2


def test_a_finished_pass_says_so(passes, capsys):
    passes.answer = PredictedFiles("/labeled", 7, 0, {}, 1, found=True)
    assert run("--file", "docs", "--out", "labeled") == 0
    assert capsys.readouterr().out == "nothing to do: 7 rows labeled in labeled\n"


def test_a_pass_that_abstains_says_how_often(passes, capsys):
    passes.answer = PredictedFiles("/labeled", 7, 2, {}, 1, found=False, abstained=3)
    assert run("--file", "docs", "--out", "labeled", "--abstain", "--sets") == 0
    assert passes[0][1]["abstain"] is passes[0][1]["sets"] is True
    said = capsys.readouterr().out
    assert said == "7 rows labeled in labeled, 3 of them abstained from, 2 of them without a label (column error)\n"
    for word, wanted in (("0.05", 0.05), ("promise", "promise")):
        assert run("--file", "docs", "--out", "labeled", "--none-of-these", word) == 0 and passes[-1][1]["none_of_these"] == wanted
        assert capsys.readouterr().out == said
    assert run("--file", "docs", "--out", "labeled", "--none-of-these", "few") == 2
    assert "must be a share such as 0.05, or promise (got 'few')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "selftrain: stopped; the same command continues, what is written is kept.\n"),
        (ProcessDied("A process died."), 2, "selftrain: A process died. The same command continues, what is written is kept.\n"),
        (DataError("source has no file to read.", parameter="source"), 2, "selftrain: --file has no file to read.\n"),
    ],
)
def test_what_ends_a_pass_is_one_sentence(passes, capsys, raised, code, said):
    passes.answer = raised
    assert run("--file", "docs", "--out", "labeled") == code
    assert capsys.readouterr().err == said
