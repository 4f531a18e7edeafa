"""How the class names lie among the documents, from the worker of Ray Train that has compared them to the driver: by a file, where both see the same folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

from selftrain.models.names import NameScores

_SECONDS = 0.5


class NamesFile:
    """The worker's end: what `loop.train` takes as `names_read`. The file is written whole."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, found: NameScores) -> None:
        """Write the file; where that fails, the run goes on without it."""
        try:
            scratch = self._file.with_suffix(".tmp")
            torch.save({"documents": torch.tensor(found.documents), "scores": found.scores, "names": found.names}, scratch)
            os.replace(scratch, self._file)
        except (OSError, RuntimeError):  # torch's word for a full disk: warnings are not worth a training
            return


class FollowedNames:
    """The driver's end: a `with` block in which `names_read` is called once, as soon as a worker has written `file`."""

    def __init__(self, file: Path, names_read: Callable[[NameScores], None]) -> None:
        self._file = file
        self._names_read = names_read
        self._over = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="selftrain-names", daemon=True)

    def __enter__(self) -> FollowedNames:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)
        if self._failed is not None and error is None:
            raise self._failed

    def _follow(self) -> None:
        try:
            while not self._read():
                if self._over.wait(_SECONDS):
                    self._read()  # of a training that was over before the next look
                    return
        except BaseException as failed:  # raised where the training is waited for
            self._failed = failed

    def _read(self) -> bool:
        try:
            kept = torch.load(self._file, weights_only=True)
        except OSError:  # not there yet
            return False
        self._file.unlink(missing_ok=True)
        self._names_read(NameScores(tuple(kept["documents"].tolist()), kept["scores"], kept["names"]))
        return True
