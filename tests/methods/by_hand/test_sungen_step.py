"""SunGen's algorithm 1 and Meta-Weight-Net written out; the gradient in the weights by differences of the outer loss after the virtual step."""

from functools import partial

import numpy as np
import pytest
import torch
from linear import (
    TEXTS,
    Adam,
    assert_equal,
    bags,
    build,
    by_differences,
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
from selftrain.methods.noisy_labels import sungen

LABELS = (0, 1, 2, 1, 2, 0, 1)
ROWS = bags(TEXTS)
EVERY = tuple(range(len(LABELS)))
DEFAULTS = {  # as the documentation states them
    "outer": "rce",
    "outer_iterations": 50,
    "outer_samples": 50_000,
    "outer_learning_rate": 0.25,
    "inner_epochs": 1,
    "inner_batch_size": 32,
    "inner_learning_rate": 1e-3,
    "virtual_step": True,
    "balance": True,
    "budget": None,
    "epochs": 5,
    "batch_size": 32,
    "weight_decay": 0.01,
}
SMALL = {"outer_iterations": 3, "outer_samples": 5, "inner_batch_size": 3, "inner_learning_rate": 0.1, "epochs": 2, "batch_size": 3}
SMALL |= {"learning_rate": 0.02}


@pytest.fixture(autouse=True)
def nothing_learned():
    """Weights that one test learned are not another's."""
    sungen._LEARNED.clear()


def corpus():
    return corpus_of(granted=dict(enumerate(LABELS)))


def robust(scores, labels, kind):
    """Section 3.1: -sum_k p_k log q_k with log 0 = -10; sum_k |p_k - q_k|; or cross-entropy."""
    if kind == "ce":
        return cross_entropies(scores, labels).mean()
    total = 0.0
    for p, label in zip(softmax(scores), labels, strict=True):
        for k, share in enumerate(p):
            q = float(k == label)
            total = total + (-share * (0.0 if q else -10.0) if kind == "rce" else (share - q).abs())
    return total / len(scores)


def relative(theta, balance):
    """w = sigmoid(theta) over its mean: that of the text's class, or of all."""
    weights = 1 / (1 + torch.exp(-theta))
    if not balance:
        return weights / (weights.sum() / len(weights))
    means = [sum(weights[i] for i in range(len(LABELS)) if LABELS[i] == label) / LABELS.count(label) for label in range(3)]
    return torch.stack([weight / means[label] for weight, label in zip(weights, LABELS, strict=True)])


def inner_training(first, weights, rng, options):
    """theta(w): Adam from the same first net on the mean of w_i CE_i, batch by batch."""
    net, adam, size = first, Adam(options["inner_learning_rate"]), options["inner_batch_size"]
    for _ in range(options["inner_epochs"]):
        order = rng.permutation(len(LABELS))
        for start in range(0, len(order), size):
            batch = order[start : start + size].tolist()
            labels = [LABELS[i] for i in batch]
            net = adam.step(net, gradient(partial(weighted_mean, batch=batch, labels=labels, weights=weights), net))
    return net


def weighted_mean(net, batch, labels, weights):
    return (weights[batch] * cross_entropies(logits(net, ROWS[batch]), labels)).sum() / len(batch)


def equation_11(net, weights, rate, outer, *, virtual=True):
    """d outer(net after one step on the weighted loss) / d weights, by differences; the sum of the weights, by which it is divided, is held fixed.

    Not `virtual`, the outer gradient is taken where the net is: the outer loss is then the plane that touches it there.
    """
    total = float(weights.sum())
    slope = gradient(outer, net)

    def after(weights):
        inner = gradient(lambda there: (weights * cross_entropies(logits(there, ROWS), LABELS)).sum() / total, net)
        moved = [value - rate * step for value, step in zip(net, inner, strict=True)]
        return outer(moved) if virtual else sum((a * b).sum() for a, b in zip(slope, moved, strict=True))

    return by_differences(after, weights)


def weights_by_hand(first, options, seed=0):
    """Algorithm 1: sigmoid(theta), and the outer losses."""
    options = DEFAULTS | options
    subset = np.random.default_rng([seed, 1_000_002]).permutation(len(LABELS))[: options["outer_samples"]].tolist()
    theta, adam, seen = torch.zeros(len(LABELS)), Adam(options["outer_learning_rate"]), []

    def outer(net):
        return robust(logits(net, ROWS[subset]), [LABELS[i] for i in subset], options["outer"])

    for iteration in range(options["outer_iterations"]):
        weights = relative(theta, options["balance"])
        net = inner_training(first, weights, np.random.default_rng([seed, 1_000_003, iteration]), options)
        seen.append(float(outer(net)))
        slope = equation_11(net, weights, options["inner_learning_rate"], outer, virtual=options["virtual_step"])
        slope = slope * (len(slope) ** 0.5 / slope.norm())  # of the length of N ones, for Adam's epsilon
        chained = by_differences(lambda theta, slope=slope: (relative(theta, options["balance"]) * slope).sum(), theta)
        (theta,) = adam.step([theta], [chained])
    return 1 / (1 + torch.exp(-theta)), theta, seen


def final_training(net, weights, options, chosen=EVERY):
    """Epochs of AdamW on the mean of w_i CE_i over the chosen texts."""
    size, chosen = options["batch_size"], np.array(chosen)
    adamw = Adam(options["learning_rate"], options.get("weight_decay", 0.01), options["epochs"] * -(-len(chosen) // size))
    for epoch in range(options["epochs"]):
        order = np.random.default_rng([0, epoch]).permutation(chosen)
        for start in range(0, len(order), size):
            batch = order[start : start + size].tolist()
            labels = [LABELS[i] for i in batch]
            net = adamw.step(net, gradient(partial(weighted_mean, batch=batch, labels=labels, weights=weights), net))
    return net


OTHERS = [
    {},
    {"outer": "mae"},
    {"outer": "ce"},
    {"outer_samples": 3},
    {"outer_samples": 50_000},
    {"outer_learning_rate": 0.9},
    {"inner_epochs": 2},
    {"inner_batch_size": 7},
    {"inner_learning_rate": 0.4},
    {"virtual_step": False, "inner_learning_rate": 0.4},
    {"balance": False},
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_algorithm_1_by_hand(options):
    options = SMALL | options
    method = build(corpus(), "sungen", **options)
    first = net_of(method.encoder, method.classifier)
    found = method.learned()
    weights, _, seen = weights_by_hand(first, options)
    assert torch.allclose(found.weights, weights, rtol=1e-7, atol=0) and found.outer == pytest.approx(seen, rel=1e-8)
    assert_equal({"net": net_of(method.encoder, method.classifier)}, {"net": first})


def test_every_option_changes_the_weights():
    changes = [*OTHERS[1:], {"outer_iterations": 4}]
    base = build(corpus(), "sungen", **SMALL | {"inner_learning_rate": 0.4}).learned().weights
    for options in changes:
        more = {"inner_learning_rate": 0.4} | ({"inner_learning_rate": 0.1} if options == {"inner_learning_rate": 0.4} else options)
        other = build(corpus(), "sungen", **SMALL | more).learned().weights
        same = options == {"outer": "mae"}  # the same as rce, but for a factor
        assert ((base - other).abs().max() > 1e-5) != same, options


def test_the_virtual_step_is_taken_where_the_inner_training_ended_and_matters():
    """The gradients before and after the virtual step are apart by far more than the tolerance of the comparison."""
    found = [
        build(corpus(), "sungen", **SMALL | {"inner_learning_rate": 0.4, "virtual_step": virtual}).learned().weights for virtual in (True, False)
    ]
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"balance": False, "weight_decay": 0.4}], ids=str)
def test_the_whole_training_by_weight(options):
    options = SMALL | options
    method = build(corpus(), "sungen", **options)
    first = net_of(method.encoder, method.classifier)
    figures = method.refresh(0, no_texts)
    steps_of(method)
    weights, theta, seen = weights_by_hand(first, options)
    used = relative(theta, options.get("balance", True))
    assert torch.allclose(method.weights, used, rtol=1e-7)
    assert_equal({"net": net_of(method.encoder, method.classifier)}, {"net": final_training(first, used, options)})
    means = [sum(float(w) for w, label in zip(weights, LABELS, strict=True) if label == one) / LABELS.count(one) for one in range(3)]
    assert figures == pytest.approx(
        {
            "labeled": 7,
            "chosen": 7,
            "outer_first": seen[0],
            "outer_last": seen[-1],
            "weight_mean": float(weights.mean()),
            "weight_below_half": sum(float(w) < 0.5 for w in weights) / 7,
            "class_weight_min": min(means),
            "class_weight_max": max(means),
        },
        rel=1e-7,
    )
    assert 0 < figures["weight_below_half"] < 1 and figures["class_weight_min"] < figures["weight_mean"] < figures["class_weight_max"]


@pytest.mark.parametrize("seed", range(4))
def test_the_clean_subset_is_drawn_by_weight_and_trained_on_without(seed):
    options = SMALL | {"budget": 4, "batch_size": 2}
    method = build(corpus(), "sungen", seed=seed, **options)
    first = net_of(method.encoder, method.classifier)
    steps_of(method)
    _, theta, _ = weights_by_hand(first, options, seed)
    used = relative(theta, True)
    chances = used * 4 / used.sum()  # the normalised w' of section 3.1
    assert chances.max() < 1
    draw = np.random.default_rng([seed, 1_000_001]).random(7)
    chosen = [place for place in range(7) if draw[place] < chances[place]]
    assert method.chosen.tolist() == chosen and torch.equal(method.weights, torch.ones(7))
    if seed == 0:
        assert_equal({"net": net_of(method.encoder, method.classifier)}, {"net": final_training(first, torch.ones(7), options, chosen)})


def test_a_draw_of_nothing_takes_the_likeliest_text(monkeypatch):
    method = build(corpus(), "sungen", **SMALL | {"budget": 2})
    weights = method.learned().weights
    monkeypatch.setattr(sungen, "inclusion_probabilities", lambda weights, budget: weights * 1e-12)
    method.refresh(0, no_texts)
    assert method.chosen.tolist() == [int(relative(torch.logit(weights), True).argmax())]


def test_what_is_shipped():
    defaults = sungen.SunGenOptions().model_dump()
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


# --- Meta-Weight-Net


META = {"epochs": 2, "batch_size": 3, "validation_share": 0.3, "hidden": 3, "weight_learning_rate": 0.05, "virtual_rate": 0.5, "learning_rate": 0.02}


def weight_of(losses, net):
    """V of Shu et al.: loss -> hidden ReLU -> sigmoid."""
    hidden = (losses[:, None] @ net[0].T + net[1]).clamp(min=0)
    return 1 / (1 + torch.exp(-(hidden @ net[2].T + net[3])[:, 0]))


def weighted_share(net, batch, labels, weights, total):
    return (weights * cross_entropies(logits(net, ROWS[batch]), labels)).sum() / total


def validation_slope(net, weight_net, batch, places, rate):
    """Equations 3 and 4 of Shu et al.: the gradient of the validation loss after the virtual step in the weight network, by differences.

    The sum of the batch's weights, by which the inner loss is divided, is held fixed.
    """
    labels, shapes = [LABELS[i] for i in batch], [value.shape for value in weight_net]
    sizes = [shape.numel() for shape in shapes]
    losses = cross_entropies(logits(net, ROWS[batch]), labels)
    total = float(weight_of(losses, weight_net).sum())

    def after(flat):
        v = weight_of(losses, [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)])
        inner = gradient(partial(weighted_share, batch=batch, labels=labels, weights=v, total=total), net)
        moved = [value - rate * step for value, step in zip(net, inner, strict=True)]
        return cross_entropies(logits(moved, ROWS[places]), [LABELS[i] for i in places]).mean()

    slope = by_differences(after, torch.cat([value.flatten() for value in weight_net]))
    return [part.view(shape) for part, shape in zip(slope.split(sizes), shapes, strict=True)]


