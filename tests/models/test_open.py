import itertools
import json
import shutil

import torch
from sentence_transformers import SentenceTransformer
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.models.locate import contents_fingerprint, fingerprint
from selftrain.models.open import open_encoder


def saved(folder, corpus, **model):
    return parse({"model": {"encoder": str(folder), "cache": str(folder / "kept"), **model}}).model


def test_a_head_where_the_config_says_so(corpus, tmp_path):
    tiny_backbone(tmp_path / "e")
    head = open_encoder(saved(tmp_path / "e", corpus, train="head"), corpus, precision="bfloat16")
    assert isinstance(head, HeadEncoder) and head.precision == "float32"
    assert head.encode([]).shape == (0, 32)
    head.encode(["a text"])
    assert list((tmp_path / "e" / "kept").rglob("*.npz"))


def test_a_whole_encoder_otherwise(corpus, tmp_path):
    tiny_backbone(tmp_path / "e")
    found = open_encoder(saved(tmp_path / "e", corpus), corpus, precision="bfloat16")
    assert type(found) is TextEncoder and found.precision == "bfloat16" and not found.tensors


def test_encoders_on_one_trunk_have_embeddings_of_their_own(corpus, tmp_path):
    """Their weight files are the same: pooling stands in a subfolder, similarity in the experiment."""
    transformer, pooling_layer, _ = tiny_backbone(tmp_path / "parts")  # without its last module, which makes all lengths 1
    SentenceTransformer(modules=[transformer, pooling_layer], device="cpu").save_pretrained(str(tmp_path / "mean"))
    shutil.copytree(tmp_path / "mean", tmp_path / "cls")
    (pooling,) = (tmp_path / "cls").glob("*Pooling/config.json")
    settings = json.loads(pooling.read_text())
    assert settings["pooling_mode"] == "mean"
    pooling.write_text(json.dumps(settings | {"pooling_mode": "cls"}))
    assert fingerprint(tmp_path / "mean") == fingerprint(tmp_path / "cls")

    def embedded(name, similarity, cache):
        config = saved(tmp_path / name, corpus, train="head", similarity=similarity, cache=str(tmp_path / cache))
        return open_encoder(config, corpus).encode(["a text"])

    kinds = [("mean", "cosine"), ("cls", "cosine"), ("mean", "dot")]
    alone = [embedded(*kind, f"cache {number}") for number, kind in enumerate(kinds)]
    assert not any(torch.allclose(one, other, atol=0.01) for one, other in itertools.combinations(alone, 2))
    for _ in range(2):  # made, and found again
        for kind, expected in zip(kinds, alone, strict=True):
            assert torch.equal(embedded(*kind, "together"), expected)


def test_what_an_encoder_says_about_itself_is_no_part_of_it(tmp_path):
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "e"))
    before = contents_fingerprint(tmp_path / "e")
    (tmp_path / "e" / "README.md").write_text("another text")
    assert contents_fingerprint(tmp_path / "e") == before
    (tmp_path / "e" / "vocab.txt").write_text("another vocabulary")
    assert contents_fingerprint(tmp_path / "e") != before and contents_fingerprint("a hub's name") == "a hub's name"
