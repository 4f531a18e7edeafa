"""The job that writes an encoder with its model's own pooler: the embeddings are the pooler's, and what has none is refused."""

from __future__ import annotations

import torch
from programs import program
from transformers import AutoModel, AutoTokenizer

from selftrain.config import ModelConfig
from selftrain.models.open import open_encoder
from tests.tiny import tiny_backbone

job = program("jobs/pooler.py")
TEXTS = ["the team and its coach won", "a vote"]


def test_embeddings_are_those_of_the_pooler(corpus, tmp_path, capsys):
    tiny_backbone(tmp_path / "source")
    assert job.main([str(tmp_path / "source"), "--to", str(tmp_path / "made")]) == 0
    assert str(tmp_path / "made") in capsys.readouterr().out
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "source").eval(), AutoTokenizer.from_pretrained(tmp_path / "source")
    with torch.no_grad():
        pooled = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).pooler_output
        encoder = open_encoder(ModelConfig(encoder=str(tmp_path / "made"), similarity="dot"), corpus)
        torch.testing.assert_close(encoder.encode(TEXTS), pooled, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_pooler_and_a_folder_that_is_there_are_refused(tmp_path, capsys):
    tiny_backbone(tmp_path / "source")
    AutoModel.from_pretrained(tmp_path / "source", add_pooling_layer=False).save_pretrained(tmp_path / "without")
    AutoTokenizer.from_pretrained(tmp_path / "source").save_pretrained(tmp_path / "without")
    assert job.main([str(tmp_path / "without"), "--to", str(tmp_path / "made")]) == 2
    assert "has no weights of a pooler" in capsys.readouterr().err and not (tmp_path / "made").exists()
    assert job.main([str(tmp_path / "source"), "--to", str(tmp_path / "without")]) == 2
    assert "--to must be a new folder" in capsys.readouterr().err
    assert job.main([str(tmp_path / "nothing"), "--to", str(tmp_path / "made")]) == 2
    assert "does not open as a transformer" in capsys.readouterr().err
