"""How far a training is, for the person who waits: a bar of steps, fed in the process that trains or by a file that a worker of Ray Train writes."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from selftrain.runtime.progress import progress_bar

_SECONDS = 0.5


class StepBar:
    """A bar on stderr for one training. Call it after every step."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm | None = None

    def __call__(self, round_: int, rounds: int, step: int, steps: int) -> None:
        """`step` of `steps` of the round `round_` of `rounds` is done; all count from one."""
        if self._bar is None:
            self._bar = progress_bar(self._name, "step")
        done = (round_ - 1) * steps + step
        self._bar.total = max(rounds * steps, done)  # rounds may differ in length: a guess from the present one
        self._bar.set_postfix_str(f"round {round_} of {rounds}", refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """The training is over, or has failed: the bar stays where it is."""
        if self._bar is not None:
            self._bar.close()


class StepFile:
    """A worker's end: call it after every step; the file is written twice a second at most, whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written = 0.0

    def __call__(self, round_: int, rounds: int, step: int, steps: int) -> None:
        """See `StepBar`."""
        if time.monotonic() - self._written < _SECONDS:
            return
        self._written = time.monotonic()
        try:
            scratch = self._file.with_suffix(".tmp")  # not `replacing`: a bar need not outlive a power cut, and syncing would slow the steps
            scratch.write_text(json.dumps([round_, rounds, step, steps]), encoding="ascii")
            os.replace(scratch, self._file)
        except OSError:  # a bar is not worth a training
            return


class FollowedSteps:
    """The driver's end: a `with` block in which the bar shows what a worker writes to `file`."""

    def __init__(self, name: str, file: Path) -> None:
        self._bar = StepBar(name)
        self._file = file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="selftrain-steps", daemon=True)

    def __enter__(self) -> FollowedSteps:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        self._bar.close()
        self._file.unlink(missing_ok=True)

    def _follow(self) -> None:
        while not self._over.wait(_SECONDS):
            try:
                self._bar(*json.loads(self._file.read_text(encoding="ascii")))
            except (OSError, ValueError, TypeError):  # not there yet
                continue
