"""A process of its own that does not outlive this one: where this one is killed, the reaper ends it within seconds."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from selftrain.runtime import reaper

_STOP_SECONDS = 15.0  # that it has to end in order


class Child:
    """A process that was started.

    Args:
        words: its command line.
        folder: its working directory.
        log: gets what it prints, anew.
        keeps: a descriptor that it holds open as long as it runs, such as that of a locked file.
        environment: variables besides those of this process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, words: Sequence[str], *, folder: Path, log: Path, keeps: int, environment: Mapping[str, str] | None = None) -> None:
        mark = secrets.token_hex(8)
        self._reaper = reaper.start(mark)
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    words,
                    cwd=folder,
                    env={**os.environ, **(environment or {}), reaper.MARK: mark},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[keeps],
                    start_new_session=True,  # Ctrl-C is not for it: `stop` is
                )
        except OSError:
            self._end_reaper()
            raise
        self._thread = threading.Thread(target=self._wait, name="selftrain-child", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it in order, or after a while in any way, with all that it has started."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self._thread.join(_STOP_SECONDS)
        self._end_reaper()
        self._thread.join()

    def _wait(self) -> None:
        self._process.wait()
        self._end_reaper()

    def _end_reaper(self) -> None:
        assert self._reaper.stdin is not None
        with suppress(OSError):
            self._reaper.stdin.close()
        self._reaper.wait()
