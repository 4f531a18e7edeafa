"""Programs that some tests need and that Debian packages carry."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def install(*packages: str) -> None:
    """Install them where we are root on a Debian; elsewhere do nothing. Whoever asks looks again afterwards, and skips its tests if they are not there."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    with Path(tempfile.gettempdir(), "selftrain-tests-debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and apt-get refuses a second one
        subprocess.run(command, shell=True, capture_output=True, timeout=600, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
