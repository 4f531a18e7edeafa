"""YAML and JSON from anyone: every bound is checked before a value is built, so that no document of a few lines takes the memory or the stack.

Experiments, sweeps, `--set`, the cards of bundles and the descriptions of data sets are all read by the two functions here. What they refuse is a `ValueError`
of half a sentence that says what is wrong and where; the caller says in which file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

# An experiment has a hundred lines, and one with a thousand classes, each with a description, a hundred kilobytes.
YAML_CHARACTERS = 1 << 20
YAML_VALUES = 50_000  # a node of PyYAML takes up to 2 KiB while it is built
DEPTH = 32  # of YAML: ours are six levels deep
DIGITS = 100  # of a number in YAML; the time to read one grows with the square of its length
JSON_CHARACTERS = 64 << 20  # of a whole document: the tokenizer of a quarter of a million tokens, the largest that we open, has 33 MB
JSON_DEPTH = 100  # Python's parser goes to a thousand, where the stack lets it
JSON_DIGITS = 4300  # Python's own limit, which an environment variable may lift

_SURROGATE = re.compile("[\ud800-\udfff]")
_TAGS = frozenset({"tag:yaml.org,2002:str", "!"})
_SPACE = re.compile(r"[ \t\n\r]*")
_BRACKET_OR_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key that comes twice, and reads a date as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ValueError(f"the key {key.value!r} comes twice, the second time on line {key.start_mark.line + 1}")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


# No key of ours is a date, and a date of month 13 is a class name like any other.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def yaml_of(text: str) -> Any:
    """The value that a YAML document stands for.

    Raises:
        ValueError: it is not YAML, holds an anchor, an alias or a tag, a key twice, half of a surrogate pair, a number of more than 100 digits, is nested
            more than 32 levels deep, or too large.
    """
    if len(text) > YAML_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, more than {YAML_CHARACTERS:,}")
    try:
        _check_events(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _check_events(text: str) -> None:
    """The parser's events, one at a time and with nothing kept, against the bounds."""
    resolver = _Loader("")
    depth = values = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            kind = "an alias (*)" if isinstance(event, yaml.AliasEvent) else "an anchor (&)"
            raise ValueError(f"{_line(event)} holds {kind}, which multiplies what is read; write the value out")
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
            values += 1
            if values > YAML_VALUES:
                raise ValueError(f"it holds more than {YAML_VALUES:,} values")
            if event.tag is not None and event.tag not in _TAGS:
                raise ValueError(f"{_line(event)} holds the tag {_short(event.tag)}; write the value without a tag")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                raise ValueError(f"{_line(event)} is nested more than {DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            _check_scalar(event, resolver)


def _check_scalar(event: yaml.ScalarEvent, resolver: _Loader) -> None:
    if _SURROGATE.search(event.value):
        raise ValueError(f"{_line(event)} holds half of a surrogate pair, which is not a character")
    kind = resolver.resolve(yaml.ScalarNode, event.value, (True, False)) if event.implicit[0] else None
    if kind in _NUMBERS and len(event.value) > DIGITS:
        raise ValueError(f"{_line(event)} holds a number of {len(event.value):,} digits, more than {DIGITS}")
    if kind == _NUMBERS[1] and not math.isfinite(resolver.construct_yaml_float(yaml.ScalarNode(kind, event.value))):
        raise ValueError(f"{_line(event)} holds {event.value}, and numbers must be finite")


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1 if event.start_mark is not None else 0}"


def _short(text: str) -> str:
    return repr(text.replace("tag:yaml.org,2002:", "!!")[:50])


def json_of(text: str, *, characters: int = JSON_CHARACTERS) -> Any:
    """The value that a JSON document stands for. NaN and infinities are read, as Python writes them.

    Args:
        text: the document.
        characters: that it may have at most. A value takes up to 25 times the memory of its text: an empty list is written with three characters.

    Raises:
        ValueError: it is not JSON (`json.JSONDecodeError`), holds a key twice in one object, an integer of more than 4,300 digits, is nested more than 100 levels
            deep, or too large.
    """
    if len(text) > characters:
        raise ValueError(f"it has {len(text):,} characters, more than {characters:,}")
    check_depth(text)
    return DECODER.decode(text)


def json_items(text: str, *, characters: int) -> Iterator[tuple[Any, int]]:
    """The items of a JSON list, one after the other, and how many characters each has.

    Args:
        text: the list.
        characters: of an item at most.

    Raises:
        ValueError: as `json_of`; or the document is not a list.
    """
    check_depth(text, characters)
    at = _behind(text, 0, "[", "Expecting a list")
    if text[at : at + 1] == "]":
        end = at + 1
    else:
        while True:
            value, end = DECODER.raw_decode(text, at)
            if end - at > characters:
                raise ValueError(f"an item has {end - at:,} characters, more than {characters:,}")
            yield value, end - at
            at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "]":
                end = at + 1
                break
            at = _behind(text, at, ",", "Expecting ',' delimiter")
    if rest := text[end:].strip():
        raise json.JSONDecodeError("Extra data", text, text.index(rest[0], end))


def _behind(text: str, at: int, sign: str, otherwise: str) -> int:
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(otherwise, text, at)
    return _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def check_depth(text: str, characters: int | None = None) -> None:
    """Raise a `ValueError` where JSON is nested more than 100 levels deep, or an item of the list that it is has more than `characters`."""
    if characters is None and text.count("[") + text.count("{") <= JSON_DEPTH:
        return
    depth = start = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
            if depth == 2:
                start = match.start()
            if depth > JSON_DEPTH:
                raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")
        elif found in "]}":
            depth -= 1
        if characters is not None and ((depth > 1 and match.end() - start > characters) or len(found) > characters):
            raise ValueError(f"an item has more than {characters:,} characters")


def _integer(digits: str) -> int:
    if len(digits) > JSON_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits):,} digits, more than {JSON_DIGITS:,}")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} comes twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
