"""Class names as an experiment has them: a list, or a tree of groups, such as `{sport: [football, tennis], politics: [elections, laws]}`.

A tree is kept as a tuple of nodes. A node is the name of a class, or a group: a mapping of one name to its own nodes. The classes are the leaves of the tree, in
its order; what stands above a class are its parents, the outermost first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEVELS = 8  # of a tree at most, the classes among them


def composed(name: str) -> str:
    """A class name in Unicode's normal form C: "café" is one name, whether its é was typed as one character or as two."""
    return unicodedata.normalize("NFC", name)


def class_tree(value: Any) -> Any:
    """A list of names or a tree, as YAML, JSON or Python has it, as a tuple of nodes; None stays None.

    Raises:
        ValueError: a name is no text, a group is empty or holds something else than names and groups, or there are too many levels.
    """
    return None if value is None else _nodes(value, "", LEVELS)


def paths_of(tree: Sequence[Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each class of a tree: its parents, the outermost first, and its own name.

    Args:
        tree: nodes, of `class_tree`.
        above: parents of all of them.
    """
    for node in tree:
        if isinstance(node, str):
            yield (*above, node)
        else:
            for name, below in node.items():
                yield from paths_of(below, (*above, name))


def tree_of(names: Sequence[str], parents: Sequence[Sequence[str]]) -> list[Any]:
    """The tree of classes and their parents, as `class_tree` takes it.

    Args:
        names: of the classes, `[classes]`.
        parents: of each, the outermost first, `[classes][...]`; empty where no class has any.
    """
    tree: list[Any] = []
    groups: dict[tuple[str, ...], list[Any]] = {(): tree}
    for index, name in enumerate(names):
        path: tuple[str, ...] = ()
        for group in parents[index] if parents else ():
            outer, path = path, (*path, group)
            if path not in groups:
                groups[path] = []
                groups[outer].append({group: groups[path]})
        groups[path].append(name)
    return tree


def members_of(parents: Sequence[Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """The classes of every group, by its name: their indices, ascending.

    Args:
        parents: of each class, the outermost first, `[classes][...]`.
    """
    found: dict[str, list[int]] = {}
    for index, above in enumerate(parents):
        for group in above:
            found.setdefault(group, []).append(index)
    return {group: tuple(indices) for group, indices in found.items()}


def check_groups(paths: Sequence[Sequence[str]]) -> None:
    """Raise a `ValueError`, half a sentence, unless every group stands in one place, no class has its name, and there are at most `LEVELS` levels.

    Case and outer blanks of names do not count.

    Args:
        paths: of the classes, as `paths_of` gives them.
    """
    classes = {_key(path[-1]) for path in paths}
    seen: set[str] = set()
    before: list[str] = []
    for path in paths:
        if len(path) > LEVELS:
            raise ValueError(f"has {len(path):,} levels above and with the class {path[-1]!r:.100}, more than {LEVELS}; leave some out")
        keys = [_key(name) for name in path[:-1]]
        for depth, key in enumerate(keys):
            if key in classes:
                raise ValueError(f"names {path[depth]!r} as a class and as a group of classes; rename one of them")
            if keys[: depth + 1] != before[: depth + 1]:
                if key in seen:
                    raise ValueError(f"names the group {path[depth]!r} twice; put its classes into one group, or rename one of them")
                seen.add(key)
        before = keys


def _key(name: str) -> str:
    """What two spellings of a class name have in common."""
    return composed(name).strip().casefold()


def _nodes(value: Any, group: str, levels: int) -> tuple[Any, ...]:
    """The nodes of `group`, or of the whole tree, which has at most `levels` more."""
    where = f"in the group {group[:100]!r} " if group else ""
    if not isinstance(value, Sequence | Mapping) or isinstance(value, str | bytes):
        raise ValueError(f"classes {where}must be a list of names, or groups of them: {{sport: [football, tennis]}} (got {value!r:.100})")
    if not value and group:
        raise ValueError(f"classes {where}must be at least one name (got none); a class without a parent is a name in a list, beside the groups")
    if not levels:
        raise ValueError(f"classes must be a tree of at most {LEVELS} levels ({group[:100]!r} is on the last)")
    found: list[Any] = []
    for node in [value] if isinstance(value, Mapping) else value:
        if isinstance(node, str):
            found.append(composed(node))
        elif isinstance(node, Mapping) and node:
            found += [{composed(_text(name, where)): _nodes(below, name, levels - 1)} for name, below in node.items()]
        else:
            _text(node, where)
    return tuple(found)


def _text(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"classes {where}must be names of text (got {name!r:.100}); put it in quotation marks")
    return name
