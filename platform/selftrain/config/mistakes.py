"""What a wrong document is answered with: pydantic's first error as one sentence that names the key."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from selftrain.errors import ConfigError, nearest


def explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    """The first mistake of a document, to be raised.

    Args:
        error: what pydantic found.
        model: the document's type; an unknown key is compared with the keys that it has at the same place.
        where: the document in words, e.g. its file.
    """
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path) or "the document"
    if first["type"] == "extra_forbidden":
        return ConfigError(f"Unknown key {dotted!r} in {where}; {nearest(path[-1], _known_keys(model, path[:-1]))}")
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shows = isinstance(given, str | int | float | bool) or given is None
    shown = f" (got {given!r})" if shows and "(got " not in message else ""
    return ConfigError(f"{dotted} in {where}: {message[0].lower()}{message[1:]}{shown}.", parameter=dotted)


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        if part.isdigit():  # the place in a list, whose sections have the keys of the first
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        several = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is tuple
        candidates = typing.get_args(annotation) if several else (annotation,)
        below = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if not below:
            return []
        model = below[0]
    return list(model.model_fields)
