"""A head on frozen embeddings: what is trained, what is cached, and that the exported encoder gives the same embeddings."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from tiny import tiny_backbone

from selftrain.models.encoder import TextEncoder
from selftrain.models.head import EmbeddingCache, HeadEncoder
from selftrain.models.student import Student

TEXTS = ["the match", "the market fell on profit", "music and film"]


@pytest.fixture
def trunk(tmp_path):
    return tiny_backbone(tmp_path / "encoder")


def moved(encoder):
    with torch.no_grad():
        encoder.layer.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
        encoder.layer.linear.bias.fill_(0.1)
    return encoder


def test_untrained_it_is_the_encoder_as_it_is(trunk):
    plain, head = TextEncoder(trunk, max_tokens=16).eval(), HeadEncoder(trunk, max_tokens=16)
    torch.testing.assert_close(head.encode(TEXTS), plain.encode(TEXTS))
    torch.testing.assert_close(head.encode_augmented(TEXTS, [["more"], [], ["x"]]), plain.encode_augmented(TEXTS, [["more"], [], ["x"]]))


def test_without_normalisation_embeddings_have_the_length_of_the_trunks(trunk, tmp_path):
    """By hand: the trunk's pooled embedding before its last module, and the direction that the head gives it."""
    assert isinstance(trunk[-1], Normalize)
    pooled = TextEncoder(SentenceTransformer(modules=list(trunk)[:-1], device="cpu"), max_tokens=16, normalize=False).eval().encode(TEXTS)
    lengths = pooled.norm(dim=1)
    assert (lengths - 1).abs().min() > 0.1 and lengths.std() > 0.01
    torch.testing.assert_close(TextEncoder(trunk, max_tokens=16).unnormalized().encode(TEXTS), pooled)
    head = HeadEncoder(trunk, cache=tmp_path / "cache", max_tokens=16)
    torch.testing.assert_close(head.unnormalized().encode(TEXTS), pooled)
    moved(head)
    layer = head.layer({"sentence_embedding": pooled / lengths.unsqueeze(1)})["sentence_embedding"]
    torch.testing.assert_close(head.unnormalized().encode(TEXTS), layer * lengths.unsqueeze(1))
    torch.testing.assert_close(head.encode(TEXTS).norm(dim=1), torch.ones(3))  # itself it is as it was


def test_the_layer_alone_is_trained_and_saved(trunk):
    head = HeadEncoder(trunk, max_tokens=16)
    assert {name for name, _ in head.named_parameters()} == {"layer.linear.weight", "layer.linear.bias"}
    assert set(head.state_dict()) == {"layer.linear.weight", "layer.linear.bias"}
    head(TEXTS).sum().backward()
    assert all(parameter.grad is None for parameter in trunk.parameters())
    assert head.layer.linear.weight.grad.abs().sum() > 0  # zero weights do not stop the gradient


def test_the_exported_encoder_gives_the_same_embeddings_without_us(trunk, tmp_path):
    head = moved(HeadEncoder(trunk, max_tokens=16))
    head.export().save_pretrained(str(tmp_path / "out"))
    opened = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    opened.max_seq_length = 16
    found = torch.nn.functional.normalize(torch.from_numpy(opened.encode(TEXTS)), dim=1)
    torch.testing.assert_close(found, head.encode(TEXTS), atol=1e-5, rtol=1e-4)


def test_embeddings_are_made_once_and_kept_on_disk(trunk, tmp_path, monkeypatch):
    first = HeadEncoder(trunk, cache=tmp_path / "cache", max_tokens=16).encode(TEXTS)
    calls = []
    again = HeadEncoder(trunk, cache=tmp_path / "cache", max_tokens=16)
    monkeypatch.setattr(again._trunk[0], "encode", lambda *a, **k: calls.append(a))
    assert torch.equal(again.encode(TEXTS[::-1]), first.flip(0))
    assert calls == []
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_how_much_is_read_belongs_to_the_key(tmp_path):
    long = " ".join(["the market fell"] * 20)
    short, longer = (
        HeadEncoder(tiny_backbone(tmp_path / str(tokens)), cache=tmp_path / "cache", max_tokens=tokens).encode([long]) for tokens in (8, 32)
    )
    assert not torch.equal(short, longer)


def test_a_block_that_was_being_written_is_not_read(tmp_path):
    cache = EmbeddingCache(tmp_path / "c")
    cache.add(["a"], np.ones((1, 4), dtype=np.float32))
    (tmp_path / "c" / ".half.tmp").write_bytes(b"PK half")
    again = EmbeddingCache(tmp_path / "c")
    assert again.get("a").tolist() == [1.0] * 4
    assert again.get("b") is None


def test_a_student_adds_its_bias(trunk):
    encoder = HeadEncoder(trunk, max_tokens=16)
    weights, bias = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, -1.0, 0.0])
    found = Student(encoder, weights, scale=2.0, bias=bias).predict(TEXTS)
    expected = torch.softmax(2.0 * encoder.encode(TEXTS) @ weights.T + bias, dim=1)
    torch.testing.assert_close(found, expected.double(), atol=1e-6, rtol=1e-5)


def test_without_its_cache_it_embeds_anew_and_alike(trunk, tmp_path, monkeypatch):
    encoder = HeadEncoder(trunk, cache=tmp_path / "cache")
    encoder.encode(TEXTS)
    calls = []
    whole = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda self, texts, *more: calls.append(len(texts)) or whole(self, texts, *more))
    encoder.encode(TEXTS)
    assert calls == []
    fresh = encoder.uncached()
    assert torch.allclose(fresh.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)
    assert calls == [len(TEXTS)]


def test_a_head_moves_with_its_trunk_and_comes_back(tmp_path):
    """On PyTorch's `meta` device, the only one that every machine has besides its CPU; values are lost there, so the moves alone are looked at."""
    head = HeadEncoder(tiny_backbone(tmp_path / "e"))
    moved = []
    head._move = lambda device: moved.append(device)
    with head.moved("cpu"):
        assert moved == []
    with pytest.raises(ZeroDivisionError), head.moved("meta"):
        assert moved == ["meta"]
        raise ZeroDivisionError
    assert moved == ["meta", "cpu"]
    del head._move
    head._move("meta")
    assert {one.device.type for one in (*head.parameters(), *head.trunk.parameters())} == {"meta"}
