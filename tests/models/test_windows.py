"""Windows of long documents: where they are, and that an embedding is the mean of theirs, by hand."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_backbone
from tokenizers import Tokenizer, models, pre_tokenizers

from selftrain.config import parse
from selftrain.errors import ConfigError
from selftrain.models import windows
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.models.open import open_encoder
from selftrain.models.windows import Split, Splitter, geometric_mean, over_windows, places, splitter_of

LONG = "team coach league match goal player market bank profit shares economy film music actor album band show party law vote"
WORDS = LONG.split()  # 20 tokens: two windows of six are words 0 to 5 and 14 to 19
HALVES = (" ".join(WORDS[:6]), " ".join(WORDS[14:]))
SHORT = "the match about sport"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def plain(backbone):
    return TextEncoder(backbone, max_tokens=8).eval()  # six words, and the two special tokens


@pytest.fixture
def read_in_two(backbone):
    return TextEncoder(backbone, max_tokens=8, windows=2).eval()


def moved(head):
    with torch.no_grad():
        head.layer.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        head.layer.linear.bias.fill_(0.1)
    return head


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, [(0, 0)]),
        (6, [(0, 6)]),
        (7, [(0, 4), (3, 7)]),  # no more is computed than the text has
        (12, [(0, 6), (6, 12)]),
        (17, [(0, 6), (5, 11), (11, 17)]),
        (18, [(0, 6), (6, 12), (12, 18)]),
        (21, [(0, 6), (7, 13), (15, 21)]),  # too long for three: from its beginning to its end
        (100, [(0, 6), (47, 53), (94, 100)]),
    ],
)
def test_windows_hold_the_whole_text_or_are_spread_over_it(tokens, expected):
    assert places(tokens, 6, 3) == expected


def test_a_text_is_cut_where_tokens_begin_and_end(backbone):
    split = splitter_of(backbone, 8, 2)
    assert split([f"  {LONG}. ", SHORT]) == [Split((HALVES[0], " ".join([*WORDS[15:], ""]).strip() + "."), False), Split((SHORT,), False)]
    assert splitter_of(backbone, 8, 4)([LONG])[0].windows == tuple(" ".join(WORDS[at : at + 5]) for at in (0, 5, 10, 15))


def test_a_text_is_truncated_where_more_than_4096_tokens_or_65536_characters_are_left(backbone):
    split = splitter_of(backbone, 8, 2)
    texts = ["team " * 4096, "team " * 4097, "team" + " " * 70_000, "team" + " " * 70_000 + "coach"]
    assert [one.truncated for one in split(texts)] == [False, True, False, True]
    assert split(["team " * 4095 + "coach " + "match " * 500])[0].windows[1] == "team team team team team coach"


def test_windows_that_are_kept_are_those_that_are_made(backbone, monkeypatch):
    monkeypatch.setattr(windows, "_KEPT_TEXTS", 2)
    texts = [LONG, SHORT, LONG[:60], LONG[20:], SHORT]
    kept, expected = splitter_of(backbone, 8, 2), Splitter(backbone.tokenizer.backend_tokenizer, 8, 2)(texts)
    assert kept(texts) == expected and kept(texts[::-1]) == expected[::-1] and kept([LONG]) == expected[:1]
    assert len(kept._kept) <= 2


def test_an_encoder_of_windows_can_be_copied_and_sent(backbone, read_in_two):
    head = moved(HeadEncoder(backbone, max_tokens=8, windows=2))
    for encoder in (read_in_two, head):
        for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(twin.encode([LONG, SHORT]), encoder.encode([LONG, SHORT]))


def test_an_embedding_is_the_mean_of_its_windows(plain, read_in_two):
    first, second = plain.encode(list(HALVES))
    expected = torch.stack([(first + second) / 2, plain.encode([SHORT])[0]])
    torch.testing.assert_close(read_in_two.encode([LONG, SHORT]), expected)
    assert float(expected[0].norm()) < 0.999  # it is not scaled to length one again
    torch.testing.assert_close(read_in_two([LONG, SHORT]), expected)


def test_the_gradient_is_that_of_the_mean(plain, read_in_two):
    def gradient(embedding):
        (found,) = torch.autograd.grad(embedding @ torch.arange(32.0), plain.backbone[0].auto_model.embeddings.word_embeddings.weight)
        return found

    first, second = plain(list(HALVES))
    torch.testing.assert_close(gradient(read_in_two([LONG])[0]), gradient((first + second) / 2))


def test_documents_that_one_window_holds_are_read_as_ever(plain, read_in_two):
    texts = [SHORT, "music and film", "team", " the bank  "]
    assert torch.equal(read_in_two.encode(texts), plain.encode(texts)) and torch.equal(read_in_two(texts), plain(texts))
    assert read_in_two.encode([]).shape == (0, 32)


def test_the_first_window_is_continued(plain, read_in_two):
    continuations = [["goal", "show the law"], ["about music"]]
    first = F.normalize(plain.encode([f"{HALVES[0]} {one}" for one in continuations[0]], max_tokens=16).mean(dim=0), dim=0)
    second = plain.encode([HALVES[1]])[0]
    expected = torch.stack([(first + second) / 2, plain.encode([f"{SHORT} about music"], max_tokens=16)[0]])
    torch.testing.assert_close(read_in_two.encode_augmented([LONG, SHORT], continuations), expected)
    assert torch.equal(read_in_two.encode_augmented([SHORT], [["goal"]]), plain.encode_augmented([SHORT], [["goal"]]))


def test_a_head_is_trained_on_the_mean_of_frozen_windows_and_predicts_as_its_bundle_does(backbone, plain, tmp_path):
    head = moved(HeadEncoder(backbone, cache=tmp_path / "kept", max_tokens=8, windows=2))
    trunk = plain.encode([*HALVES, SHORT])
    rows = torch.stack([F.normalize(trunk[:2].mean(dim=0), dim=0), trunk[2]])
    torch.testing.assert_close(head.inputs([LONG, SHORT]), rows)
    torch.testing.assert_close(head([LONG, SHORT]), head.of_inputs(rows))
    each = F.normalize(trunk + torch.tanh(trunk @ head.layer.linear.weight.T + 0.1), dim=1).detach()
    torch.testing.assert_close(head.encode([LONG, SHORT]), torch.stack([each[:2].mean(dim=0), each[2]]))
    torch.testing.assert_close(head.uncached().encode([LONG]), head.encode([LONG]))
    assert head.encode([]).shape == (0, 32)


def test_a_head_reads_short_documents_as_ever(backbone):
    one, two = (moved(HeadEncoder(backbone, max_tokens=8, windows=windows)) for windows in (1, 2))
    texts = [SHORT, "music and film"]
    assert (
        torch.equal(one.inputs(texts), two.inputs(texts))
        and torch.equal(one.encode(texts), two.encode(texts))
        and torch.equal(one(texts), two(texts))
    )


def test_the_windows_of_a_head_share_its_cache_with_documents(backbone, tmp_path):
    """A window is a text of its own, so what belongs to its key is what belongs to a document's."""
    HeadEncoder(backbone, cache=tmp_path / "kept", max_tokens=8).encode(list(HALVES))
    head = HeadEncoder(backbone, cache=tmp_path / "kept", max_tokens=8, windows=2)
    head._trunk[0].encode = lambda *_: pytest.fail("nothing is missing")
    head.encode([LONG])
    three = HeadEncoder(backbone, cache=tmp_path / "kept", max_tokens=8, windows=3)
    assert not torch.allclose(three.encode([LONG]), head.encode([LONG]))


