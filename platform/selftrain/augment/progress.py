"""The progress bar of text generation: texts done, tokens per second, time left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from selftrain.augment.service import Progress


class ProgressBar:
    """Polls a text service while its `with` block lasts and draws one bar on stderr for every batch of texts that is generated.

    Args:
        poll: where the service stands; None once it is gone, as after Ctrl-C, which ends the bar. Why it is gone is for those to say who ask it for texts.
        interval: seconds between two polls.
    """

    def __init__(self, poll: Callable[[], Progress | None], interval: float = 0.5) -> None:
        self._poll = poll
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="selftrain-progress", daemon=True)

    def __enter__(self) -> ProgressBar:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _draw(self) -> None:
        bar: tqdm | None = None
        while not self._stop.wait(self._interval):
            now = self._poll()
            if now is None:
                break
            if not now.wanted:
                if bar is not None:
                    bar.update(bar.total - bar.n)
                    bar.close()
                    bar = None
                continue
            if bar is None:
                # Redirected to a file, a bar is a line every half minute instead of thousands.
                bar = tqdm(total=now.wanted, unit="text", desc="language model", mininterval=0.5 if sys.stderr.isatty() else 30, dynamic_ncols=True)
            if now.starting:
                bar.set_postfix_str("starting the engine", refresh=False)
                bar.update(0)
            else:
                bar.set_postfix_str(f"{now.generated_tokens / now.seconds:.0f} tokens/s" if now.seconds > 1 else "", refresh=False)
                bar.update(now.done - bar.n)
        if bar is not None:
            bar.close()
