"""What a space is refused for beyond the types of its keys: names that its grid, its methods or its table do not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from selftrain import methods
from selftrain.config import Experiment
from selftrain.errors import ConfigError, nearest
from selftrain.sweeps.reference import reference_rows

if TYPE_CHECKING:
    from selftrain.sweeps.space import Space

SECTIONS = ("data", "model", "method", "augment", "training", "evaluation")  # of the experiment, that a space may change


def check_grid(space: Space) -> None:
    """Check axes, the small size and the reference row.

    Raises:
        ConfigError: which name is unknown, or which key has no effect.
    """
    _check_axes(space)
    _check_small(space)
    _check_reference(space)


def _check_small(space: Space) -> None:
    """Refuse a size that some settings would not get, unseen: such rows of a table are trained for longer than the others."""
    sizes = space.small.get("base", {}).get("method", {})
    for axis in space.axes.values():
        for name, one in axis.items() if isinstance(axis, Mapping) else ():
            own = one.get("method", {})
            if "name" in own and (lost := sorted(sizes.keys() & methods.method_class(own["name"]).Options.model_fields.keys() - own.keys())):
                raise ConfigError(
                    f"small.base.method.{lost[0]} of {space.name} does not reach {name!r}, which has another method; set small.every.method."
                )


def _check_axes(space: Space) -> None:
    """Check the names of axes before their values: each must be a key of the experiment, or an option of the methods that it is used with."""
    named = {
        name for axis in space.axes.values() if isinstance(axis, Mapping) for one in axis.values() if (name := one.get("method", {}).get("name"))
    }
    used = named or {str(space.start.get("method", {}).get("name", "genco"))}
    for key, axis in space.axes.items():
        if isinstance(axis, Mapping):
            continue
        head, _, tail = key.partition(".")
        if head == "method":
            known = sorted({option for name in used for option in methods.method_class(name).Options.model_fields})
            if tail not in known:
                raise ConfigError(f"Unknown axis {key!r} in {space.name}: no option of {', '.join(sorted(used))}; {nearest(tail, known)}")
            continue
        section = Experiment.model_fields.get(head)
        fields: Sequence[str] = list(getattr(section.annotation, "model_fields", {})) if section is not None else []
        if not fields:
            raise ConfigError(f"Unknown axis {key!r} in {space.name}; {nearest(head, ['method', *SECTIONS])}")
        if tail not in fields:
            raise ConfigError(f"Unknown axis {key!r} in {space.name}; {nearest(tail, fields)}")


def _check_reference(space: Space) -> None:
    if space.reference is None:
        return
    if space.search is not None:
        raise ConfigError(f"reference of {space.name} has no effect, a search ranks its settings by validation documents; leave it out.")
    try:
        reference_rows(list(space.axes), [setting.values for setting in space.settings()], space.reference)
    except ConfigError as error:
        raise ConfigError(f"{space.name}: {error}") from None


def check_paper(space: Space) -> None:
    """Check that the paper's figures are of rows and columns of the table.

    Raises:
        ConfigError: the table does not have one.
    """
    if space.paper is None or space.search is not None:
        return
    rows = [setting.name for setting in space.settings()]
    for row, cells in space.paper.figures.items():
        if row not in rows:
            raise ConfigError(f"paper.figures of {space.name} has a row {row!r} that the grid does not have; {nearest(row, rows)}")
        for column in cells:
            if column not in space.columns:
                raise ConfigError(
                    f"paper.figures of {space.name} has a column {column!r} that the table does not have; {nearest(column, space.columns)}"
                )
