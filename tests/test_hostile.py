"""Hostile inputs of every kind: one sentence, exit code 2, nothing left behind, and less than a gibibyte. benchmarks/hostile_inputs.py tries all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hostile import Case, inputs
from hostile_runs import Outcome, kitchen, run

QUICK = [case for case in inputs() if case.quick]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return kitchen(tmp_path_factory.mktemp("hostile") / "home")


@pytest.mark.parametrize("case", QUICK, ids=[f"{case.kind}: {case.name}" for case in QUICK])
def test_a_hostile_input_gets_one_sentence_and_leaves_nothing(case: Case, home: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.parent}/tracking.db")
    assert run(case, home).problem(case) is None


def test_there_are_many_and_every_kind_is_among_the_quick_ones() -> None:
    cases = list(inputs())
    assert len(cases) >= 150
    assert len({(case.kind, case.name) for case in cases}) == len(cases)
    assert {case.kind for case in QUICK} == {case.kind for case in cases}


def test_the_good_bundle_itself_opens(home: Path) -> None:
    case = Case("bundle", "good", ["predict", "--bundle", "bundle", "a text"], lambda: None, 0)
    assert run(case, home).code == 0


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(1, "selftrain: no", 0, 0, []),
        Outcome(2, "Traceback (most recent call last):\nselftrain: no", 0, 0, []),
        Outcome(2, "selftrain: no\nand no", 0, 0, []),
        Outcome(2, "selftrain: \x1b[2J", 0, 0, []),
        Outcome(2, "selftrain: no", 2000, 0, []),
        Outcome(2, "selftrain: no", 0, 0, ["owned"]),
    ],
)
def test_what_must_not_become_of_one_is_noticed(outcome: Outcome) -> None:
    assert outcome.problem(QUICK[0]) is not None


def test_a_typo_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("modle: {}\n", encoding="utf-8")
    code = "import sys; from selftrain.cli import main; code = main(['run', 'x.yaml']); print(code, sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "2 []", done.stderr
