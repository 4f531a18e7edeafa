"""The progress bar of text generation: texts done, tokens per second, time left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from selftrain.texts.service import Progress


class ProgressBar:
    """Polls a text service while its `with` block lasts and draws one bar on stderr for every batch of texts that is generated.

    Args:
        poll: where the service stands; None once it is gone, as after Ctrl-C, which ends the bar. Why it is gone is for those to say who ask it for texts.
        interval: seconds between two polls.
        tell: is told each sentence about what went wrong and was mended; default: written above the bar.
    """

    def __init__(self, poll: Callable[[], Progress | None], interval: float = 0.5, tell: Callable[[str], None] | None = None) -> None:
        self._poll = poll
        self._interval = interval
        self._tell = tell or (lambda notice: tqdm.write(notice, file=sys.stderr))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="selftrain-progress", daemon=True)
        self._bar: tqdm | None = None
        self._before = 0  # answers before the batch of the present bar
        self._told = 0

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
            for notice in now.notices[self._told :]:
                self._tell(notice)
            self._told = len(now.notices)
            if self._bar is not None and (not now.wanted or now.answered - now.done != self._before):
                self._close(now.answered - now.done if now.wanted else now.answered)
            if now.wanted:
                self._show(now)
        if self._bar is not None:
            self._bar.close()

    def _show(self, now: Progress) -> None:
        if self._bar is None:
            self._before = now.answered - now.done
            # Redirected to a file, a bar is a line every half minute instead of thousands.
            self._bar = tqdm(total=now.wanted, unit="text", desc="language model", mininterval=0.5 if sys.stderr.isatty() else 30, dynamic_ncols=True)
        if now.starting:
            self._bar.set_postfix_str("starting the engine", refresh=False)
        else:
            self._bar.set_postfix_str(f"{now.generated_tokens / now.seconds:.0f} tokens/s" if now.seconds > 1 else "", refresh=False)
        self._bar.update(now.done - self._bar.n)

    def _close(self, answered: int) -> None:
        """The batch is over; it ended where its answers ended, which is not always all that was wanted."""
        assert self._bar is not None
        # No more than was wanted: whole batches may have fallen between two polls. And not back: a service that was started again counts from nothing.
        answered = min(answered - self._before, int(self._bar.total))
        self._bar.update(max(0, answered - self._bar.n))
        self._bar.close()
        self._bar = None
