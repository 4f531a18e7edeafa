"""Programs that some tests need and that Debian packages carry."""

from __future__ import annotations

import os
import shutil
import subprocess


def install(*packages: str) -> None:
    """Install them where we are root on a Debian; elsewhere do nothing. Whoever asks looks again afterwards, and skips its tests if they are not there."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
        subprocess.run(command, shell=True, capture_output=True, timeout=600, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
