"""The last finished round of a light training (a head, a BiLSTM, a small CNN) on disk, so that a killed run does not do it again.

Such a round may take milliseconds, so not every one is written: the next one after `EVERY_SECONDS`, or after twenty times what writing took, if that is longer.
A training of less than some seconds writes nothing. All randomness of a round follows from seed and round, so weights are the same bit for bit either way.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch

from selftrain.files.durable import explained, replacing

EVERY_SECONDS = 3.0
_FORMAT = 2  # raised where methods keep something else in their states: an older file is then left aside
_SHARE = 20  # of the time that writing took


class RoundCheckpoint:
    """What `loop.train` takes as `report`, and gives as `resume`.

    Args:
        file: where the state is kept.
        identity: of what is trained, on what; a file of anything else is left aside.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self.file = file
        self._identity = f"{_FORMAT} {identity}"
        self._next = time.monotonic() + EVERY_SECONDS

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_next": time.monotonic() + EVERY_SECONDS}  # sent to another machine, whose clock is another

    def read(self) -> dict[str, Any] | None:
        """The state of the last round that was written; None where there is none, or none that can be read."""
        if not self.file.is_file():
            return None
        try:
            found: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            return found["state"] if found["identity"] == self._identity else None
        except Exception:  # whatever damage does to a zip file of a pickle; the rounds are then done again
            return None

    def __call__(self, figures: dict[str, float], state: dict[str, Any]) -> None:
        """Write the state of a round that is over, unless one was written just now."""
        if time.monotonic() >= self._next:
            self.write(state)

    def write(self, state: dict[str, Any]) -> None:
        """Write a state, whole or not at all.

        Raises:
            SelfTrainError: the disk is full, or the folder cannot be written.
        """
        start = time.monotonic()
        content = io.BytesIO()  # torch says of a full disk only that writing failed
        torch.save({"identity": self._identity, "state": state}, content)
        with (
            explained(self.file, "free some space and resume; what was finished before is kept"),
            replacing(self.file) as scratch,
        ):
            scratch.write_bytes(content.getbuffer())
        took = time.monotonic() - start
        self._next = time.monotonic() + max(EVERY_SECONDS, _SHARE * took)

    def finish(self, state: dict[str, Any]) -> None:
        """Keep the weights alone: training is over, and what the optimizer remembers is of no more use."""
        self.write({**state, "method": state["method"] | {"optimizer": None, "scheduler": None}})

    def remove(self) -> None:
        """The training's results are kept elsewhere."""
        self.file.unlink(missing_ok=True)
