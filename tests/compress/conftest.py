"""A teacher that is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from taught import make_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher"))
