"""Folders of this user alone below the temporary folder of this machine (TMPDIR), for copies of what lies elsewhere."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from selftrain.errors import OutputError

TEMPORARY = "free some space there, or set TMPDIR"


def own_folder(name: str) -> Path:
    """A folder of this user alone below the temporary folder of this machine.

    Raises:
        OutputError: somebody else has made it.
    """
    home = Path(tempfile.gettempdir()) / f"selftrain-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.getuid():
        raise OutputError(f"{home} belongs to another user of this machine; remove it, or set TMPDIR.")
    folder = home / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
