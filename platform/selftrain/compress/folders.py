"""Where export and distillation may write, found out before the work."""

from __future__ import annotations

from pathlib import Path

from selftrain.errors import OutputError
from selftrain.files.durable import check_folder


def require_empty(out: Path) -> None:
    """Raise an `OutputError` unless `out` is a new or empty folder that can be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"out {str(out)!r} is not an empty folder; pass a new one, so that nothing of yours is overwritten.", parameter="out")
    check_folder(out, "out")
