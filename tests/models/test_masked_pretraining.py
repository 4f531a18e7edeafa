"""A masked language model is trained: it learns which words fit, opens as `model.masked_lm`, and continues where it was stopped."""

import math

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertModel, Trainer

from selftrain.errors import ConfigError, SelfTrainError
from selftrain.models import masked_pretraining
from selftrain.models.masked import MaskedEncoder
from selftrain.models.masked_pretraining import MaskedWordTrainer, pretrain
from tests.tiny import tiny_backbone, tiny_language_model

TEXTS = [f"the {first} of the {second}" for first, second in [("goal", "team"), ("profit", "bank"), ("vote", "party")] for _ in range(64)]
HOW = {"epochs": 12, "max_tokens": 16, "learning_rate": 1e-2, "seed": 0}


@pytest.fixture
def source(tmp_path):
    tiny_backbone(tmp_path / "source")
    return tmp_path / "source"


def test_it_learns_which_words_fit(source, tmp_path):
    to = tmp_path / "made"
    loss = pretrain(source, TEXTS, to, **(HOW | {"epochs": 60}))
    assert 0 < loss < math.log(BertModel.from_pretrained(source).config.vocab_size) / 2  # a guess without any knowledge costs log of the vocabulary
    model, tokenizer = BertForMaskedLM.from_pretrained(to).eval(), AutoTokenizer.from_pretrained(to)
    row = tokenizer("the [MASK] of the bank", return_tensors="pt")
    place = row["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    logits = model(**row).logits[0, place]
    assert tokenizer.convert_ids_to_tokens(int(logits.argmax())) == "profit"
    assert MaskedEncoder(str(to)).word_token("profit") is not None  # complete: with a head
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]  # no checkpoint is left


def test_the_loss_is_the_models_own(source):
    """The output layer is asked about the chosen words alone, and that changes nothing."""
    model = BertForMaskedLM.from_pretrained(source).eval()
    rows = torch.randint(5, model.config.vocab_size, (4, 9))
    labels = torch.where(torch.rand(4, 9) < 0.4, rows, -100)
    mask = torch.ones_like(rows)
    mask[0, 5:], labels[0, 5:] = 0, -100
    whole = model(input_ids=rows, attention_mask=mask, labels=labels).loss
    trainer = object.__new__(MaskedWordTrainer)
    assert trainer.compute_loss(model, {"input_ids": rows, "attention_mask": mask, "labels": labels}).item() == pytest.approx(whole.item(), rel=1e-5)
    nothing = torch.full_like(labels, -100)
    assert trainer.compute_loss(model, {"input_ids": rows, "attention_mask": mask, "labels": nothing}) == 0


def test_a_stopped_one_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(masked_pretraining, "CHECKPOINT_STEPS", 3)
    whole = pretrain(source, TEXTS, tmp_path / "whole", **HOW)

    class Stopped(Exception):
        pass

    steps = []
    step = Trainer.training_step

    def counted(*given, **named):
        steps.append(1)
        if len(steps) == 8:
            raise Stopped
        return step(*given, **named)

    monkeypatch.setattr(Trainer, "training_step", counted)
    with pytest.raises(Stopped):
        pretrain(source, TEXTS, tmp_path / "parts", **HOW)
    assert not (tmp_path / "parts").exists()
    del steps[:]
    monkeypatch.setattr(Trainer, "training_step", lambda *given, **named: (steps.append(1), step(*given, **named))[1])
    parts = pretrain(source, TEXTS, tmp_path / "parts", **HOW)
    assert len(steps) == 72 - 6  # six batches an epoch, and a checkpoint after the sixth step
    assert parts == pytest.approx(whole, rel=1e-5)
    first, second = (BertForMaskedLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_what_cannot_be_trained_is_refused(source, tmp_path):
    with pytest.raises(SelfTrainError, match=r"to must be a folder that does not exist yet"):
        pretrain(source, TEXTS, source, **HOW)
    with pytest.raises(SelfTrainError, match=r"texts must hold at least 20 documents.*got 19"):
        pretrain(source, TEXTS[:19], tmp_path / "made", **HOW)
    for name in ("epochs", "learning_rate"):
        with pytest.raises(ConfigError, match=rf"^{name} must be above 0 \(got 0\)") as caught:
            pretrain(source, TEXTS, tmp_path / "made", **(HOW | {name: 0.0}))
        assert caught.value.parameter == name
    tiny_language_model(tmp_path / "writer")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "writer")  # one with a mask: the kind of model is what is wrong
    with pytest.raises(SelfTrainError, match=r"is not a masked language model"):
        pretrain(tmp_path / "writer", TEXTS, tmp_path / "made", **HOW)
    assert not (tmp_path / "made").exists()
