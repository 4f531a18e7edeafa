from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
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
