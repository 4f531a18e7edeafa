"""What every engine is: it gets prompts and returns texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from selftrain.texts.prompts import Prompt


@dataclass(frozen=True)
class Generation:
    """What an engine made of one prompt; `error` is empty when it worked."""

    prompt: Prompt
    text: str = ""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    error: str = ""


class Engine(Protocol):
    """Generates texts; it starts at the first call of `generate` and runs until `close`."""

    notices: list[str]  # what failed and was repaired, or waits for room, so far

    @property
    def starting(self) -> bool:
        """Whether texts wait for an engine that is starting, for the first time or again."""
        ...

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Generation]:
        """One generation for every prompt, in the order in which they become ready."""
        ...

    def close(self) -> None:
        """End the engine and its processes."""
        ...
