"""GenDict merged: large files by key hash and the manifest, against a dictionary in which the first that is written stays."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.errors import DataError
from selftrain.texts.cache import Completion, TextCache, broken_blocks, manifest, merging
from selftrain.texts.cache.block import Block, RowGroups, merged_bytes
from selftrain.texts.cache.completion import HASH, HASHED_SCHEMA, key_hashes, to_table
from selftrain.texts.cache.store import LocalStore


def completion(key, text="a text"):
    return Completion(key, f"doc {len(key)}", "input", "", 0, text, False, 10, 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Merges after few blocks, into files of few texts."""
    monkeypatch.setattr(merging, "LOG_BLOCKS", 4)
    monkeypatch.setattr("selftrain.texts.cache.text_cache.LOG_BLOCKS", 4)
    monkeypatch.setattr(merging, "FILE_ROWS", 8)
    monkeypatch.setattr(merging, "FAN", 3)
    monkeypatch.setattr(merging, "_BASE", 4)
    monkeypatch.setattr("selftrain.texts.cache.block.GROUP_ROWS", 3)


def fill(folder, blocks, texts=4):
    """Blocks of `texts` texts each; the keys are numbers."""
    cache = TextCache(folder)
    for block in range(blocks):
        cache.add([completion(f"{number}", f"text {number}") for number in range(block * texts, (block + 1) * texts)])
    return cache


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_log_is_merged_into_files_by_hash_and_nothing_of_it_stays(tmp_path):
    cache = fill(tmp_path, 4)
    there = names(tmp_path)
    assert there[0] == "manifest-00000001.json" and len(there) == 3 and all(name.startswith("merged/00000001-") for name in there[1:])
    tables = [pq.read_table(tmp_path / name) for name in there[1:]]
    assert sum(map(len, tables)) == 16 and all(table.schema.names == HASHED_SCHEMA.names for table in tables)
    for table in tables:
        hashes = table.column(HASH).to_pylist()
        assert hashes == sorted(hashes) == sorted(key_hashes(table.column("key").to_pylist()).tolist())
    low, high = sorted(tables, key=lambda table: table.column(HASH)[0].as_py())
    assert low.column(HASH)[-1].as_py() < 2**63 <= high.column(HASH)[0].as_py()
    for one in (cache, TextCache(tmp_path)):
        assert len(one) == 16 and one.lookup(["3", "15", "16"]) == {key: completion(key, f"text {key}") for key in ("3", "15")}


def test_numbers_go_on_after_a_merge(tmp_path):
    fill(tmp_path, 4)
    TextCache(tmp_path).add([completion("new")])
    assert names(tmp_path)[0] == "00000005-texts.parquet"


def test_a_merge_removes_what_it_has_merged_and_no_file_that_somebody_has_put_there(tmp_path):
    fill(tmp_path, 4)
    pq.write_table(to_table([completion("foreign")]), tmp_path / "00000002-foreign.parquet")
    pq.write_table(to_table([completion("killed")]), tmp_path / "00000003-texts.parquet")  # by a writer that did not live to see that it is late
    fill(tmp_path, 8)
    assert [file.name for file in tmp_path.glob("*.parquet")] == ["00000002-foreign.parquet"]
    assert TextCache(tmp_path).lookup(["foreign", "killed"]) == {}


def test_a_text_is_written_as_often_as_its_cache_has_grown_by_the_fan(tmp_path):
    """20 blocks of 4 texts make 5 merges of the log: the runs of one size are merged when there are 3."""
    written = []
    store = LocalStore.create

    def counting(self, name, content):
        if name.startswith("merged/"):
            written.append(pq.read_metadata(pa.BufferReader(content)).num_rows)
        return store(self, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "create", counting)
        fill(tmp_path, 20)
    assert sum(written) <= 80 * 3 and len(TextCache(tmp_path)) == 80


