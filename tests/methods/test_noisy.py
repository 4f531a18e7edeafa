"""The baselines of SunGen: what each of them believes, on the tiny corpus."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_backbone
from trained import run

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.noisy_labels.noisy import epoch_order
from selftrain.methods.recipe import resolve
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["zerogen", "confidence", "co_teaching", "meta_weight_net", "temporal_ensembling"]


@pytest.fixture
def labeled(corpus):
    return replace(corpus, granted={id_: int(index >= 12) for index, id_ in enumerate(corpus.unlabeled.ids)})


def build(corpus, folder, name, seed=0, encoder=HeadEncoder, **method):
    torch.manual_seed(seed)
    experiment = parse({"method": {"name": name, "epochs": 3, "batch_size": 8, **method}})
    return resolve(experiment).build(corpus, encoder(tiny_backbone(folder), max_tokens=16), seed=seed)


def small_bilstm(corpus, name, seed=0, **method):
    torch.manual_seed(seed)
    encoder = BiLSTMEncoder(bilstm(vocabulary(corpus.unlabeled.contents, 100), word_dimensions=8, hidden=8))
    return resolve(parse({"method": {"name": name, "epochs": 3, "batch_size": 8, **method}})).build(corpus, encoder, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_learns_the_labels_that_it_is_given(labeled, tmp_path, name):
    everything = {"confidence": {"keep": 1.0}, "co_teaching": {"noise_rate": 0.0}}.get(name, {})  # no label is wrong here: none is to be left out
    method = build(labeled, tmp_path / "e", name, epochs=30, learning_rate=0.02, **everything)
    history, _ = run(method)
    assert len(history.rounds) == method.rounds and history.rounds[-1]["ce"] < history.rounds[0]["ce"]
    right = method.student().predict(labeled.unlabeled.contents).argmax(1) == (torch.arange(24) >= 12)
    assert right.float().mean() > 0.85


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_where_the_whole_one_does(labeled, tmp_path, name):
    whole = build(labeled, tmp_path / "a", name)
    _, states = run(whole)
    again = build(labeled, tmp_path / "b", name)
    run(again, resume=states[1])
    assert torch.equal(whole.classifier.weight, again.classifier.weight)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_needed(corpus, tmp_path, name):
    with pytest.raises(SelfTrainError, match=rf"{name} needs labels, right or wrong; set data\.supervision: all"):
        build(corpus, tmp_path / "e", name)


@pytest.mark.parametrize("name", ["zerogen", "confidence", "co_teaching", "temporal_ensembling"])
def test_a_full_encoder_is_trained_too(labeled, tmp_path, name):
    method = build(labeled, tmp_path / "e", name, encoder=TextEncoder, epochs=1)
    before = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    run(method)
    assert any(not torch.equal(value, before[key]) for key, value in method.encoder.state_dict().items())


def test_meta_weight_net_says_that_it_needs_a_head(labeled, tmp_path):
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'head'"):
        build(labeled, tmp_path / "e", "meta_weight_net", encoder=TextEncoder)
    with pytest.raises(SelfTrainError, match=r"validation_share must leave .* \(got 0\.01 of 24 labeled documents\)"):
        build(labeled, tmp_path / "f", "meta_weight_net", validation_share=0.01)


def test_an_epoch_has_every_document_once_and_the_next_in_another_order(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "zerogen")
    epochs = [torch.cat([method.batch(round_, step) for step in range(method.steps(round_))]).tolist() for round_ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24)) and epochs[0] != epochs[1]


def test_zerogens_losses(labeled, tmp_path):
    logits, batch = torch.tensor([[2.0, -1.0], [0.3, 0.1]]), torch.tensor([0, 20])
    plain = build(labeled, tmp_path / "a", "zerogen").losses(batch, logits)
    assert plain["ce"].item() == pytest.approx((math.log(1 + math.exp(-3)) + math.log(1 + math.exp(0.2))) / 2)
    smooth = build(labeled, tmp_path / "b", "zerogen", label_smoothing=0.1).losses(batch, logits)
    assert smooth["ce"].item() == pytest.approx(plain["ce"].item() + 0.05 * (3 - 0.2) / 2)  # 0.05 of the mass is moved by the margin
    robust = build(labeled, tmp_path / "c", "zerogen", loss="rce").losses(batch, logits)
    # 10 times the probability of the other class
    assert set(robust) == {"rce"}
    assert robust["rce"].item() == pytest.approx(10 * (1 / (1 + math.exp(3)) + 1 / (1 + math.exp(-0.2))) / 2)


def test_confidence_keeps_the_share_of_each_class_that_was_most_probable(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "confidence", keep=0.25)
    start = {key: value.clone() for key, value in method.classifier.state_dict().items()}
    seen = []
    for round_ in range(method.options.epochs):
        method.refresh(round_, no_texts)
        for step in range(method.steps(round_)):
            method.step(round_, step)
        found = method.probabilities()
        seen.append(torch.cat([found[:12, 0], found[12:, 1]]))
    assert not torch.equal(method.classifier.weight, start["weight"])
    figures = method.refresh(method.options.epochs, no_texts)
    mean = torch.stack(seen).mean(dim=0)
    expected = sorted([*mean[:12].topk(3).indices.tolist(), *(12 + mean[12:].topk(3).indices).tolist()])
    assert method.chosen.tolist() == expected and figures["chosen"] == 6
    assert torch.equal(method.classifier.weight, start["weight"])  # from the start again


def test_co_teaching_leaves_out_more_and_more(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "co_teaching", noise_rate=0.5, ramp_epochs=2)
    assert [method.kept(8, round_) for round_ in range(4)] == [8, 6, 4, 4] and method.kept(1, 3) == 1


def test_co_teaching_learns_from_what_the_other_chose(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "co_teaching", noise_rate=0.5, ramp_epochs=1)
    method.refresh(1, no_texts)
    batch = method.batch(1, 0)
    texts, targets = method.texts_of(batch), method.targets[batch]
    with torch.no_grad():
        first = F.cross_entropy(method.classifier(method.encoder(texts)), targets, reduction="none")
        second = F.cross_entropy(method.peer_classifier(method.peer_encoder(texts)), targets, reduction="none")
    peer = method.peer_classifier.weight.detach().clone()
    losses = method.step(1, 0)
    assert losses["ce"] == pytest.approx(first[second.argsort()[:4]].mean().item(), rel=1e-5)
    assert losses["ce_peer"] == pytest.approx(second[first.argsort()[:4]].mean().item(), rel=1e-5)
    assert not torch.equal(method.peer_classifier.weight, peer)  # the optimiser trains both


def test_temporal_ensembling_by_hand(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "temporal_ensembling", momentum=0.6, weight=2.0)
    batch, logits = torch.tensor([3]), torch.tensor([[1.0, 0.0]])
    assert "ensemble" not in method.losses(batch, logits)
    first = method.probabilities()
    method.refresh(1, no_texts)
    # after one epoch the corrected average is the prediction itself
    difference = (torch.softmax(logits, dim=1) - first[batch]).square().mean().item()
    assert method.losses(batch, logits)["ensemble"].item() == pytest.approx(2.0 * math.exp(-5 * 0.25) * difference, rel=1e-5)
    with torch.no_grad():
        method.classifier.bias.add_(torch.tensor([1.0, 0.0]))
    second = method.probabilities()
    method.refresh(2, no_texts)
    target = (0.4 * 0.6 * first[batch] + 0.4 * second[batch]) / (1 - 0.36)
    difference = (torch.softmax(logits, dim=1) - target).square().mean().item()
    assert method.losses(batch, logits)["ensemble"].item() == pytest.approx(2.0 * difference, rel=1e-5)


def test_meta_weight_net_never_trains_on_its_validation_documents(labeled, tmp_path):
    method = build(labeled, tmp_path / "e", "meta_weight_net", validation_share=0.25)
    assert len(method.validation) == 6 and sorted([*method.validation, *method.chosen]) == list(range(24))
    before = copy.deepcopy(method.weight_net.state_dict())
    run(method)
    assert any(not torch.equal(value, before[key]) for key, value in method.weight_net.state_dict().items())
    held = torch.from_numpy(np.sort(method.validation))
    assert (method.weights[held] == 1).all() and (method.weights[torch.from_numpy(method.chosen)] < 1).all()


# --- with a BiLSTM


@pytest.mark.parametrize("name", NAMES)
def test_a_bilstm_learns_and_resumes(labeled, name):
    everything = {"confidence": {"keep": 1.0}, "co_teaching": {"noise_rate": 0.0}}.get(name, {})
    whole = small_bilstm(labeled, name, epochs=8, learning_rate=0.02, **everything)
    _, states = run(whole)
    right = whole.student().predict(labeled.unlabeled.contents).argmax(1) == (torch.arange(24) >= 12)
    assert right.float().mean() > 0.85
    again = small_bilstm(labeled, name, epochs=8, learning_rate=0.02, **everything)
    run(again, resume=states[4])
    assert all(torch.equal(value, again.student().encoder.state_dict()[key]) for key, value in whole.encoder.state_dict().items())


def test_batches_of_like_length_hold_every_place_once():
    lengths = np.random.default_rng(0).integers(1, 100, size=1000)
    places = np.arange(0, 1000, 2)
    order = epoch_order(places, 7, np.random.default_rng(1), lengths)
    assert sorted(order) == places.tolist() and (order == epoch_order(places, 7, np.random.default_rng(1), lengths)).all()
    spread = [np.ptp(lengths[batch]) for batch in np.split(order, range(7, 500, 7))]
    plain = [np.ptp(lengths[batch]) for batch in np.split(epoch_order(places, 7, np.random.default_rng(1)), range(7, 500, 7))]
    assert np.mean(spread) < 0.1 * np.mean(plain)
    firsts = [lengths[batch[0]] for batch in np.split(order, range(7, 500, 7))]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)  # the batches themselves are mixed


def test_a_corpus_smaller_than_a_batch_is_one_batch():
    assert sorted(epoch_order(np.arange(3), 8, np.random.default_rng(0), np.array([5, 1, 3]))) == [0, 1, 2]
