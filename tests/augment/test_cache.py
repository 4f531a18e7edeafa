"""GenDict on disk: keys, blocks, and what a kill leaves."""

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