@pytest.mark.parametrize(
    ("sizes", "new", "first"),
    [
        ([], 4, 0),
        ([4], 4, 1),
        ([4, 4], 4, 0),  # three of a size
        ([40, 4, 4], 4, 1),  # and the larger one stays
        ([40, 40, 4, 4], 4, 2),
        ([12, 12, 4, 4], 4, 0),  # what they become is the third of its own size
        ([4, 4], 40, 0),  # small ones do not stay before a large one for good
        ([4], 40, 1),
    ],
)
def test_the_runs_that_are_merged_along(sizes, new, first):
    assert merging.first_run(sizes, new) == first


def test_one_writer_has_the_duty_of_a_merge():
    """All writers see one log; blocks come under numbers 1, 2, ..., and it falls to the writer of every fourth, or of one after too many."""

    class Sized:
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return self.rows

    due = [merging.is_due([Sized(1)] * blocks) for blocks in range(1, 10)]
    assert due == [False, False, False, True, False, False, False, True, True]
    assert merging.is_due([Sized(2**17 - 1), Sized(1)]) and not merging.is_due([Sized(2**17), Sized(1)])


def test_texts_of_a_cache_of_many_small_blocks_are_merged_by_the_next_writer(tmp_path, capsys):
    """As an early version left them: numbers with a random part, and before them blocks without a number, of which the last by name counts."""
    for number in range(1, 31):
        pq.write_table(to_table([completion(f"{number}", "old"), completion("twice", f"{number}")]), tmp_path / f"{number:08d}-{number:032x}.parquet")
    pq.write_table(to_table([completion("twice", "first name")]), tmp_path / "aaaa.parquet")
    pq.write_table(to_table([completion("twice", "last name"), completion("oldest")]), tmp_path / "bbbb.parquet")
    before = {one.key: one for one in TextCache(tmp_path).completions()}
    assert before["twice"].text == "last name" and len(before) == 32 and len(names(tmp_path)) == 32
    cache = TextCache(tmp_path)
    cache.add([completion("new")])
    assert "32" not in capsys.readouterr().out and len([name for name in names(tmp_path) if name.endswith("texts.parquet")]) <= 1
    for one in (cache, TextCache(tmp_path)):
        assert {found.key: found for found in one.completions()} == before | {"new": completion("new")} == one.lookup([*before, "new", "none"])
        assert len(one) == 33 and one.count("doc 5") == 1


def test_a_large_block_is_merged_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "LOG_ROWS", 50)
    cache = TextCache(tmp_path)
    cache.add([completion(f"{number}") for number in range(100)])
    assert len(cache) == len(TextCache(tmp_path)) == 100 and not list(tmp_path.glob("*.parquet"))
    sizes = [pq.read_metadata(file).num_rows for file in (tmp_path / "merged").iterdir()]
    assert len(sizes) == 13 and sum(sizes) == 100


def test_long_texts_make_files_of_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "FILE_BYTES", 5000)
    fill(tmp_path, 3)
    TextCache(tmp_path).add([completion("long", "x" * 20_000)])
    assert len(list((tmp_path / "merged").iterdir())) >= 4


class Parquet:
    """Counts what is read of the row groups of merged files."""

    def __init__(self, monkeypatch):
        self.groups, read = [], pq.ParquetFile.read_row_group

        def counting(file, group, **options):
            self.groups.append(group)
            return read(file, group, **options)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)


def test_a_lookup_reads_the_row_groups_that_hold_its_keys_each_once(tmp_path, monkeypatch):
    fill(tmp_path, 4)
    cache, parquet = TextCache(tmp_path), Parquet(monkeypatch)
    assert cache.get("none") is None and parquet.groups == []
    assert cache.get("7").text == "text 7" and len(parquet.groups) == 1
    assert cache.get("7").text == "text 7" and len(parquet.groups) == 1  # it is in memory
    assert len(cache.lookup(map(str, range(16)))) == 16
    assert len(parquet.groups) == sum(pq.read_metadata(file).num_row_groups for file in (tmp_path / "merged").iterdir())


