"""The entry points for `ray job submit --working-dir .`: the command on the job's own cluster."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("file", "given", "command"),
    [
        ("train.py", ["a.yaml", "--set", "seeds=[1]", "--resume", "runs/x"], "run"),
        ("sweep.py", ["tune_spaces/genco_tau.yaml", "--small"], "sweep"),
    ],
)
def test_everything_is_handed_on(file, given, command) -> None:
    assert runpy.run_path(str(ROOT / "jobs" / file))["command"](given) == [command, *given, "--address", "auto"]
