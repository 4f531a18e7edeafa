"""The rows that the others of a table are compared with: one named row, or one in every group of rows that share the values of the other axes.

    reference: "0.1"                    every row against the row 0.1
    reference: {method: FixMatch}       every row against FixMatch at its own values of the other axes

A row is named before there are results: a test against the best row of the same seeds would find differences where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selftrain.errors import ConfigError, nearest

Reference = str | Mapping[str, str]
Row = tuple[str, ...]  # values of the axes, as they are shown


def shown_value(value: Any) -> str:
    """A value as the table prints it: 0.1, 1e-05, true, none."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def reference_of(written: Any) -> Reference | None:
    """A reference as YAML holds it, which reads the row 0.1 as a number, with rows and values as the table shows them."""
    if isinstance(written, Mapping):
        return {str(axis): shown_value(value) for axis, value in written.items()}
    return None if written is None else shown_value(written)


def shown_axis(axis: str) -> str:
    """An axis as the table prints it."""
    return axis.removeprefix("method.")


def reference_rows(axes: Sequence[str], rows: Sequence[Row], reference: Reference | None) -> dict[Row, Row]:
    """Row -> the row that it is compared with; a reference row has itself. Empty without a reference.

    Args:
        axes: of the table, with `method.` or without.
        rows: of the table.
        reference: a row's name, or a value for each of some axes.

    Raises:
        ConfigError: the table has no such row, axis or value.
    """
    if reference is None:
        return {}
    if isinstance(reference, str):
        named = {" · ".join(row): row for row in rows}
        if reference not in named:
            raise ConfigError(f"reference names a row {reference!r} that the table does not have; {nearest(reference, named)}")
        return dict.fromkeys(rows, named[reference])
    fixed = {shown_axis(axis): value for axis, value in reference.items()}
    places = {shown_axis(axis): place for place, axis in enumerate(axes)}
    for axis, value in fixed.items():
        if axis not in places:
            raise ConfigError(f"reference names an axis {axis!r} that the table does not have; {nearest(axis, places)}")
        if value not in (known := {row[places[axis]] for row in rows}):
            raise ConfigError(f"reference names a value {value!r} that the axis {axis!r} does not have; {nearest(value, known)}")
    compared = {row: tuple(fixed.get(axis, row[place]) for axis, place in places.items()) for row in rows}
    if missing := next((target for target in compared.values() if target not in compared), None):
        raise ConfigError(f"reference comes to a row {' · '.join(missing)!r} that the table does not have; name one row.")
    return compared


def described(axes: Sequence[str], reference: Reference) -> str:
    """The reference row in a sentence: `the row 0.1`, `the row with method FixMatch and the same data.labels_per_class`."""
    if isinstance(reference, str):
        return f"the row {reference}"
    fixed = {shown_axis(axis): value for axis, value in reference.items()}
    others = [axis for axis in map(shown_axis, axes) if axis not in fixed]
    chosen = " and ".join(f"{axis} {value}" for axis, value in fixed.items())
    return f"the row with {chosen}" + (f" and the same {' and '.join(others)}" if others else "")