def test_keys_that_the_log_has_not_are_not_looked_for_block_by_block(tmp_path, monkeypatch):
    cache = fill(tmp_path, 3)
    other = TextCache(tmp_path)
    asked, find = [], Block.find
    monkeypatch.setattr(Block, "find", lambda block, wanted: asked.append(block.name) or find(block, wanted))
    assert cache.lookup(["none", "not this"]) == other.lookup(["none"]) == {} and asked == []
    assert len(cache.lookup(["none", "11"])) == len(other.lookup(["11"])) == 1 and len(asked) == 6


def test_row_groups_in_memory_are_bounded():
    table = to_table([completion("a")])
    kept = RowGroups(limit=table.nbytes * 2)
    for group in range(3):
        kept.put("file", group, table)
    kept.put("file", 2, table)  # is there
    assert [kept.get("file", group) is not None for group in range(3)] == [False, True, True]
    kept.get("file", 1)
    kept.put("file", 3, table)
    assert [kept.get("file", group) is not None for group in range(4)] == [False, True, False, True]


def test_two_keys_of_one_hash_are_two_keys(tmp_path, monkeypatch):
    """64 bits can be equal by chance; here the first character decides."""

    def short(keys):
        return key_hashes([key[:1] for key in keys])

    for module in ("block", "text_cache"):
        monkeypatch.setattr(f"selftrain.texts.cache.{module}.key_hashes", short)
    cache = TextCache(tmp_path)
    for key in ("a1", "a2", "b1", "a3"):
        cache.add([completion(key, f"text {key}")])
    assert not list(tmp_path.glob("*.parquet"))
    cache.add([completion("a2", "late"), completion("a4", "text a4")])
    for one in (cache, TextCache(tmp_path)):
        assert {key: found.text for key, found in one.lookup(["a1", "a2", "a3", "a4", "b1", "b2"]).items()} == {
            key: f"text {key}" for key in ("a1", "a2", "a3", "a4", "b1")
        }
        assert sorted(found.key for found in one.completions()) == ["a1", "a2", "a3", "a4", "b1"]


def test_a_reader_of_files_that_are_merged_meanwhile_finds_them_again(tmp_path):
    fill(tmp_path, 4)
    readers = [TextCache(tmp_path) for _ in range(4)]
    fill(tmp_path, 13)
    assert len(names(tmp_path / "merged")) > 2
    assert readers[0].get("5") == completion("5", "text 5")
    assert sorted(int(one.key) for one in readers[1].completions()) == list(range(52))
    assert readers[2].count("doc 1") == 10 and len(readers[3]) == 52


def test_going_through_everything_beside_a_merge_gives_every_text_once(tmp_path):
    fill(tmp_path, 7)
    seen = []
    for one in TextCache(tmp_path).completions():
        if not seen:
            fill(tmp_path, 40)
        seen.append(one.key)
    assert sorted(map(int, seen)) == list(range(160))


def test_a_number_that_is_free_because_its_block_is_merged_is_no_commit(tmp_path):
    late = TextCache(tmp_path)
    late.add([completion("a", "first")])  # it has seen number 1 and no other
    other = TextCache(tmp_path)
    for key in "bcd":
        other.add([completion(key, "first")])
    assert names(tmp_path)[0] == "manifest-00000001.json"  # numbers 1 to 4 are free
    late.add([completion("c", "second"), completion("e", "first")])
    assert late.get("c").text == TextCache(tmp_path).get("c").text == "first"
    assert late.get("e") == TextCache(tmp_path).get("e") == completion("e", "first")
    assert [name for name in names(tmp_path) if name.endswith("-texts.parquet") and name > "00000004"] == ["00000005-texts.parquet"]


