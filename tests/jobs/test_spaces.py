"""The spaces that the repository holds."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_every_space_is_short_and_says_what_it_is():
    for file in (ROOT / "tune_spaces").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# ") and len(text.splitlines()) <= 50, file
        assert yaml.safe_load(text)["small"], file
