"""The classes of a source: their names in index order, the words that stand for them, and which class each label of the source means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from selftrain.config import check_groups, composed
from selftrain.data.catalogue import NamedSet, spelling
from selftrain.data.cleaning import label_key
from selftrain.data.corpus import Label, words_of
from selftrain.data.reading import Rows
from selftrain.data.sources import DataSource
from selftrain.errors import ConfigError, DataError, nearest, unprintable

MAX_CLASSES = 1000  # more distinct labels than this are not classes but, say, a column of ids
_MET_LABELS = 2 * MAX_CLASSES
CLASS_CHARACTERS = 500  # of a name: it is put into prompts and tables


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise a `DataError` unless there are at least two names, none empty, too long or with control characters, and no two alike.

    Case, outer blanks and the way in which an accent is written do not count.
    """
    _check_names(names, where)
    seen: dict[str, str] = {}
    for name in names:
        if (key := composed(name).strip().casefold()) in seen:
            raise DataError(f"{where} names the class {seen[key]!r} twice; name each class once.")
        seen[key] = name.strip()
    if len(names) < 2:
        raise DataError(f"{where} names {len(names) or 'no'} class{'es' if not names else ''}; at least two are needed.")


def check_class_paths(paths: Sequence[Sequence[str]], where: str) -> None:
    """`check_class_names` for the classes of a tree, and the same for its groups: each stands in one place, and none has the name of a class.

    Args:
        paths: of each class its parents, the outermost first, and its name.
        where: what names them, for the error.

    Raises:
        DataError: a name is wrong, or comes twice.
    """
    check_class_names([path[-1] for path in paths], where)
    _check_names([name for path in paths for name in path[:-1]], where)
    try:
        check_groups(paths)
    except ValueError as error:
        raise DataError(f"{where} {error}.") from None


def _check_names(names: Iterable[str], where: str) -> None:
    for name in names:
        if (found := unprintable(name)) is not None:
            raise DataError(f"{where} has a class name with the control character {found} ({name[:50]!r}); write names of plain characters.")
        if len(name) > CLASS_CHARACTERS:
            raise DataError(f"{where} has a class name of {len(name):,} characters, more than {CLASS_CHARACTERS}; shorten it, or set another column.")
        if not name.strip():
            raise DataError(f"{where} has an empty class name; every class must have a name.")


def classes_of(source: DataSource, wanted: Sequence[str] | None) -> tuple[tuple[Label, ...], dict[str, int]]:
    """The classes of a source, and for every label of it, as `label_key` writes it, the index of its class.

    A label is a class name (case and outer blanks do not count) or an index. Where the source does not name its classes, they are `wanted`, or else
    the distinct labels in alphabetical order. Where it does, `wanted` may reorder or rename them.

    Raises:
        DataError: no class names anywhere, numbers where names are needed, over 1,000 distinct labels, labels counted from 1, or a wrong `wanted`.
    """
    own = source.class_names
    if own is None:
        names = [composed(name).strip() for name in wanted] if wanted is not None else _distinct_labels(source)
        by_name = {name.casefold(): position for position, name in enumerate(names)}
        if wanted is not None:
            _refuse_counting_from_one(source, by_name)
        # A name goes before an index: of the classes "1" to "5", the label 1 is the first.
        return tuple(_plain(name) for name in names), {str(position): position for position in range(len(names))} | by_name
    check_class_names(own, source.name)
    labels = _stated(own, source.named)
    positions = list(range(len(own)))
    if wanted is not None:
        labels, positions = _rearranged(source, labels, [composed(name).strip() for name in wanted])
    # An index goes before a name: the hub calls the classes 0 and 1 of Yelp "1" and "2".
    index = {composed(name).strip().casefold(): position for name, position in zip(own, positions, strict=True)}
    return labels, index | {str(number): position for number, position in enumerate(positions)}


def same_classes(source: DataSource, labels: Sequence[Label], learned: str) -> dict[str, int]:
    """For every label of `source`, which is tested on, the index of its class among `labels`.

    Args:
        source: what is tested on.
        labels: the classes that are learned.
        learned: name of the source that they are learned from, for the error.

    Raises:
        DataError: the classes are not the same; nothing is matched by its place.
    """
    names = [label.name for label in labels]
    if source.class_names is not None:
        own = _stated(source.class_names, source.named)
        known = [{spelling(name), spelling(label.name)} for name, label in zip(source.class_names, own, strict=True)]
        if len(own) != len(names) or any(not any(spelling(name) in spellings for spellings in known) for name in names):
            raise DataError(
                f"data.test_source {source.name} has the classes {_listed(label.name for label in own)}, and {learned} has {_listed(names)}; a model is tested "
                "on the classes that it learned: set another source, or the same classes in data.classes."
            )
    return classes_of(source, names)[1]


def with_parents(labels: Sequence[Label], paths: Sequence[Sequence[str]] | None) -> tuple[Label, ...]:
    """`labels` in their groups.

    Args:
        labels: classes, in the order of `paths`.
        paths: of each class its parents, the outermost first, and its name; None for no groups.
    """
    if paths is None:
        return tuple(labels)
    return tuple(replace(label, parents=tuple(name.strip() for name in path[:-1])) for label, path in zip(labels, paths, strict=True))