def test_of_two_merges_one_wins_and_the_other_changes_nothing(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    one, other = TextCache(tmp_path), TextCache(tmp_path)
    write, meanwhile = one._contents.write_merged, []

    def slow(*arguments):
        meanwhile.append(meanwhile or merging.merge(other._contents))
        return write(*arguments)

    monkeypatch.setattr(one._contents, "write_merged", slow)
    assert not merging.merge(one._contents)
    assert meanwhile[0] is True
    assert one.lookup(map(str, range(12))) == TextCache(tmp_path).lookup(map(str, range(12))) and len(one) == 12
    assert names(tmp_path)[0] == "manifest-00000001.json"
    fill(tmp_path, 12)
    counts = {file.name for file in TextCache(tmp_path)._contents.manifest.files}
    assert {f"merged/{path.name}" for path in (tmp_path / "merged").iterdir()} == counts  # what had lost is gone, too


def test_a_disk_that_is_full_stops_no_run_for_a_merge(tmp_path, monkeypatch, capsys):
    create = LocalStore.create

    def full(self, name, content):
        if name.startswith("merged/"):
            monkeypatch.setattr("selftrain.texts.cache.store.sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        return create(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "create", full)
        cache = fill(tmp_path, 4)
    assert "cannot be merged now" in capsys.readouterr().err
    assert len(cache) == len(TextCache(tmp_path)) == 16 and len(list(tmp_path.glob("*.parquet"))) == 4


def test_old_generations_are_emptied_and_their_names_stay_taken(tmp_path):
    fill(tmp_path, 16)
    sizes = [(tmp_path / f"manifest-{generation:08d}.json").stat().st_size for generation in (1, 2, 3, 4)]
    assert sizes[:2] == [0, 0] and min(sizes[2:]) > 100


# What breaks


def rot(file, place=None):
    """Flip bits of the page of a text."""
    content = bytearray(file.read_bytes())
    place = content.find(b"text ") if place is None else place
    for byte in range(place, place + 4):
        content[byte] ^= 0xFF
    file.write_bytes(content)


def merged_uncompressed(monkeypatch):
    monkeypatch.setattr(
        "selftrain.texts.cache.block._parquet",
        lambda table, **options: _written(table, **options | {"compression": "none"}),
    )


def _written(table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def test_a_page_of_a_merged_file_that_rotted_costs_its_row_group(tmp_path, monkeypatch, capsys):
    merged_uncompressed(monkeypatch)
    fill(tmp_path, 4)
    file = sorted((tmp_path / "merged").iterdir())[0]
    rows = pq.read_metadata(file).num_rows
    rot(file)
    cache = TextCache(tmp_path)
    lost = {str(number) for number in range(16)} - set(cache.lookup(map(str, range(16))))
    assert 1 <= len(lost) <= 3
    assert f"block {file} is broken" in (said := capsys.readouterr().err) and f"{len(lost)} of its {rows} texts are generated anew" in said
    assert broken_blocks(tmp_path) == {f"{file}.broken"} == set(cache.broken) and not file.exists()
    cache.add([completion(key, "anew") for key in lost])
    later = TextCache(tmp_path)
    assert {key for key, found in later.lookup(map(str, range(16))).items() if found.text == "anew"} == lost
    assert len(later) == 16 and later.broken == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"not parquet", None])
def test_a_merged_file_without_its_end_or_gone_costs_its_texts(tmp_path, capsys, content):
    fill(tmp_path, 4)
    file = sorted((tmp_path / "merged").iterdir())[0]
    rows = pq.read_metadata(file).num_rows
    file.unlink() if content is None else file.write_bytes(content)
    cache = TextCache(tmp_path)
    assert len(cache) == len(cache.lookup(map(str, range(16)))) == 16 - rows == len(list(TextCache(tmp_path).completions()))
    assert f"{rows} of its {rows} texts are generated anew" in capsys.readouterr().err
    assert TextCache(tmp_path).broken == []


def test_a_hash_that_rotted_is_found_and_the_texts_stay(tmp_path, monkeypatch, capsys):
    merged_uncompressed(monkeypatch)
    fill(tmp_path, 4)
    file = sorted((tmp_path / "merged").iterdir())[0]
    second = pq.read_table(file).column(HASH)[1].as_py()  # the first is in the statistics, too
    rot(file, file.read_bytes().find(second.to_bytes(8, "little")))
    assert len(TextCache(tmp_path).lookup(map(str, range(16)))) == 16
    assert "0 of its" in capsys.readouterr().err


def test_a_merge_finds_what_is_broken_and_goes_on(tmp_path, monkeypatch, capsys):
    merged_uncompressed(monkeypatch)
    fill(tmp_path, 8)
    rot(sorted((tmp_path / "merged").iterdir())[0])
    fill(tmp_path, 12)
    assert len(TextCache(tmp_path).lookup(map(str, range(48)))) >= 45
    assert "is broken" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 1, "generation": 2}'])
