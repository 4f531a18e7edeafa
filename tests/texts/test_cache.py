"""GenDict on disk: keys, blocks, and what a kill leaves."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_writers import KEYS, two_writers_agree
from hypothesis import given
from hypothesis import strategies as st

from selftrain.errors import OutputError, SelfTrainError
from selftrain.texts.cache import Completion, TextCache, broken_blocks, cache_key
from selftrain.texts.cache.store import LocalStore


def completion(key, text="a text"):
    return Completion(key, "doc", "input", "", 0, text, False, 10, 3)


def test_a_second_reader_finds_what_the_first_wrote(tmp_path):
    TextCache(tmp_path).add([completion("a"), completion("b", "naïve – ‘quotes’ 日本")])
    again = TextCache(tmp_path)
    assert len(again) == 2
    assert again.get("b") == completion("b", "naïve – ‘quotes’ 日本")
    assert again.get("c") is None


def test_a_known_key_is_not_written_twice(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([completion("a", "first")])
    cache.add([completion("a", "second")])
    assert cache.get("a").text == "first"
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_what_a_kill_leaves_of_a_block_in_flight_is_ignored(tmp_path):
    TextCache(tmp_path).add([completion("a")])
    (tmp_path / ".half.tmp").write_bytes(b"PAR1 half a block")
    assert len(TextCache(tmp_path)) == 1


def test_a_block_appears_under_its_name_when_it_is_whole(tmp_path, monkeypatch):
    """A reader beside the writer, or after a kill in the middle of it, never sees half of a block."""
    cache, link, during = TextCache(tmp_path), os.link, []

    def later(scratch, file):
        during.append((len(TextCache(tmp_path)), Path(file).exists(), pq.read_metadata(scratch).num_rows))
        link(scratch, file)

    monkeypatch.setattr("selftrain.texts.cache.store.os.link", later)
    cache.add([completion("a"), completion("b")])
    assert during == [(0, False, 2)] and len(TextCache(tmp_path)) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]  # no scratch is left


def test_a_block_is_on_the_disk_before_it_counts_and_so_is_its_name(tmp_path, monkeypatch):
    done, link = [], os.link
    monkeypatch.setattr("selftrain.texts.cache.store.sync", lambda path: done.append("file" if path.is_file() else "folder"))
    monkeypatch.setattr("selftrain.texts.cache.store.os.link", lambda *names: (done.append("link"), link(*names)))
    TextCache(tmp_path).add([completion("a")])
    assert done == ["file", "link", "folder"]


def test_a_block_that_cannot_be_written_leaves_the_cache_as_it_was(tmp_path, monkeypatch):
    cache = TextCache(tmp_path)
    cache.add([completion("a")])

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("selftrain.texts.cache.store.sync", full)
        with pytest.raises(SelfTrainError, match=r"parquet cannot be written: the disk is full \(No space left on device\); free some space"):
            cache.add([completion("b")])
    assert len(cache) == len(TextCache(tmp_path)) == 1 and cache.get("b") is None
    assert len(list(tmp_path.iterdir())) == 1
    cache.add([completion("b")])
    assert len(TextCache(tmp_path)) == 2


def test_a_file_system_without_hard_links_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def refused(scratch, file):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("selftrain.texts.cache.store.os.link", refused)
    with pytest.raises(
        OutputError, match=r"00000001-texts\.parquet cannot be written: .* hard links \(Operation not permitted\); set augment\.cache"
    ):
        TextCache(tmp_path).add([completion("a")])


def test_a_link_whose_answer_got_lost_has_succeeded(tmp_path, monkeypatch):
    """An NFS client that gets no answer asks again, and hears that the name is taken: by itself."""
    link = os.link

    def twice(scratch, file):
        link(scratch, file)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr("selftrain.texts.cache.store.os.link", twice)
    cache = TextCache(tmp_path)
    cache.add([completion("a")])
    assert len(list(tmp_path.iterdir())) == 1 and cache.get("a") == completion("a")
    assert LocalStore(tmp_path).create("manifest", b"ours")  # a merge that believes that it has lost would remove nothing, but merge again


def test_a_folder_in_a_folder_is_made_and_nothing_is_written_for_nothing(tmp_path):
    folder = tmp_path / "new" / "folder"
    TextCache(folder).add([])
    assert folder.is_dir() and list(folder.iterdir()) == []


def test_a_block_holds_what_is_new_and_completions_are_counted_by_document(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([completion("a")])
    cache.add([completion("a", "again"), completion("b"), Completion("c", "other", "conditional", "sport", 1, "a text", True, 1, 2)])
    assert [len(pq.read_table(file)) for file in sorted(tmp_path.glob("*.parquet"))] == [1, 2]
    assert (cache.count("doc"), cache.count("other"), cache.count("none")) == (2, 1, 0)
    assert sorted(found.key for found in cache.completions()) == ["a", "b", "c"]
    assert cache.get("c") == TextCache(tmp_path).get("c") == Completion("c", "other", "conditional", "sport", 1, "a text", True, 1, 2)


def test_the_key_of_a_text_is_the_one_it_has_always_been():
    """Another key would make every text that was ever generated be generated again."""
    key = cache_key(document="abc", prompt="Ein Text über „Fußball“: ", model="gemma", sampling={"top_p": 0.9, "temperature": 1.0}, sample=2)
    assert key == hashlib.sha256('["abc", "Ein Text über „Fußball“: ", "gemma", {"temperature": 1.0, "top_p": 0.9}, 2]'.encode()).hexdigest()[:32]


@pytest.mark.parametrize("content", [b"not parquet", b"", b"PAR1" + b"\0" * 64 + b"PAR1"])
def test_a_broken_block_costs_its_own_texts_and_is_said(tmp_path, capsys, content):
    TextCache(tmp_path).add([completion("a")])
    TextCache(tmp_path).add([completion("b")])
    second = sorted(tmp_path.glob("*.parquet"))[1]
    second.write_bytes(content)
    cache = TextCache(tmp_path)
    assert cache.get("a") and cache.get("b") is None
    aside = second.with_name(f"{second.name}.broken")
    assert cache.broken == [str(aside)] and broken_blocks(tmp_path) == {str(aside)} and aside.read_bytes() == content  # kept for who wants to look
    assert str(second) in capsys.readouterr().err
    cache.add([completion("b", "anew")])
    again = TextCache(tmp_path)
    assert again.get("b").text == "anew" and again.broken == [] and capsys.readouterr().err == ""


def test_the_number_of_a_block_that_was_set_aside_stays_taken(tmp_path, capsys):
    """Else a writer that has seen no later one would commit there, before what is committed already."""
    late = TextCache(tmp_path)
    late.add([completion("a")])
    TextCache(tmp_path).add([completion("b")])
    (tmp_path / "00000002-texts.parquet").write_bytes(b"not parquet")
    TextCache(tmp_path).add([completion("c", "first")])
    late.add([completion("c", "second"), completion("d")])
    assert late.get("c").text == TextCache(tmp_path).get("c").text == "first" and late.get("d") == TextCache(tmp_path).get("d") == completion("d")
    assert (tmp_path / "00000004-texts.parquet").exists() and "is broken" in capsys.readouterr().err


def test_a_page_that_rotted_and_a_column_that_is_missing_are_broken_blocks(tmp_path, capsys):
    TextCache(tmp_path).add([completion(f"{n}", f"text {n}") for n in range(50)])
    (block,) = tmp_path.glob("*.parquet")
    content = bytearray(block.read_bytes())
    content[4:40] = b"\xff" * 36
    block.write_bytes(content)
    pq.write_table(pa.table({"key": ["k"]}), tmp_path / "00000009-short.parquet")
    cache = TextCache(tmp_path)
    assert len(cache) == 0 and len(cache.broken) == 2
    capsys.readouterr()


def test_a_block_that_may_not_be_read_is_no_broken_one(tmp_path, monkeypatch):
    TextCache(tmp_path).add([completion("a")])

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(SelfTrainError, match=r"\.parquet cannot be read \(Permission denied\)"):
        TextCache(tmp_path)
    assert broken_blocks(tmp_path) == set() and len(list(tmp_path.glob("*.parquet"))) == 1


def test_of_two_writers_of_a_key_the_first_commit_counts_for_both_and_for_all_later_runs(tmp_path):
    one, other = TextCache(tmp_path), TextCache(tmp_path)
    one.add([completion("a", "first")])
    other.add([completion("a", "second"), completion("b", "of the other")])
    assert other.get("a").text == "first"  # what it reports is what stays
    later = TextCache(tmp_path)
    assert (later.get("a").text, later.get("b").text) == ("first", "of the other")
    assert sum(table.num_rows for table in map(pq.read_table, tmp_path.glob("*.parquet"))) == 2


@pytest.mark.slow
def test_two_processes_that_write_the_same_keys_report_the_same_texts_as_a_later_run(tmp_path):
    assert two_writers_agree(tmp_path, log_blocks=1000)
    assert sum(pq.read_metadata(file).num_rows for file in tmp_path.glob("*.parquet")) == len(KEYS)


def test_blocks_without_numbers_count_as_they_always_did_and_before_the_numbered(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([completion("a", "numbered"), completion("b", "numbered")])
    blank = TextCache(tmp_path / "other")
    blank.add([completion("a", "earlier name")])
    next((tmp_path / "other").glob("*.parquet")).rename(tmp_path / f"{'1' * 32}.parquet")
    blank = TextCache(tmp_path / "another")
    blank.add([completion("a", "later name")])
    next((tmp_path / "another").glob("*.parquet")).rename(tmp_path / f"{'2' * 32}.parquet")
    found = TextCache(tmp_path)
    assert (found.get("a").text, found.get("b").text) == ("later name", "numbered")


def test_blocks_are_plain_parquet(tmp_path):
    TextCache(tmp_path).add([completion("a")])
    assert pq.read_table(next(tmp_path.glob("*.parquet"))).column("text").to_pylist() == ["a text"]


def test_a_block_says_its_types_whatever_it_holds_and_one_with_more_columns_opens(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([completion("a")])
    (file,) = tmp_path.glob("*.parquet")
    schema = pq.read_schema(file)
    assert [str(schema.field(name).type) for name in ("key", "sample", "cut_off", "prompt_tokens", "generated_tokens")] == [
        "string",
        "int32",
        "bool",
        "int32",
        "int32",
    ]
    pq.write_table(pq.read_table(file).append_column("added_later", [[1]]), file)
    assert TextCache(tmp_path).get("a") == completion("a")


parts = st.fixed_dictionaries(
    {
        "document": st.sampled_from(["a", "b"]),
        "prompt": st.text(max_size=20),
        "model": st.text(max_size=8),
        "sampling": st.dictionaries(st.sampled_from(["temperature", "top_p", "max_tokens"]), st.integers(0, 3)),
        "sample": st.integers(0, 3),
    }
)


@given(parts, parts)
def test_keys_are_equal_exactly_when_everything_asked_is(one, other):
    assert (cache_key(**one) == cache_key(**other)) == (one == other)


@given(parts)
def test_the_order_of_sampling_options_does_not_matter(one):
    turned = {**one, "sampling": dict(reversed(list(one["sampling"].items())))}
    assert cache_key(**one) == cache_key(**turned)
