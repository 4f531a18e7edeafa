"""The progress bar of text generation: texts done, tokens per second, time left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from selftrain.runtime.progress import progress_bar
from selftrain.texts.service import Progress


class ProgressBar:
    """Polls a text service while its `with` block lasts, and draws one bar on stderr for every batch of texts that is generated.

    Args:
        poll: the service's progress; None once the service is gone, as after Ctrl-C, which ends the bar. Who asks the service for texts reports why.
        interval: seconds between two polls.
        notify: called with each sentence about what failed and was repaired; default: write it above the bar.
    """

    def __init__(self, poll: Callable[[], Progress | None], interval: float = 0.5, notify: Callable[[str], None] | None = None) -> None:
        self._poll = poll
        self._interval = interval
        self._notify = notify or (lambda notice: tqdm.write(notice, file=sys.stderr))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="selftrain-progress", daemon=True)
        self._bar: tqdm | None = None
        self._done_before = 0  # texts before the batch of the present bar
        self._notified = 0

    def __enter__(self) -> ProgressBar:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _draw(self) -> None:
        while not self._stop.wait(self._interval):
            now = self._poll()
            if now is None:
                break
            for notice in now.notices[self._notified :]:
                self._notify(notice)
            self._notified = len(now.notices)
            done_before = now.done_so_far - now.done
            if self._bar is not None and (not now.total or done_before != self._done_before):
                self._close(done_before if now.total else now.done_so_far)
            if now.total:
                self._show(now)
        if self._bar is not None:
            self._bar.close()

    def _show(self, now: Progress) -> None:
        if self._bar is None:
            self._done_before = now.done_so_far - now.done
            self._bar = progress_bar("language model", "text", now.total, at_once=True)
        if now.starting:
            self._bar.set_postfix_str("starting the engine", refresh=False)
        else:
            self._bar.set_postfix_str(f"{now.generated_tokens / now.seconds:.0f} tokens/s" if now.seconds > 1 else "", refresh=False)
        self._bar.update(now.done - self._bar.n)

    def _close(self, done_so_far: int) -> None:
        """The batch is over; it ended where its texts ended, which may be before its total."""
        assert self._bar is not None
        # No more than the total: whole batches may have passed between two polls. And not back: a service that was restarted counts from zero.
        done = min(done_so_far - self._done_before, int(self._bar.total))
        self._bar.update(max(0, done - self._bar.n))
        self._bar.close()
        self._bar = None