def test_a_broken_manifest_is_written_anew_and_costs_no_text(tmp_path, capsys, content):
    fill(tmp_path, 9)
    newest = sorted(tmp_path.glob("manifest-*.json"))[-1]
    generation = manifest.newest_generation([newest.name])
    newest.write_bytes(content)
    cache = TextCache(tmp_path)
    assert cache.broken == [f"{newest}.broken"] and "manifest" in capsys.readouterr().err
    assert len(cache) == 36 and cache.lookup(["35"]) == {"35": completion("35", "text 35")}
    cache.add([completion("35", "late"), completion("new")])
    assert names(tmp_path)[:2] == ["00000009-texts.parquet", "00000010-texts.parquet"]
    later = TextCache(tmp_path)
    assert later.broken == [] and later._contents.manifest.generation == generation + 1
    assert later.get("35").text == "text 35" and len(later) == 37


def test_a_merged_file_that_is_broken_with_the_manifest_is_kept_and_said(tmp_path, capsys):
    fill(tmp_path, 4)
    (tmp_path / "manifest-00000001.json").write_bytes(b"{")
    file = sorted((tmp_path / "merged").iterdir())[0]
    rows = pq.read_metadata(file).num_rows
    file.write_bytes(b"not parquet")
    assert len(TextCache(tmp_path)) == 16 - rows
    assert capsys.readouterr().err.count("is broken") == 2 and f"{file}.broken" in broken_blocks(tmp_path)
    fill(tmp_path, 20)
    assert len(TextCache(tmp_path)) == 80 and not file.exists()


def test_an_empty_newest_manifest_is_a_broken_one(tmp_path, capsys):
    fill(tmp_path, 4)
    (tmp_path / "manifest-00000001.json").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selftrain.texts.cache.contents.time.sleep", lambda seconds: None)
        assert len(TextCache(tmp_path)) == 16
    assert "manifest" in capsys.readouterr().err


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    fill(tmp_path, 4)
    file = tmp_path / "manifest-00000001.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match=r"manifest-00000001\.json was written by a later version of selftrain \(format 2\)"):
        TextCache(tmp_path)


def test_a_listing_that_stays_wrong_is_said(tmp_path, monkeypatch):
    """On NFS one may be old for a while, and then it is asked again."""
    (tmp_path / "00000001-texts.parquet").symlink_to(tmp_path / "nothing")
    asked = []
    monkeypatch.setattr("selftrain.texts.cache.contents.time.sleep", asked.append)
    with pytest.raises(DataError, match="lists files that are not there"):
        TextCache(tmp_path)
    assert 30 < sum(asked) < 120


# Against a dictionary

KEYS = [f"key {number}" for number in range(12)]
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.lists(st.sampled_from(KEYS), max_size=4)),
        st.tuples(st.just("merge"), st.integers(0, 2), st.just([])),
        st.tuples(st.just("look"), st.integers(0, 2), st.lists(st.sampled_from(KEYS), max_size=4)),
        st.tuples(st.just("open"), st.integers(0, 2), st.just([])),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=60)
@given(actions)
def test_any_order_of_adding_merging_and_looking_by_three_processes_is_a_dictionary_in_which_the_first_stays(steps):
    with tempfile.TemporaryDirectory() as folder:
        caches = [TextCache(folder) for _ in range(3)]
        truth = {}
        for number, (action, who, keys) in enumerate(steps):
            cache = caches[who]
            if action == "add":
                added = [completion(key, f"{key}, step {number}, place {place}") for place, key in enumerate(keys)]
                cache.add(added)
                for one in added:
                    truth.setdefault(one.key, one)
            elif action == "merge":
                merging.merge(cache._contents)
            elif action == "open":
                caches[who] = TextCache(folder)
            else:
                assert cache.lookup(keys) == {key: truth[key] for key in keys if key in truth}
        for cache in (*caches, TextCache(folder)):
            assert cache.lookup(KEYS) == truth
            assert len(cache) == len(truth) and {one.key: one for one in cache.completions()} == truth


