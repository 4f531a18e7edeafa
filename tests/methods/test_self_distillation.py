"""Tf-KD, CS-KD, PS-KD, DLB and USKD: what the teacher is in each, and that training with it is reproducible and can be resumed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_backbone
from trained import run

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.recipe import resolve
from selftrain.methods.soft_labels.uskd import customized_soft_labels
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

ALL = [{"name": "tf_kd"}, {"name": "tf_kd", "variant": "reg"}, {"name": "cs_kd"}, {"name": "ps_kd"}, {"name": "dlb"}, {"name": "uskd"}]


@pytest.fixture
def labeled(corpus):
    return replace(corpus, granted={id_: int(place >= 12) for place, id_ in enumerate(corpus.unlabeled.ids)})


def built(corpus, folder, kind=HeadEncoder, seed=0, **options):
    torch.manual_seed(0)
    experiment = parse({"method": {"rounds": 2, "steps_per_round": 4, "batch_size": 8, **options}})
    return resolve(experiment).build(corpus, kind(tiny_backbone(folder), max_tokens=16), seed=seed)


def weights(method):
    return {name: value.clone() for part in (method.encoder, method.classifier) for name, value in part.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", ALL)
def test_training_is_reproducible_and_resumes(labeled, tmp_path, options):
    first, second = (built(labeled, tmp_path / name, **options) for name in "ab")
    start = weights(first)
    history, states = run(first)
    run(second)
    assert not equal(start, weights(first))
    assert equal(weights(first), weights(second))
    assert all(math.isfinite(value) for figures in history.rounds for value in figures.values())
    for state in states[:-1]:
        resumed = built(labeled, tmp_path / "c", **options)
        with torch.no_grad():
            resumed.classifier.weight.add_(1.0)  # a process that started from other weights
        run(resumed, resume=state)
        assert equal(weights(first), weights(resumed))


@pytest.mark.parametrize("options", ALL)
def test_the_tiny_corpus_is_learned(labeled, tmp_path, options):
    method = built(labeled, tmp_path / "e", **options, rounds=5, steps_per_round=20, learning_rate=1e-2)
    run(method)
    found = method.student().predict(labeled.unlabeled.contents).argmax(1)
    assert (found == torch.tensor([0] * 12 + [1] * 12)).float().mean() > 0.9


@pytest.mark.parametrize("options", ALL)
def test_a_full_encoder_can_be_trained(labeled, tmp_path, options):
    method = built(labeled, tmp_path / "e", kind=TextEncoder, **options, rounds=1, steps_per_round=2, weight_decay=0.0)
    start = weights(method)
    run(method)
    unchanged = {name for name, value in weights(method).items() if torch.equal(value, start[name])}
    # The pooler is no part of the embedding, and the position of a token is a number, not a weight.
    assert all(part in name for name in unchanged for part in ("backbone",)) and {name.split(".")[-3] for name in unchanged} <= {
        "pooler",
        "embeddings",
    }


@pytest.mark.parametrize("options", ALL)
def test_without_labels_they_are_refused(corpus, tmp_path, options):
    with pytest.raises(SelfTrainError, match=r"data\.supervision"):
        built(corpus, tmp_path / "e", **options)


def test_self_trains_twice_from_the_same_weights(labeled, tmp_path):
    method = built(labeled, tmp_path / "e", name="tf_kd", learning_rate=3e-3)
    start = weights(method)
    for round_ in range(2):
        method.refresh(round_, no_texts)
        assert set(method.step(round_, 0)) == {"ce", "loss"}
    with torch.no_grad():
        expected = method.classifier(method.encoder.encode(labeled.unlabeled.contents))
    method.refresh(2, no_texts)
    assert torch.allclose(method._teacher, expected, atol=1e-6)  # the teacher is what the first training ended with
    assert equal(start, weights(method))
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3)  # and the rate starts anew
    assert "tf_kd" in method.step(2, 0)


def test_self_without_distillation_is_plain_cross_entropy(labeled, tmp_path):
    twice, plain = built(labeled, tmp_path / "a", name="tf_kd", alpha=0.0), built(labeled, tmp_path / "b", name="cross_entropy")
    for step in range(4):
        plain.step(0, step)
        twice.step(0, step)
    assert equal(weights(plain), weights(twice))


def test_the_teacher_made_by_hand(labeled, tmp_path):
    method = built(replace(labeled, labels=labeled.labels * 2), tmp_path / "e", name="tf_kd", variant="reg", correct=0.91)
    teacher = torch.softmax(method._teacher, 1)
    assert teacher[0].tolist() == pytest.approx([0.91, 0.03, 0.03, 0.03])
    assert teacher[23].tolist() == pytest.approx([0.03, 0.91, 0.03, 0.03])
    # at T = 20 the odds are their twentieth root
    tempered = torch.softmax(method._teacher[0] / method.temperature, 0)
    assert (tempered[0] / tempered[1]).item() == pytest.approx((0.91 / 0.03) ** (1 / 20), rel=1e-5)


def test_a_partner_has_the_same_label_and_is_another_document(labeled, tmp_path):
    method = built(labeled, tmp_path / "e", name="cs_kd")
    batch = type("Draws", (), {"rng": np.random.default_rng(0)})()
    for index in range(24):
        partners = {method.partner(batch, index) for _ in range(300)}
        own = range(12) if index < 12 else range(12, 24)
        assert partners == set(own) - {index}


def test_the_only_document_of_a_class_is_its_own_partner(labeled, tmp_path):
    ids = labeled.unlabeled.ids
    method = built(replace(labeled, granted={ids[0]: 0, ids[12]: 1, ids[13]: 1}), tmp_path / "e", name="cs_kd")
    batch = type("Draws", (), {"rng": np.random.default_rng(0)})()
    assert method.partner(batch, 0) == 0
    assert method.partner(batch, 12) == 13
    assert all(math.isfinite(value) for value in method.step(0, 0).values())


def test_targets_of_ps_kd_move_to_the_predictions_of_the_round_before(labeled, tmp_path):
    method = built(labeled, tmp_path / "e", name="ps_kd", alpha=0.6)
    method.refresh(0, no_texts)
    logits = torch.randn(2, 2)
    batch = type("Rows", (), {"labeled": [3, 20]})()
    log_probability = torch.log_softmax(logits, 1)
    first = method.labeled_losses(batch, logits)["ce"]
    assert first.item() == pytest.approx(-(log_probability[0, 0] + log_probability[1, 1]).item() / 2, rel=1e-6)
    method.step(0, 0)
    earlier = method.student().predict([labeled.unlabeled.contents[index] for index in batch.labeled]).float()
    method.refresh(1, no_texts)
    # round 2 of 2: alpha_t = 0.6
    target = 0.4 * torch.eye(2) + 0.6 * earlier
    assert method.labeled_losses(batch, logits)["ce"].item() == pytest.approx(-(target * log_probability).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("size", [8, 9, 2])
def test_half_of_a_dlb_batch_are_the_new_documents_of_the_one_before(labeled, tmp_path, size):
    method = built(labeled, tmp_path / "e", name="dlb", batch_size=size)
    rng = np.random.default_rng(0)
    before = None
    for _ in range(4):
        documents = method.draw_labeled(size, rng)
        assert len(documents) == size
        logits = torch.randn(size, 2)
        kept = len(method._last)
        losses = method.labeled_losses(type("Rows", (), {"labeled": documents})(), logits)
        if before is None:
            assert set(losses) == {"ce"}
        else:
            last, last_logits = before
            assert documents[:kept] == last
            assert len(last) == size // 2
            then, now = torch.softmax(last_logits.double() / 3, 1), torch.softmax(logits[:kept].double() / 3, 1)
            assert losses["dlb"].item() == pytest.approx(float((9 * then * (then / now).log()).sum(1).mean()), rel=1e-5)
        before = list(method._last), method._last_logits
        assert before[0] == documents[size - size // 2 :]


def test_soft_labels_of_uskd_by_hand():
    # Predictions (1/2, 1/4, 1/4 - a little) and (1/8, 5/8, 1/4) with labels 0 and 2: squares 1/4 and 1/16, their mean 5/32.
    logits = torch.log(torch.tensor([[4.0, 2.001, 1.999], [1.0, 5.0, 2.0]], dtype=torch.float64)).requires_grad_()
    own, others = customized_soft_labels(logits, torch.tensor([0, 2]))
    assert own.tolist() == pytest.approx([1 + 1 / 4 - 5 / 32, 1 + 1 / 16 - 5 / 32])
    # The label is first: 1/2 and 1/3, made to sum to one. The label is second: 1 for the first class and 1/3 for the last.
    assert others.tolist() == [pytest.approx([0, 0.6, 0.4]), pytest.approx([0.25, 0.75, 0])]
    assert not own.requires_grad and not others.requires_grad


def test_losses_of_uskd_by_hand(labeled, tmp_path):
    three = replace(labeled, labels=(*labeled.labels, labeled.labels[0]))
    method = built(three, tmp_path / "e", name="uskd", alpha=0.5, beta=2.0)
    logits = torch.log(torch.tensor([[4.0, 3.0, 1.0], [1.0, 5.0, 2.0]])).requires_grad_()
    losses = method.labeled_losses(type("Rows", (), {"labeled": [3, 20]})(), logits)  # labels 0 and 1
    hard = [math.log(2), math.log(8 / 5)]
    assert losses["ce"].item() == pytest.approx(sum(hard) / 2)
    mean = (1 / 4 + 25 / 64) / 2
    assert losses["uskd_label"].item() == pytest.approx(0.5 * ((1.25 - mean) * hard[0] + (1 + 25 / 64 - mean) * hard[1]) / 2, rel=1e-5)
    # among the others: (3/4, 1/4) and (1/3, 2/3), with soft labels (3/5, 2/5) for ranks 2 and 3 of each
    expected = -(0.6 * math.log(3 / 4) + 0.4 * math.log(1 / 4) + 0.4 * math.log(1 / 3) + 0.6 * math.log(2 / 3)) / 2
    assert losses["uskd_others"].item() == pytest.approx(2.0 * expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(losses["uskd_others"], logits)
    assert gradient[0, 0] == gradient[1, 1] == 0.0  # the label's own logit has no part in it
    # (p - q) / N with the soft labels q held constant
    assert gradient[0, 1:].tolist() == pytest.approx([2.0 * (3 / 4 - 0.6) / 2, 2.0 * (1 / 4 - 0.4) / 2], rel=1e-5)


def test_uskd_of_two_classes_has_nothing_to_say_about_the_other_one(labeled, tmp_path):
    method = built(labeled, tmp_path / "e", name="uskd")
    assert method.step(0, 0)["uskd_others"] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_uskd_is_finite_where_probabilities_are_zero_and_one(labeled, tmp_path, scale):
    method = built(replace(labeled, labels=labeled.labels * 2), tmp_path / "e", name="uskd")
    logits = (scale * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = sum(method.labeled_losses(type("Rows", (), {"labeled": [0, 1, 15, 20]})(), logits).values())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
