"""How results are laid out: tables for a terminal, and pages of HTML that hold everything they show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any


def aligned(head: Sequence[str], body: Sequence[Sequence[str]], *, ruled: bool = True, right: Collection[int] = ()) -> list[str]:
    """The lines of a table with columns of one width.

    Args:
        head: titles.
        body: rows.
        ruled: whether a line of dashes stands below the titles.
        right: places of the columns whose cells stand at the right.
    """
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [head, *([["-" * width for width in widths]] if ruled else []), *body]
    shown = [
        [cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return ["  ".join(cells).rstrip() for cells in shown]


def page(template: str, filters: Mapping[str, Callable[..., Any]], **content: Any) -> str:
    """A page by a template of this folder, in which every text is escaped, and a name that is not given is an error.

    Args:
        template: its file.
        filters: of the template, by name.
        content: what it shows, by name.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("selftrain", "evaluation")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters
    return environment.get_template(template).render(**content)