class Killed(BaseException):
    """Nothing that is called after it happens, as after SIGKILL."""


class Disk:
    """Counts what the store does to the disk, and ends the process before one of these operations, or in the middle of a write."""

    OPERATIONS = ("link", "unlink", "replace", "fsync", "write")

    def __init__(self, patch, last):
        self.done, self.last = 0, last
        for where, name in ((os, "link"), (os, "unlink"), (os, "replace"), (os, "fsync"), (Path, "write_bytes"), (Path, "unlink")):
            patch.setattr(where, name, self.counted(getattr(where, name), half=name == "write_bytes"))

    def counted(self, operation, *, half):
        def do(*arguments, **options):
            if self.last is not None and self.done >= self.last:
                if half and self.done == self.last:
                    operation(arguments[0], arguments[1][: len(arguments[1]) // 2])
                self.done += 1
                raise Killed
            self.done += 1
            return operation(*arguments, **options)

        return do


def story(folder, committed):
    """Two processes write; every third text is written by both. `committed` gets what either has been told is committed."""
    caches = [TextCache(folder), TextCache(folder)]
    for number in range(9):
        cache = caches[number % 2]
        cache.add([completion(f"own {number}", f"by {number}"), completion(f"both {number // 2}", f"by {number}")])
        committed.update(cache.lookup([f"own {number}", f"both {number // 2}"]))


@pytest.mark.slow
def test_a_kill_before_or_in_any_operation_on_the_disk_loses_and_changes_no_committed_text(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, None)
        story(tmp_path / "whole", {})
    operations = disk.done
    assert operations > 60 and list((tmp_path / "whole").glob("manifest-*.json"))
    for last in range(operations):
        folder, committed = tmp_path / f"{last}", {}
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, last)
            with pytest.raises(Killed):
                story(folder, committed)
        if not folder.exists():
            continue
        later = TextCache(folder)
        assert later.lookup(committed) == committed and later.broken == [], last
        seen = {one.key: one for one in later.completions()}
        story(folder, {})  # it is continued
        final = TextCache(folder)
        assert final.lookup(seen) == seen and len(final) == 14, last
        assert {one.key for one in final.completions()} == {f"own {n}" for n in range(9)} | {f"both {n}" for n in range(5)}


# The parts


def test_a_merged_file_that_is_asked_for_nothing_is_not_opened(tmp_path):
    store = LocalStore(tmp_path)
    table = to_table([completion("a")])
    hashes = key_hashes(["a"])
    entry = manifest.MergedFile("gone.parquet", 1, 1, 1, int(hashes[0]), int(hashes[0]))
    block = Block(store, "gone.parquet", RowGroups(), entry)
    assert [len(found) for found in block.find(hashes + 1)] == [0, 0] and len(block.between(0, 1)) == 0
    assert merged_bytes(table.add_column(0, HASHED_SCHEMA.field(HASH), pa.array(hashes)))[:4] == b"PAR1"


def test_a_manifest_is_what_was_written_and_unlisted_is_what_no_generation_can_count():
    file = manifest.MergedFile("merged/00000002-a.parquet", 3, 100, 50, 1, 2**64 - 1)
    one = manifest.Manifest(2, 17, ((file,), (replace(file, name="merged/00000001-b.parquet"),)))
    assert manifest.Manifest.from_bytes(one.to_bytes(), "here") == one
    there = ["00000001-b.parquet", "00000001-lost.parquet", "00000002-a.parquet", "00000002-lost.parquet", "00000003-at-work.parquet", "x.broken"]
    assert manifest.unlisted(there, one) == ["merged/00000001-lost.parquet", "merged/00000002-lost.parquet"]
    assert one.swapped(file.name, []) == manifest.Manifest(3, 17, one.runs[1:])
