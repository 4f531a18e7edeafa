"""Where export and distillation write: a scratch folder beside the result, on the same disk, that is renamed when everything has succeeded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selftrain.errors import OutputError


def require_empty(out: Path) -> None:
    """Raise an `OutputError` unless `out` is a new or empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"out {str(out)!r} is not an empty folder; pass a new one, so that nothing of yours is overwritten.", parameter="out")


@contextmanager
def scratch_beside(home: Path) -> Iterator[Path]:
    """A new folder beside `home` to work in and rename from; what is left of it at the end of the block is deleted.

    Raises:
        OutputError: nothing can be written there.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}.partial-", dir=home.parent))
    except OSError as error:
        raise OutputError(f"out cannot be made in {home.parent} ({error.strerror}); pass another folder.", parameter="out") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def put_in_place(made: Path, home: Path) -> None:
    """Give the folder `made`, which lies on the same disk, the name `home`; an empty folder there is replaced."""
    if home.exists():
        home.rmdir()
    made.rename(home)
