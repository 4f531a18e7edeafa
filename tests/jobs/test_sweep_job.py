"""The entry point of a sweep as a job."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_job_is_the_command_on_its_own_cluster():
    spec = importlib.util.spec_from_file_location("sweep_job", ROOT / "jobs" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.command(["tune_spaces/genco_tau.yaml", "--small"]) == ["sweep", "tune_spaces/genco_tau.yaml", "--small", "--address", "auto"]


def test_every_space_is_short_and_says_what_it_is():
    for file in (ROOT / "tune_spaces").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# ") and len(text.splitlines()) <= 50, file
        assert yaml.safe_load(text)["small"], file
