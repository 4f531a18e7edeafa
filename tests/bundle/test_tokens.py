"""Token ids are the tokenizer's own, whichever way they are found, and batches waste little padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import tiny_backbone
from tokenizers import Tokenizer, models, pre_tokenizers

from selftrain.bundle.tokens import BATCH_START_TOKENS, FastReader, Tokens, _WordPieces, batches, padded, reader_of
from selftrain.errors import BundleError
from selftrain.models.bilstm import BiLSTMEncoder, bilstm
from selftrain.models.encoder import TextEncoder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> SentenceTransformer:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reader(backbone):
    return reader_of(backbone, 16)


def asked(backbone: SentenceTransformer, text: str, longest: int) -> Tokens:
    """By an independent way: transformers' call of the tokenizer, with the cut and without."""
    return Tokens(backbone.tokenizer(text, truncation=True, max_length=longest)["input_ids"], len(backbone.tokenizer(text)["input_ids"]) > longest)


ASCII = st.text(st.characters(codec="ascii"), max_size=60)
WORDS = st.lists(
    st.sampled_from(["match", "don't", "Sport!", "[SEP]", "[sep]", "a-b", "x" * 120, "\t", "\x07", "naïve", "中文", "U.S.", "_", "team"]), max_size=30
)


@settings(deadline=None)
@example("match " * 5 + "x" * 400)
@example("team " * 13 + "x" * 400)
@example("team " * 14 + "x" * 400)
@given(
    st.one_of(
        st.text(max_size=60),
        ASCII,
        WORDS.map(" ".join),
        WORDS.map("".join),
        st.integers(10, 80).map(lambda count: "team " * count),
        st.just("team " * 14 + " " * 300 + "\x07"),
    )
)
def test_ids_and_whether_the_text_goes_on_are_the_tokenizers_own(backbone, reader, text: str) -> None:
    assert reader([text]) == [asked(backbone, text, 16)]


@settings(deadline=None)
@given(st.one_of(st.text(st.sampled_from("ab \n[]é\u0301中\u2003"), max_size=400), WORDS.map(lambda words: " ".join(words * 9))))
def test_the_head_of_a_long_text_is_enough_only_where_it_fills_the_length(backbone, reader, text: str) -> None:
    assert reader([text, "x" * 300, " " * 300 + text]) == [asked(backbone, one, 16) for one in (text, "x" * 300, " " * 300 + text)]


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=60), ASCII, WORDS.map(" ".join)), max_size=3))
def test_a_text_is_cut_where_training_cuts_it(backbone, reader, texts: list[str]) -> None:
    found = reader.cut(texts)
    assert [one.text for one in found] == (TextEncoder(backbone, max_tokens=16).cut(texts) if texts else [])
    assert [one.truncated for one in found] == [len(backbone.tokenizer(text)["input_ids"]) > 16 for text in texts]


def test_another_length_is_read_by_the_same_rules(backbone, reader, tmp_path) -> None:
    text = "the team's coach, Zoë, won [SEP] " * 8
    reader.save(tmp_path / "tokenizer.json")
    for one in (reader, FastReader.load(tmp_path / "tokenizer.json")):
        longer = one.up_to(40)
        assert longer([text]) == [asked(backbone, text, 40)] and longer.padding == one.padding
        assert one([text]) == [asked(backbone, text, 16)]


def test_words_are_looked_up_and_not_asked_for_again(backbone) -> None:
    looked_up = reader_of(backbone, 16)._words
    assert isinstance(looked_up, _WordPieces)
    assert looked_up("the team won") == asked(backbone, "the team won", 16)
    assert set(looked_up._known) == {"the", "team", "won"}
    assert looked_up("naïve") is None and looked_up("a [SEP] b") is None and looked_up("bell \x07") is None


def test_a_tokenizer_of_another_kind_is_asked_itself(tmp_path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "match": 1, "team": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=torch.eye(3))], device="cpu")
    reader = reader_of(encoder, 3)
    assert reader._words is None
    assert reader(["team match what team", "match"]) == [Tokens([2, 1, 0], True), Tokens([1], False)]
    reader.save(tmp_path / "tokenizer.json")
    assert FastReader.load(tmp_path / "tokenizer.json")(["team match what team"]) == [Tokens([2, 1, 0], True)]


def test_the_padding_is_the_tokenizers_own(backbone, tmp_path) -> None:
    backbone.tokenizer.pad_token = "[MASK]"
    try:
        reader = reader_of(backbone, 16)
    finally:
        backbone.tokenizer.pad_token = "[PAD]"
    assert reader.padding == 4
    reader.save(tmp_path / "tokenizer.json")
    assert FastReader.load(tmp_path / "tokenizer.json").padding == 4


def test_a_damaged_tokenizer_is_one_sentence(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        FastReader.load(tmp_path / "tokenizer.json")


def test_words_of_a_bilstm_are_cut_too() -> None:
    reader = reader_of(bilstm(["match", "team"]), 3)
    assert reader(["team match team match", "team match team", "nothing known", "match"]) == [
        Tokens([2, 1, 2], True),
        Tokens([2, 1, 2], False),
        Tokens([], False),
        Tokens([1], False),
    ]
    texts = ["team match what team", "match"]
    assert [one.text for one in reader.cut(texts)] == BiLSTMEncoder(bilstm(["match", "team"]), max_tokens=3).cut(texts)
    assert [one.truncated for one in reader.cut(texts)] == [True, False]
    assert [one.truncated for one in reader.cut(["match team match", "match team match x"])] == [False, True]  # three words are read
    assert reader.up_to(4)(["team match team match team"]) == [Tokens([2, 1, 2, 1], True)] and reader(["team match team match"]) == [
        Tokens([2, 1, 2], True)
    ]
    assert reader([]) == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 64), max_size=200), st.integers(1, 40))
def test_every_text_is_in_one_batch_and_padding_is_bounded(lengths: list[int], most: int) -> None:
    found = list(batches(lengths, most))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert 1 <= len(batch) <= most
        own = [lengths[index] for index in batch]
        assert own == sorted(own)
        assert len(batch) * own[-1] - sum(own) <= BATCH_START_TOKENS


def test_mixed_lengths_waste_less_than_one_batch_would() -> None:
    lengths = list(np.random.default_rng(0).integers(4, 65, size=256))
    cost = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches(lengths, 64))
    assert cost < 1.1 * sum(lengths) < 0.7 * 256 * max(lengths)


def test_rows_are_filled_to_the_longest() -> None:
    ids, mask = padded([[5, 6], [], [7, 8, 9]], 1)
    assert ids.tolist() == [[5, 6, 1], [1, 1, 1], [7, 8, 9]] and mask.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int64
    assert padded([[]], 0)[0].shape == (1, 1)


def test_the_head_of_a_long_text_is_short_and_ends_between_words(reader) -> None:
    text = "match " * 1000
    head = reader._words.head(text)
    assert len(head) <= 12 * 14 and text.startswith(f"{head} ") and set(head.split()) == {"match"}


def test_a_long_word_is_not_taken_for_its_first_letter(backbone) -> None:
    reader = reader_of(backbone, 3)  # room for one piece
    for text in ("x" * 300, "match" * 60):
        assert reader([text]) == [asked(backbone, text, 3)]