def meta_weight_net_by_hand(net, weight_net, options):
    """Equations 3 to 5 of Shu et al., the weights of a batch normalised to sum one."""
    order = np.random.default_rng([0, 1_000_004]).permutation(7)
    held = round(options["validation_share"] * 7)
    validation, training = order[:held], np.sort(order[held:])
    size = options["batch_size"]
    adam = Adam(options["weight_learning_rate"])
    adamw = Adam(options["learning_rate"], 0.01, options["epochs"] * -(-len(training) // size))
    weights = torch.ones(7)
    for epoch in range(options["epochs"]):
        draws = np.random.default_rng([0, 1_000_004, epoch])
        order = np.random.default_rng([0, epoch]).permutation(training)
        for start in range(0, len(order), size):
            batch = order[start : start + size].tolist()
            places = draws.choice(validation, size=min(len(validation), size), replace=False).tolist()
            weight_net = adam.step(weight_net, validation_slope(net, weight_net, batch, places, options["virtual_rate"]))
            labels = [LABELS[i] for i in batch]
            v = weights[batch] = weight_of(cross_entropies(logits(net, ROWS[batch]), labels), weight_net)
            net = adamw.step(net, gradient(partial(weighted_share, batch=batch, labels=labels, weights=v, total=v.sum()), net))
    return {"net": net, "weight_net": weight_net, "weights": [weights]}


def meta_weight_net(**options):
    method = build(corpus(), "meta_weight_net", **META | options)
    net, weight_net = net_of(method.encoder, method.classifier), [value.detach().clone() for value in method.weight_net.parameters()]
    figures = steps_of(method)
    assert all(set(one) == {"ce", "loss"} and one["ce"] == one["loss"] for one in figures)
    after = {"net": net_of(method.encoder, method.classifier), "weight_net": [v.detach() for v in method.weight_net.parameters()]}
    return net, weight_net, after | {"weights": [method.weights]}


@pytest.mark.parametrize(
    "options",
    [{}, {"validation_share": 0.6}, {"hidden": 2}, {"weight_learning_rate": 0.01}, {"virtual_rate": 2.0}, {"batch_size": 2}],
    ids=str,
)
def test_meta_weight_net_by_hand(options):
    net, weight_net, found = meta_weight_net(**options)
    assert_equal(found, meta_weight_net_by_hand(net, weight_net, META | options), relative=1e-6)


@pytest.mark.parametrize("options", [{"validation_share": 0.6}, {"weight_learning_rate": 0.01}, {"virtual_rate": 2.0}], ids=str)
def test_every_option_of_meta_weight_net_changes_both_nets(options):
    (*_, base), (*_, other) = meta_weight_net(), meta_weight_net(**options)
    assert differ(base["net"], other["net"]) and differ(base["weight_net"], other["weight_net"])


@pytest.mark.parametrize("share", [0.05, 0.99])
def test_neither_side_of_meta_weight_net_may_be_empty(share):
    with pytest.raises(SelfTrainError, match=rf"validation_share must leave .* \(got {share:g} of 7 labeled documents\)"):
        build(corpus(), "meta_weight_net", **META | {"validation_share": share})


def test_the_validation_labels_reach_the_weights_and_the_net_through_these_alone():
    """One step with other labels of the held-out texts: the weight network moves elsewhere; with its rate at nothing the net does not hear of them."""
    held = build(corpus(), "meta_weight_net", **META).validation.tolist()
    turned = corpus_of(granted={place: (label + 1) % 3 if place in held else label for place, label in enumerate(LABELS)})
    for rate, reached in ((0.05, True), (1e-300, False)):
        nets = []
        for one in (corpus(), turned):
            method = build(one, "meta_weight_net", **META | {"weight_learning_rate": rate})
            steps_of(method)
            nets.append(net_of(method.encoder, method.classifier))
        assert differ(*nets) == reached
