"""A Ray for the tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selftrain.config import Experiment
from selftrain.runtime.cluster import Needs, session


@contextmanager
def session_that_imports_tests(cpus: int) -> Iterator[None]:
    """Its processes import what lies beside this file, so that they can be sent objects of a test's classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")])))
        with session(Experiment(), Needs(cpus, 0, 1)):
            yield
