"""The index of equations that methods/losses.py opens with, read for the tests."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selftrain.methods import losses

_ROW = re.compile(r"^    (\S.*?)  +(\S.*?)  +(?:(\S+)\.py: )?(\w+)$")


@dataclass(frozen=True)
class Equation:
    """A row of the index."""

    paper: str  # with the number in brackets where the row has one
    number: str
    module: str
    name: str

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(importlib.import_module(self.module), self.name)


def index() -> list[Equation]:
    """All rows but the heading."""
    rows = [found.groups() for line in str(losses.__doc__).splitlines() if (found := _ROW.match(line))]
    modules = [f"selftrain.methods.{file.replace('/', '.')}" if file else losses.__name__ for _, _, file, _ in rows]
    return [Equation(paper, number, module, name) for (paper, number, _, name), module in zip(rows, modules, strict=True)][1:]
