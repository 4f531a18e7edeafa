"""Commands of the command line in this process, which has the imports of all tests: a process of its own takes seconds for them."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from selftrain.cli import main


def selftrain(folder: Path, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What `selftrain` of these words ends with in `folder`, with these variables in its environment."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as errors:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        code = main(arguments)
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), errors.getvalue())
