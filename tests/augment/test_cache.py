"""GenDict on disk: keys, blocks, and what a kill leaves."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.augment.cache import Answer, TextCache, cache_key
from selftrain.errors import UserError


def answer(key, text="a text"):
    return Answer(key, "doc", "input", "", 0, text, False, 10, 3)


def test_a_second_reader_finds_what_the_first_wrote(tmp_path):
    TextCache(tmp_path).add([answer("a"), answer("b", "naïve – ‘quotes’ 日本")])
    again = TextCache(tmp_path)
    assert len(again) == 2
    assert again.get("b") == answer("b", "naïve – ‘quotes’ 日本")
    assert again.get("c") is None


def test_a_known_key_is_not_written_twice(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([answer("a", "first")])
    cache.add([answer("a", "second")])
    assert cache.get("a").text == "first"
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_what_a_kill_leaves_of_a_block_in_flight_is_ignored(tmp_path):
    TextCache(tmp_path).add([answer("a")])
    (tmp_path / ".half.tmp").write_bytes(b"PAR1 half a block")
    assert len(TextCache(tmp_path)) == 1


def test_a_block_appears_under_its_name_when_it_is_whole(tmp_path, monkeypatch):
    """A reader beside the writer, or after a kill in the middle of it, never sees half of a block."""
    cache, write, during = TextCache(tmp_path), pq.write_table, []

    def slowly(table, where, **options):
        write(table, where, **options)
        Path(where).write_bytes(Path(where).read_bytes()[:-10])  # the end is still to come
        during.append(len(TextCache(tmp_path)))
        write(table, where, **options)

    monkeypatch.setattr("selftrain.augment.cache.pq.write_table", slowly)
    cache.add([answer("a"), answer("b")])
    assert during == [0] and len(TextCache(tmp_path)) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]  # no scratch is left


def test_a_block_that_cannot_be_written_leaves_the_cache_as_it_was(tmp_path, monkeypatch):
    cache = TextCache(tmp_path)
    cache.add([answer("a")])

    def full(table, where, **options):
        Path(where).write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("selftrain.augment.cache.pq.write_table", full)
        with pytest.raises(OSError, match="No space"):
            cache.add([answer("b")])
    assert len(cache) == len(TextCache(tmp_path)) == 1 and cache.get("b") is None
    cache.add([answer("b")])
    assert len(TextCache(tmp_path)) == 2


def test_a_folder_in_a_folder_is_made_and_nothing_is_written_for_nothing(tmp_path):
    folder = tmp_path / "new" / "folder"
    TextCache(folder).add([])
    assert folder.is_dir() and list(folder.iterdir()) == []


def test_a_block_holds_what_is_new_and_answers_are_counted_by_document(tmp_path):
    cache = TextCache(tmp_path)
    cache.add([answer("a")])
    cache.add([answer("a", "again"), answer("b"), Answer("c", "other", "conditional", "sport", 1, "a text", True, 1, 2)])
    assert [len(pq.read_table(file)) for file in sorted(tmp_path.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)] == [1, 2]
    assert (cache.count("doc"), cache.count("other"), cache.count("none")) == (2, 1, 0)
    assert sorted(found.key for found in cache.answers()) == ["a", "b", "c"]
    assert cache.get("c") == TextCache(tmp_path).get("c") == Answer("c", "other", "conditional", "sport", 1, "a text", True, 1, 2)


def test_the_key_of_a_text_is_the_one_it_has_always_been():
    """Another key would make every text that was ever generated be generated again."""
    key = cache_key(document="abc", prompt="Ein Text über „Fußball“: ", model="gemma", sampling={"top_p": 0.9, "temperature": 1.0}, sample=2)
    assert key == hashlib.sha256('["abc", "Ein Text über „Fußball“: ", "gemma", {"temperature": 1.0, "top_p": 0.9}, 2]'.encode()).hexdigest()[:32]


def test_a_damaged_block_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"bad\.parquet.*delete that file"):
        TextCache(tmp_path)


def test_blocks_are_plain_parquet(tmp_path):
    TextCache(tmp_path).add([answer("a")])
    assert pq.read_table(next(tmp_path.glob("*.parquet"))).column("text").to_pylist() == ["a text"]


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
