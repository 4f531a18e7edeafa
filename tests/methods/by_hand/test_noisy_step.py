"""SunGen's one-level baselines written out: whole trainings of a linear net, number by number, for every option."""

import math

import numpy as np
import pytest
import torch
from linear import (
    TEXTS,
    Adam,
    ResidualEncoder,
    assert_equal,
    bags,
    build,
    corpus_of,
    cross_entropies,
    differ,
    gradient,
    logits,
    net_of,
    softmax,
    steps_of,
)

from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.noisy_labels.noisy import epoch_order
from selftrain.models.bilstm import BiLSTMEncoder
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

LABELS = (0, 1, 2, 1, 2, 0, 1)
ROWS = bags(TEXTS)
SMALL = {"epochs": 3, "batch_size": 3, "learning_rate": 0.04}


def corpus():
    return corpus_of(granted=dict(enumerate(LABELS)))


def started(name, **options):
    """The method, its net, and AdamW for its whole training."""
    options = SMALL | options
    method = build(corpus(), name, **options)
    steps = options["epochs"] * -(-7 // options["batch_size"])
    return method, net_of(method.encoder, method.classifier), Adam(options["learning_rate"], options.get("weight_decay", 0.01), steps)


def batches(epoch, size, chosen=range(7), seed=0):
    """Each chosen text once, in an order that follows from the seed and the epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(np.array(list(chosen))).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def labels_of(batch):
    return [LABELS[i] for i in batch]


def after(method):
    return {"net": net_of(method.encoder, method.classifier)}


# --- every label is believed


def zerogen_loss(net, batch, loss="ce", label_smoothing=0.0):
    p = softmax(logits(net, ROWS[batch]))
    total = 0.0
    for row, label in zip(p, labels_of(batch), strict=True):
        if loss == "rce":  # -sum_k p_k log q_k, log 0 = -10
            total = total + sum(-share * -10.0 for k, share in enumerate(row) if k != label)
        else:
            q = [(1 - label_smoothing) * (k == label) + label_smoothing / 3 for k in range(3)]
            total = total - sum(mass * torch.log(share) for mass, share in zip(q, row, strict=True))
    return total / len(batch)


ZEROGEN = [
    {},
    {"loss": "rce"},
    {"label_smoothing": 0.3},
    {"weight_decay": 0.6},
    {"learning_rate": 0.01},
    {"batch_size": 2},
    {"epochs": 2},
    {"learning_rate": None},
]


@pytest.mark.parametrize("options", ZEROGEN, ids=str)
def test_zerogen_by_hand(options):
    options = {"weight_decay": 0.01} | SMALL | options
    method = build(corpus(), "zerogen", **options)
    net = net_of(method.encoder, method.classifier)
    rate = options["learning_rate"] or ResidualEncoder.default_rate
    adamw = Adam(rate, options["weight_decay"], options["epochs"] * -(-7 // options["batch_size"]))
    what = {name: value for name, value in options.items() if name in ("loss", "label_smoothing")}
    expected = []
    for epoch in range(options["epochs"]):
        for batch in batches(epoch, options["batch_size"]):
            expected.append(float(zerogen_loss(net, batch, **what)))
            net = adamw.step(net, gradient(lambda there, batch=batch: zerogen_loss(there, batch, **what), net))
    figures = steps_of(method)
    assert [one["loss"] for one in figures] == pytest.approx(expected, rel=1e-9)
    assert [one[options.get("loss", "ce")] for one in figures] == pytest.approx(expected, rel=1e-9)
    assert_equal(after(method), {"net": net})


@pytest.mark.parametrize("options", ZEROGEN[1:-1], ids=str)
def test_every_option_of_zerogen_changes_the_net(options):
    nets = []
    for more in ({}, options):
        method, *_ = started("zerogen", **more)
        steps_of(method)
        nets.append(after(method)["net"])
    assert differ(*nets)


def test_another_seed_is_another_order():
    nets = []
    for seed in (0, 1):
        method = build(corpus(), "zerogen", seed=seed, **SMALL)
        steps_of(method)
        nets.append(after(method)["net"])
    assert differ(*nets)


def test_a_text_without_a_label_is_not_trained_on():
    method = build(corpus_of(granted={0: 0, 3: 1, 5: 2}), "zerogen", **SMALL)
    assert method.texts == [TEXTS[0], TEXTS[3], TEXTS[5]] and method.targets.tolist() == [0, 1, 2] and method.steps(0) == 1
    assert method.refresh(0, no_texts) == {"labeled": 3.0, "chosen": 3.0}


# --- confidence


@pytest.mark.parametrize("keep", [0.5, 0.34, 1.0, 0.01])
def test_confidence_by_hand(keep):
    """Train, keep of each class the share with the largest mean probability of their label, train again from the start with a new optimiser."""
    method, first, adamw = started("confidence", keep=keep)
    net, seen = first, torch.zeros(7)
    for epoch in range(3):
        for batch in batches(epoch, 3):
            net = adamw.step(net, gradient(lambda there, batch=batch: cross_entropies(logits(there, ROWS[batch]), labels_of(batch)).mean(), net))
        seen += softmax(logits(net, ROWS))[range(7), LABELS] / 3
    chosen = []
    for label in range(3):
        members = sorted((i for i in range(7) if LABELS[i] == label), key=lambda i: -float(seen[i]))
        chosen += members[: max(1, round(keep * len(members)))]
    chosen = sorted(chosen)
    net, adamw = first, Adam(0.04, 0.01, 3 * -(-len(chosen) // 3))
    for epoch in range(3, 6):
        for batch in batches(epoch, 3, chosen):
            net = adamw.step(net, gradient(lambda there, batch=batch: cross_entropies(logits(there, ROWS[batch]), labels_of(batch)).mean(), net))
    assert method.rounds == 6
    steps_of(method)
    assert torch.allclose(method.confidence, seen, rtol=1e-9) and method.chosen.tolist() == chosen
    assert_equal(after(method), {"net": net})


# --- co-teaching


TAUGHT = {"batch_size": 5, "epochs": 4}
CO_TEACHING = [
    {},
    {"noise_rate": 0.5},
    {"noise_rate": 0.6, "ramp_epochs": 1},
    {"noise_rate": 0.6, "ramp_epochs": 3},
    {"noise_rate": 0.95, "ramp_epochs": 1},
]


@pytest.mark.parametrize("options", CO_TEACHING, ids=str)
def test_co_teaching_by_hand(options):
    """Each net learns from the R(T) texts of the batch whose loss is smallest to the other; R(T) = 1 - tau min(T / T_k, 1)."""
    method, first, _ = started("co_teaching", **TAUGHT | options)
    for parameter in method.peer_classifier.parameters():
        parameter.data = 2 * torch.randn(parameter.shape)  # of another opinion, so that it shows who chooses for whom
    second = net_of(method.peer_encoder, method.peer_classifier)
    adamw, peers = Adam(0.04, 0.01, 8), Adam(0.04, 0.01, 8)
    assert differ(first[2:], second[2:]) and not differ(first[:2], second[:2])
    apart = 0
    for epoch in range(4):
        left_out = options.get("noise_rate", 0.2) * min(epoch / options.get("ramp_epochs", 2), 1.0)
        for batch in batches(epoch, 5):
            count = max(1, round((1 - left_out) * len(batch)))
            losses = [cross_entropies(logits(net, ROWS[batch]), labels_of(batch)) for net in (first, second)]
            by_first, by_second = ([batch[place] for place in one.argsort().tolist()[:count]] for one in losses)
            apart += sorted(by_first) != sorted(by_second)
            moved = adamw.step(first, gradient(lambda there, own=by_second: cross_entropies(logits(there, ROWS[own]), labels_of(own)).mean(), first))
            second = peers.step(
                second, gradient(lambda there, own=by_first: cross_entropies(logits(there, ROWS[own]), labels_of(own)).mean(), second)
            )
            first = moved
    figures = steps_of(method)
    assert_equal(after(method) | {"peer": net_of(method.peer_encoder, method.peer_classifier)}, {"net": first, "peer": second})
    assert apart > 0
    assert all(one["loss"] == pytest.approx(one["ce"] + one["ce_peer"], rel=1e-12) for one in figures)


def test_peers_of_co_teaching_start_from_weights_of_their_own_where_these_are_drawn():
    class Drawn(ResidualEncoder):
        drawn = True

        def fresh(self):
            return {name: torch.randn_like(value) for name, value in self.named_parameters()}

    method = build(corpus(), "co_teaching", encoder=Drawn(), **SMALL)
    own, peer = net_of(method.encoder, method.classifier), net_of(method.peer_encoder, method.peer_classifier)
    assert all(differ([one], [other]) for one, other in zip(own, peer, strict=True))
    assert BiLSTMEncoder.drawn and not HeadEncoder.drawn and not TextEncoder.drawn


@pytest.mark.parametrize("options", CO_TEACHING[1:], ids=str)
def test_every_option_of_co_teaching_changes_both_nets(options):
    found = []
    for more in ({}, options):
        method, *_ = started("co_teaching", **TAUGHT | more)
        steps_of(method)
        found.append((after(method)["net"], net_of(method.peer_encoder, method.peer_classifier)))
    assert all(differ(one, other) for one, other in zip(*found, strict=True))


def test_the_first_net_is_the_one_that_is_served():
    method, *_ = started("co_teaching")
    steps_of(method)
    assert torch.allclose(method.student().predict(TEXTS), softmax(logits(after(method)["net"], ROWS)), rtol=1e-12)


# --- temporal ensembling


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.3, "weight": 2.0}, {"momentum": 0.0}, {"weight": 0.0}, {"epochs": 1}, {"epochs": 4, "weight": 5.0}], ids=str
)
def test_temporal_ensembling_by_hand(options):
    """Z <- alpha Z + (1 - alpha) z after every epoch, z~ = Z / (1 - alpha^t); w(t) is w_max exp(-5 (1 - t)^2) over the epochs."""
    method, net, adamw = started("temporal_ensembling", **options)
    alpha, most, epochs = options.get("momentum", 0.6), options.get("weight", 30.0), options.get("epochs", 3)
    average = torch.zeros(7, 3)
    figures = []
    for epoch in range(epochs):
        if epoch:
            average = alpha * average + (1 - alpha) * softmax(logits(net, ROWS))
        ramp = most * math.exp(-5 * (1 - epoch / (epochs - 1)) ** 2) if epoch else 0.0
        target = average / (1 - alpha**epoch) if epoch else average
        for batch in batches(epoch, 3):

            def ensemble(there, batch=batch, target=target, ramp=ramp):
                return ramp * ((softmax(logits(there, ROWS[batch])) - target[batch]) ** 2).sum() / (3 * len(batch))

            def loss(there, batch=batch, ensemble=ensemble):
                return cross_entropies(logits(there, ROWS[batch]), labels_of(batch)).mean() + ensemble(there)

            figures.append(float(ensemble(net)))
            net = adamw.step(net, gradient(loss, net))
    found = steps_of(method)
    assert_equal(after(method), {"net": net})
    assert ["ensemble" in one for one in found] == [epoch > 0 for epoch in range(epochs) for _ in range(3)]
    assert [one.get("ensemble", 0.0) for one in found] == pytest.approx(figures, rel=1e-8)


@pytest.mark.parametrize("options", [{"momentum": 0.3}, {"weight": 2.0}], ids=str)
def test_every_option_of_temporal_ensembling_changes_the_net(options):
    nets = []
    for more in ({}, options):
        method, *_ = started("temporal_ensembling", **more)
        steps_of(method)
        nets.append(after(method)["net"])
    assert differ(*nets)


# --- batches of like length


def test_batches_of_like_length_by_hand():
    """Pools of a hundred batches, each sorted with the longest first (equal ones as they came); whole batches mixed, the short one last."""
    lengths = np.random.default_rng(3).integers(1, 9, size=500)
    places = np.arange(1, 500, 2)  # 249 places: one whole pool of 200, and one of 49
    rng, expected = np.random.default_rng(5), []
    order = rng.permutation(places).tolist()
    for start in range(0, len(order), 200):
        expected += sorted(order[start : start + 200], key=lambda place: -lengths[place])
    assert len(places) == 250
    whole = [expected[start : start + 2] for start in range(0, len(expected), 2)]
    mixed = [whole[place] for place in rng.permutation(len(whole))]
    assert epoch_order(places, 2, np.random.default_rng(5), lengths).reshape(-1, 2).tolist() == mixed


def test_a_short_batch_comes_last_and_is_of_the_shortest():
    lengths = np.array([5, 1, 4, 2, 3])
    order = epoch_order(np.arange(5), 2, np.random.default_rng(0), lengths)
    assert order[4] == 1 and sorted(map(tuple, order[:4].reshape(2, 2).tolist())) == [(0, 2), (4, 3)]


class Sized(ResidualEncoder):
    """One that finds texts as long as they are."""

    def lengths(self, documents):
        return [len(text) for text in documents]


def test_an_encoder_with_lengths_gets_batches_of_like_length():
    method = build(corpus(), "zerogen", encoder=Sized(), **SMALL | {"batch_size": 2})
    lengths = np.array([len(text) for text in TEXTS])
    found = [method.batch(1, step).tolist() for step in range(4)]
    order = [place for batch in found for place in batch]
    assert order == epoch_order(np.arange(7), 2, np.random.default_rng([0, 1]), lengths).tolist() != batches(1, 7)[0]
    assert all(lengths[batch].tolist() == sorted(lengths[batch], reverse=True) for batch in found)


# --- sets of unlike size, with the same steps


def test_an_epoch_of_a_given_number_of_steps_goes_over_the_chosen_texts_again_and_again():
    """Seven texts are three batches; the fourth and fifth step are of a second pass in an order of its own, and AdamW's rate falls over all of them."""
    options = {"epochs": 2, "steps_per_epoch": 5}
    method = build(corpus(), "zerogen", **SMALL | options)
    net, adamw = net_of(method.encoder, method.classifier), Adam(0.04, 0.01, 10)
    for epoch in range(2):
        orders = [np.random.default_rng(seed).permutation(7).tolist() for seed in ([0, epoch], [0, epoch, 1])]
        for batch in [orders[0][:3], orders[0][3:6], orders[0][6:], orders[1][:3], orders[1][3:6]]:
            net = adamw.step(net, gradient(lambda there, batch=batch: zerogen_loss(there, batch), net))
    assert method.steps(0) == 5 and len(steps_of(method)) == 10
    assert_equal(after(method), {"net": net})


def test_a_random_subset_of_zerogen():
    subsets = []
    for seed in (0, 1):
        method = build(corpus(), "zerogen", seed=seed, budget=4, **SMALL)
        assert len(set(method.chosen.tolist())) == 4 and method.steps(0) == 2 and len(method.texts) == 7
        subsets.append(method.chosen.tolist())
        trained = {place for step in range(2) for place in method.batch(0, step).tolist()}
        assert trained == set(method.chosen.tolist())
    assert subsets[0] != subsets[1]
    with pytest.raises(SelfTrainError, match=r"method\.budget must be at most the number of labeled documents, 7 \(got 8\)"):
        build(corpus(), "zerogen", budget=8)


# --- what the family's methods choose


def test_chosen_texts_and_their_weights_by_hand():
    """`choose`: a part of the texts, the loss the mean of w_i CE_i, AdamW and its rate anew for the epochs of that part."""
    method, *_ = started("zerogen", epochs=2)
    method.step(0, 0)
    net, weights, chosen = net_of(method.encoder, method.classifier), torch.tensor([0.3, 9.0, 2.0, 0.7, 9.0, 1.5, 0.1]), [0, 2, 3, 5, 6]
    method = build(corpus(), "confidence", **SMALL | {"epochs": 2})
    for value, parameter in zip(net, method.parameters(), strict=True):
        parameter.data = value.clone()
    method.choose(np.array(chosen), weights)
    adamw = Adam(0.04, 0.01, 2 * 2)
    for epoch in range(2):
        assert method.steps(epoch) == 2
        for step, batch in enumerate(batches(epoch, 3, chosen)):
            method.step(epoch, step)

            def loss(there, batch=batch):
                return (weights[batch] * cross_entropies(logits(there, ROWS[batch]), labels_of(batch))).sum() / len(batch)

            net = adamw.step(net, gradient(loss, net))
    assert_equal(after(method), {"net": net})