def test_probabilities_are_the_geometric_mean_over_windows():
    rows = [[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]
    first = 0.8**0.5 * 0.5**0.5
    expected = first / (first + 0.2**0.5 * 0.5**0.5)  # 2/3
    assert geometric_mean(torch.tensor(rows[:2], dtype=torch.float64).numpy()).tolist() == pytest.approx([expected, 1 - expected])
    assert expected == pytest.approx(2 / 3)
    found = over_windows(torch.tensor(rows, dtype=torch.float64).numpy(), [2, 1])
    assert found[0].tolist() == pytest.approx([2 / 3, 1 / 3]) and found[1].tolist() == [0.1, 0.9]


def test_an_experiment_sets_them(corpus, tmp_path):
    tiny_backbone(tmp_path / "e")
    for train in ("full", "head"):
        config = parse(
            {"model": {"encoder": str(tmp_path / "e"), "cache": str(tmp_path / "kept"), "train": train, "max_tokens": 8, "windows": 2}}
        ).model
        assert [len(one.windows) for one in open_encoder(config, corpus).splitter([LONG, SHORT])] == [2, 1]
    with pytest.raises(ConfigError, match=r"model\.windows must be 1: model\.encoder bilstm.*\(got 2\)"):
        open_encoder(parse({"model": {"encoder": "bilstm", "similarity": "dot", "windows": 2}}).model, corpus)


def test_a_tokenizer_of_words_has_no_windows(backbone):
    class Words:
        tokenizer = object()

    with pytest.raises(ConfigError, match=r"model\.windows must be 1: the encoder's tokenizer"):
        splitter_of(Words(), 8, 2)


def test_a_tokenizer_without_special_tokens_fills_the_window():
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*WORDS, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Splitter(tokenizer, 10, 2)([LONG])[0].windows == (" ".join(WORDS[:10]), " ".join(WORDS[10:]))
