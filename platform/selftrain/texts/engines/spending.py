"""What a command may spend on language models' servers, in tokens and in money: never exceeded, not even by a process that is killed and started again.

A request is booked at the most that it can cost before it is sent, and settled with what the server counted. What was booked is on disk before it is sent, in
steps of a hundredth of the cap: a process that starts again takes all of the last step as spent.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from selftrain.config import AugmentConfig
from selftrain.errors import ResourceError
from selftrain.files.durable import replacing

_STEPS = 100


class Spending:
    """Books and settles; several threads, and the engines of several language models, may use it.

    Args:
        config: the caps (`max_spent_tokens`, `max_cost`).
        file: where it stands; one command's own.
    """

    def __init__(self, config: AugmentConfig, file: Path) -> None:
        self._caps = {"tokens": config.max_spent_tokens, "cost": config.max_cost}
        self._file = file
        self._lock = threading.Lock()
        self._booked: dict[int, tuple[int, int, AugmentConfig]] = {}
        self._next = 0
        self._spent = {"tokens": 0.0, "cost": 0.0}
        if any(cap is not None for cap in self._caps.values()) and file.is_file():
            self._spent = json.loads(file.read_text(encoding="utf-8"))
        self._on_disk = dict(self._spent)

    @property
    def spent(self) -> dict[str, float]:
        """Tokens and cost so far, as the server counted them."""
        with self._lock:
            return dict(self._spent)

    def book(self, prompt_tokens: int, generated_tokens: int, prices: AugmentConfig) -> int | None:
        """Book a request at its most.

        Args:
            prompt_tokens: that may be read.
            generated_tokens: that may be written.
            prices: the section of the language model, for what it charges for a million tokens.

        Returns:
            What `settle` wants; None where it could exceed a cap together with requests that are under way: ask again when one of them is settled.

        Raises:
            ResourceError: it could exceed a cap by itself.
        """
        with self._lock:
            own = _amounts(prompt_tokens, generated_tokens, prices)
            others = [_amounts(*one) for one in self._booked.values()]
            after = {name: self._spent[name] + sum(one[name] for one in others) + own[name] for name in own}
            for name, cap in self._caps.items():
                if cap is None or after[name] <= cap:
                    continue
                if self._spent[name] + own[name] <= cap:
                    return None
                raise ResourceError(
                    f"The language model has cost {self._spent[name]:,.6g} of augment.{'max_spent_tokens' if name == 'tokens' else 'max_cost'} = {cap:,.6g}, "
                    "and the next text could cost more than the rest; raise it to go on. What was generated is cached."
                )
            self._write_ahead(after)
            self._next += 1
            self._booked[self._next] = (prompt_tokens, generated_tokens, prices)
            return self._next

    def settle(self, booked: int, prompt_tokens: int | None = None, generated_tokens: int | None = None) -> None:
        """Replace a booking by what the server counted, or keep all of it where nobody knows.

        Args:
            booked: what `book` returned.
            prompt_tokens: that were read; None: as booked.
            generated_tokens: that were written; None: as booked.
        """
        with self._lock:
            most_read, most_written, prices = self._booked.pop(booked)
            read, written = most_read if prompt_tokens is None else prompt_tokens, most_written if generated_tokens is None else generated_tokens
            for name, amount in _amounts(read, written, prices).items():
                self._spent[name] += amount

    def _write_ahead(self, after: dict[str, float]) -> None:
        capped = {name: cap for name, cap in self._caps.items() if cap is not None}
        if all(after[name] <= self._on_disk[name] for name in capped):
            return
        self._on_disk = {name: min(after[name] + cap / _STEPS, cap) if (cap := self._caps[name]) is not None else after[name] for name in after}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._file) as scratch:
            scratch.write_text(json.dumps(self._on_disk), encoding="utf-8")


def _amounts(prompt_tokens: int, generated_tokens: int, prices: AugmentConfig) -> dict[str, float]:
    cost = (prompt_tokens * prices.prompt_price + generated_tokens * prices.generated_price) / 1e6
    return {"tokens": float(prompt_tokens + generated_tokens), "cost": cost}
