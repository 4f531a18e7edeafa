"""Bundles, an audit and a browser that are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from audits import here, made
from chromium import browser
from endpoint import make_bundle
from several import several_here, several_made

__all__ = ["browser", "bundle", "here", "made", "other_bundle", "several_here", "several_made"]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "news")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1, name="other", labels=("bank", "music"))
