"""How files become parts: no row is lost or there twice, and a name is that of its content."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selftrain.passes import parts
from selftrain.passes.inputs import Source
from selftrain.passes.parts import Part, key_of, parts_of

A, B, C = (Source(f"/docs/{name}.parquet", 1000, "7") for name in "abc")


def ranges(found: list[Part]) -> list[list[tuple[str, int, int]]]:
    return [[(one.source.path[6], one.start, one.stop) for one in part.slices] for part in found]


def test_row_groups_stay_whole_and_small_files_share_a_part(monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    found = parts_of([A, B, C], [[4, 4, 4], [3], [7, 2]])
    assert ranges(found) == [[("a", 0, 8)], [("a", 8, 12), ("b", 0, 3)], [("c", 0, 9)]]
    assert [part.rows for part in found] == [8, 7, 9] and [part.number for part in found] == [0, 1, 2]


def test_a_large_row_group_is_divided_and_not_into_too_many_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    assert ranges(parts_of([A], [[2, 25, 3]])) == [[("a", 0, 2)], [("a", 2, 12)], [("a", 12, 22)], [("a", 22, 27), ("a", 27, 30)]]
    many = parts_of([A], [[1010]])
    assert len(many) == parts.PARTS_A_GROUP and many[-1].slices[0] == parts.Slice(A, 969, 1010)


@pytest.mark.parametrize("groups", [[[]], [[0]], [[0, 5, 0], [0], [31], [10, 10, 1]], [[9, 9], [1] * 30]])
def test_every_row_is_in_one_part(monkeypatch, groups):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    sources = [replace(A, path=f"/docs/{number}") for number in range(len(groups))]
    found = [one for part in parts_of(sources, groups) for one in part.slices]
    rows = [(one.source.path, row) for one in found for row in range(one.start, one.stop)]
    assert rows == [(source.path, row) for source, each in zip(sources, groups, strict=True) for row in range(sum(each))]


def test_a_name_is_that_of_the_rows_and_of_the_state_of_their_file():
    (part,) = parts_of([A], [[5]])
    assert part.name == f"part-000000-{part.key}.parquet" and key_of(part.name) == part.key and Part.from_json(part.to_json()) == part
    others = [parts_of([replace(A, **changed)], [[5]])[0] for changed in ({"path": "/docs/b.parquet"}, {"size": 1001}, {"version": "8"})]
    others += [parts_of([A], [[6]])[0], Part(0, (parts.Slice(A, 1, 5),))]
    assert len({one.key for one in [part, *others]}) == 6
    assert Part(7, part.slices).key == part.key
    assert key_of("_manifest.json") is None and key_of(f"x-{part.name}") is None and key_of("part-000001-nothing.parquet") is None