def with_descriptions(labels: Sequence[Label], descriptions: Mapping[str, str]) -> tuple[Label, ...]:
    """`labels` with the user's descriptions for the language model.

    Raises:
        ConfigError: a description of a class that does not exist.
    """
    by_name = {spelling(label.name): label for label in labels}
    for name, description in descriptions.items():
        if spelling(name) not in by_name:
            raise ConfigError(
                f"data.descriptions describes {name!r}, which is not a class; {nearest(name, [label.name for label in labels])}",
                parameter="data.descriptions",
            )
        by_name[spelling(name)] = replace(by_name[spelling(name)], description=description)
    return tuple(by_name.values())


def no_label_matches(source: DataSource, labels: Sequence[Label]) -> str:
    """The sentence for a source of which no label is one of the classes."""
    found = list(dict.fromkeys(key for label in _labels(source) if (key := label_key(label)) is not None))
    return (
        f"No label of {source.name} is one of the classes ({_listed(label.name for label in labels)}); the label column holds {_listed(found)}; "
        "correct data.classes or data.label_column."
    )


def _plain(name: str) -> Label:
    name = composed(name)
    return Label(name, words_of(name), words_of(name))


def _stated(own: Sequence[str], named: NamedSet | None) -> tuple[Label, ...]:
    """The classes that a source states, with the catalogue's words where it knows them."""
    entries = [named.entry(name) if named is not None else None for name in own]
    if named is not None and not any(entries) and len(own) == len(named.classes):
        # Names that say nothing ("1" and "2"): the catalogue lists the classes in the order of the source's integers.
        entries = list(named.classes)
    return tuple(
        Label(entry.name, entry.words, entry.description) if entry is not None else _plain(name) for name, entry in zip(own, entries, strict=True)
    )


def _rearranged(source: DataSource, labels: tuple[Label, ...], wanted: Sequence[str]) -> tuple[tuple[Label, ...], list[int]]:
    """(labels in the order of `wanted`, new position of each of `labels`); a name that no class has renames the class at its place."""
    place = {spelling(label.name): position for position, label in enumerate(labels)}
    for position, name in enumerate(source.class_names or ()):
        place.setdefault(spelling(name), position)
    known = f"{source.name} has {len(labels)} ({_listed(label.name for label in labels)})"
    if len(wanted) != len(labels):
        raise ConfigError(
            f"data.classes names {len(wanted)} classes, {known}; name all of them, or leave data.classes out.", parameter="data.classes"
        )
    origins = [place.get(spelling(name), position) for position, name in enumerate(wanted)]
    if sorted(origins) != list(range(len(labels))):
        raise ConfigError(
            f"data.classes mixes known names and new ones out of order, {known}; use these names, or rename in this order.", parameter="data.classes"
        )
    positions = [0] * len(labels)
    for position, origin in enumerate(origins):
        positions[origin] = position
    renamed = tuple(
        replace(labels[origin], name=name) if spelling(name) in place else _plain(name) for name, origin in zip(wanted, origins, strict=True)
    )
    return renamed, positions


def _distinct_labels(source: DataSource) -> list[str]:
    names: dict[str, str] = {}
    for label in _labels(source):
        key = label_key(label)
        if key is not None and isinstance(label, str | int | float):
            names.setdefault(key, composed(str(label)).strip())
    if not names:
        raise DataError(f"{source.name} names no classes; set data.classes to their names (or data.label_column to a column with class names).")
    if all(key.lstrip("-").isdigit() for key in names):
        raise DataError(
            f"The labels of {source.name} are numbers ({_listed(sorted(names))}); set data.classes to the names of the classes, the first for 0."
        )
    if len(names) > MAX_CLASSES:
        raise DataError(f"The label column of {source.name} holds {len(names):,} values, more than {MAX_CLASSES:,}; correct data.label_column.")
    result = [names[key] for key in sorted(names)]
    check_class_names(result, f"The label column of {source.name}")
    return result


def _refuse_counting_from_one(source: DataSource, by_name: Mapping[str, int]) -> None:
    """Labels 1 to n for n classes would all be one class off, but for the last, and nothing else would show it."""
    keys = {key for label in _labels(source) if (key := label_key(label)) is not None}
    numbers = {int(key) for key in keys - set(by_name) if key.isdigit()}
    if numbers and len(numbers) == len(keys) and min(numbers) == 1 and max(numbers) == len(by_name):
        raise DataError(
            f"The labels of {source.name} count from 1 to {len(by_name)}; data.classes counts from 0: subtract 1, or write class names as labels."
        )


def _labels(source: DataSource) -> Iterator[object]:
    """The labels of a source, each value once (beyond a limit, as often as it comes): what `label_key` makes of them takes longer than reading them."""
    met: set[tuple[type, object]] = set()
    for rows in (source.train, source.test or ()):
        for label in rows.labels() if isinstance(rows, Rows) else (row.label for row in rows):
            if isinstance(label, int) or (isinstance(label, str) and len(label) <= CLASS_CHARACTERS):
                if (type(label), label) in met:
                    continue
                if len(met) < _MET_LABELS:
                    met.add((type(label), label))
            yield label


def _listed(names: Iterable[str], most: int = 10) -> str:
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
