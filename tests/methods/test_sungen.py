"""SunGen: its losses, its gradient through the virtual step, what the weights find, and what is drawn by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flipped_labels import flipped
from sklearn.metrics import roc_auc_score
from tiny import tiny_backbone
from trained import run

from selftrain.config import parse
from selftrain.data.corpus import Documents
from selftrain.errors import SelfTrainError
from selftrain.methods.bilevel import Net, directional, gradient, meta_gradient, parameters_of
from selftrain.methods.losses import reverse_cross_entropy
from selftrain.methods.noisy_labels import sungen
from selftrain.methods.noisy_labels.sungen import (
    OUTER_LOSSES,
    SunGenOptions,
    inclusion_probabilities,
    learn_weights,
    mean_absolute_error,
    relative_weights,
)
from selftrain.methods.recipe import resolve
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


@pytest.fixture(autouse=True)
def nothing_learned():
    """Weights that one test learned are not another's."""
    sungen._LEARNED.clear()


# --- losses


def test_reverse_cross_entropy_by_hand():
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(axis=1, keepdims=True)
    log_q = np.where(np.eye(3)[LABELS.numpy()] == 1, 0.0, -4.0)
    assert reverse_cross_entropy(LOGITS, LABELS, log_zero=-4.0).item() == pytest.approx(-(p * log_q).sum(axis=1).mean(), rel=1e-12)


def test_mean_absolute_error_by_hand():
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(axis=1, keepdims=True)
    assert mean_absolute_error(LOGITS, LABELS).item() == pytest.approx(np.abs(p - np.eye(3)[LABELS.numpy()]).sum(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_rce_is_mae_up_to_scale_in_value_and_gradient(classes):
    logits = torch.randn(20, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(20) % classes
    rce, mae = reverse_cross_entropy(logits, labels), mean_absolute_error(logits, labels)
    assert rce.item() == pytest.approx(5.0 * mae.item(), rel=1e-12)  # -A / 2 with A = -10
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (rce, mae)]
    assert torch.allclose(slopes[0], 5.0 * slopes[1], rtol=1e-10, atol=1e-15)


def test_the_sum_over_all_labels_is_constant():
    # the property that makes both noise-robust (SunGen section 3.1); cross-entropy has it not
    def sums(loss):
        return torch.stack([sum(loss(row.unsqueeze(0), torch.tensor([label])) for label in range(3)) for row in LOGITS])

    assert torch.allclose(sums(reverse_cross_entropy), torch.full((2,), 20.0, dtype=torch.float64))
    assert torch.allclose(sums(mean_absolute_error), torch.full((2,), 4.0, dtype=torch.float64))
    assert not torch.allclose(*sums(F.cross_entropy))


@pytest.mark.parametrize("loss", [reverse_cross_entropy, mean_absolute_error])
def test_gradients_of_the_robust_losses(loss):
    logits = LOGITS.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda found: loss(found, LABELS), (logits,))


@pytest.mark.parametrize("loss", [reverse_cross_entropy, mean_absolute_error])
@pytest.mark.parametrize(("label", "limit"), [(0, 0.0), (1, 1.0)])
def test_limits_of_the_robust_losses(loss, label, limit):
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    found = loss(logits, torch.tensor([label]))
    found.backward()
    assert found.item() == limit * {reverse_cross_entropy: 10.0, mean_absolute_error: 2.0}[loss] and torch.isfinite(logits.grad).all()


# --- the gradient in the weights


@pytest.fixture
def head(tmp_path):
    """A head in float64 whose residual layer is no longer zero, with samples."""
    torch.manual_seed(0)
    encoder = HeadEncoder(tiny_backbone(tmp_path / "e"), max_tokens=16)
    model = Net(encoder, torch.nn.Linear(32, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    rows = F.normalize(torch.randn(12, 32, dtype=torch.float64), dim=1)
    return model, rows, torch.arange(12) % 3


def virtual_step(model, at, rows, targets, weights, rate):
    """theta' with a graph to the weights: double backward, the plain way."""
    found = {name: value.clone().requires_grad_(True) for name, value in at.items()}
    losses = F.cross_entropy(torch.func.functional_call(model, found, (rows,)), targets, reduction="none")
    inner = (weights * losses).sum() / weights.sum().detach()
    slopes = torch.autograd.grad(inner, list(found.values()), create_graph=True)
    return {name: value - rate * slope for (name, value), slope in zip(found.items(), slopes, strict=True)}


@pytest.mark.parametrize("outer", list(OUTER_LOSSES))
def test_the_forward_mode_gradient_is_that_of_double_backward(head, outer):
    model, rows, targets = head
    weights = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    some = torch.tensor([1, 4, 5, 9])

    def loss(logits):
        return OUTER_LOSSES[outer](logits, targets[some])

    found = meta_gradient(model, parameters_of(model), rows, targets, weights, loss, rows[some], 0.5)
    stepped = virtual_step(model, parameters_of(model), rows, targets, weights, 0.5)
    (expected,) = torch.autograd.grad(loss(torch.func.functional_call(model, stepped, (rows[some],))), weights)
    assert expected.abs().min() > 0
    assert torch.allclose(found, expected, rtol=1e-5, atol=0)


def test_directional_derivatives_are_inner_products_and_chunks_do_not_matter(head):
    model, rows, targets = head
    at = parameters_of(model)
    direction = {name: torch.randn_like(value) for name, value in at.items()}
    found = directional(model, at, direction, rows, targets, chunk=5)
    for place in range(12):
        model.zero_grad()
        F.cross_entropy(model(rows[place : place + 1]), targets[place : place + 1]).backward()
        expected = sum((parameter.grad * direction[name]).sum() for name, parameter in model.named_parameters())
        assert found[place].item() == pytest.approx(expected.item(), rel=1e-8)


def test_the_gradient_of_chunks_is_that_of_the_whole(head):
    model, rows, targets = head
    found = gradient(model, parameters_of(model), lambda logits: F.cross_entropy(logits, targets), rows, chunk=5)
    F.cross_entropy(model(rows), targets).backward()
    assert all(torch.allclose(found[name], parameter.grad, rtol=1e-10, atol=1e-14) for name, parameter in model.named_parameters())


# --- weights


def learned(rows, targets, seed=0, **options):
    torch.manual_seed(0)
    settings = {"outer_iterations": 20, "inner_learning_rate": 1e-2, **options}
    return learn_weights(torch.nn.Linear(rows.shape[1], 2), rows, targets, SunGenOptions(**settings), seed=seed)


@pytest.mark.parametrize("outer", ["rce", "mae"])
@pytest.mark.parametrize("balance", [True, False])
def test_weights_separate_right_labels_from_wrong_ones(outer, balance):
    rows, targets, right = flipped(0.3)
    found = learned(rows, targets, outer=outer, balance=balance)
    assert roc_auc_score(right, found.weights) > 0.9
    assert found.outer[-1] < found.outer[0]
    assert ((found.weights > 0) & (found.weights < 1)).all()


def test_rce_and_mae_learn_the_same_weights_and_cross_entropy_others():
    rows, targets, _ = flipped(0.3)
    rce, mae, ce = (learned(rows, targets, outer=outer).weights for outer in ("rce", "mae", "ce"))
    assert rce.std() > 0.1  # something was learned
    assert torch.allclose(rce, mae, atol=1e-3) and (rce - ce).abs().max() > 0.1


def test_the_outer_loss_may_see_few_samples():
    rows, targets, right = flipped(0.3)
    found = learned(rows, targets, outer_samples=60)
    assert roc_auc_score(right, found.weights) > 0.85
    assert not torch.equal(found.weights, learned(rows, targets, outer_samples=60, seed=1).weights)


def test_learning_weights_leaves_the_model_where_it_was():
    rows, targets, _ = flipped(0.1, count=40)
    model = torch.nn.Linear(8, 2)
    before = parameters_of(model)
    learn_weights(model, rows, targets, SunGenOptions(outer_iterations=2), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_without_balance_a_class_loses_weight_that_balance_keeps():
    # of class 1 most labels are wrong: its members are class 0 in truth
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 8, generator=generator)
    targets = torch.arange(300) % 2
    truth = torch.where((targets == 1) & (torch.rand(300, generator=generator) < 0.7), 0, targets)
    rows[:, 0] += 4.0 * truth - 2.0

    def share(balance):
        relative = relative_weights(learned(rows, targets, balance=balance).weights, targets, balance=balance)
        return float(relative[targets == 1].sum() / relative.sum())

    assert share(True) == pytest.approx(0.5, abs=1e-5)
    assert share(False) < 0.4


def test_relative_weights_by_hand():
    weights, targets = torch.tensor([0.2, 0.6, 0.1, 0.1]), torch.tensor([0, 0, 1, 1])
    assert relative_weights(weights, targets, balance=True).tolist() == pytest.approx([0.5, 1.5, 1.0, 1.0])
    assert relative_weights(weights, targets, balance=False).tolist() == pytest.approx([0.8, 2.4, 0.4, 0.4])


def test_a_balanced_weight_gets_no_gradient_that_its_class_shares():
    theta = torch.zeros(4, requires_grad=True)
    targets = torch.tensor([0, 0, 1, 1])
    relative_weights(torch.sigmoid(theta), targets, balance=True).backward(torch.tensor([7.0, 7.0, 1.0, -1.0]))
    assert theta.grad[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6) and theta.grad[2] > 0 > theta.grad[3]


@pytest.mark.parametrize(
    ("weights", "budget", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 2, [0.5, 0.5, 0.5, 0.5]),
        ([3.0, 2.0, 1.0, 0.0], 1, [0.5, 1 / 3, 1 / 6, 0.0]),
        ([0.1, 8.0, 0.1], 2, [0.5, 1.0, 0.5]),  # in proportion, the second would be chosen with probability 1.95
        ([0.3, 0.2, 0.1], 3, [1.0, 1.0, 1.0]),
    ],
)
def test_inclusion_probabilities_have_the_budget_as_their_sum(weights, budget, expected):
    found = inclusion_probabilities(torch.tensor(weights, dtype=torch.float64), budget)
    assert found.tolist() == pytest.approx(expected) and found.sum().item() == pytest.approx(budget)


def test_inclusion_probabilities_of_many_weights():
    weights = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 4
    for budget in (1, 50, 300, 499):
        found = inclusion_probabilities(weights, budget)
        assert found.sum().item() == pytest.approx(budget) and found.max() <= 1
        assert (found[weights.argsort()].diff() >= 0).all()


# --- the method


def labeled(corpus):
    return replace(corpus, granted={id_: int(index >= 12) for index, id_ in enumerate(corpus.unlabeled.ids)})


def build(corpus, folder, seed=0, **method):
    torch.manual_seed(seed)
    options = {"name": "sungen", "epochs": 2, "batch_size": 8, "outer_iterations": 6, "inner_learning_rate": 0.05, **method}
    return resolve(parse({"method": options})).build(corpus, HeadEncoder(tiny_backbone(folder), max_tokens=16), seed=seed)


def test_the_method_trains_by_weight_and_reports_the_classes(corpus, tmp_path):
    method = build(labeled(corpus), tmp_path / "e", outer_iterations=20)
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    history, _ = run(method)
    figures = history.rounds[0]
    assert 0 < figures["class_weight_min"] <= figures["weight_mean"] <= figures["class_weight_max"] < 1
    assert figures["outer_last"] < figures["outer_first"] and figures["chosen"] == 24
    assert method.weights.std() > 0.1 and all(part.mean().item() == pytest.approx(1.0, abs=1e-5) for part in method.weights.split(12))
    assert not all(torch.equal(value, before[name]) for name, value in method.encoder.state_dict().items())
    probabilities = method.student().predict(corpus.unlabeled.contents)
    assert probabilities.shape == (24, 2) and (probabilities.argmax(1) == (torch.arange(24) >= 12)).float().mean() > 0.7


def test_a_clean_subset_is_trained_on_without_weights(corpus, tmp_path):
    method = build(labeled(corpus), tmp_path / "e", budget=8)
    history, _ = run(method)
    relative = relative_weights(method.learned().weights, method.targets, balance=True)
    drawn = np.random.default_rng([0, 1_000_001]).random(24) < inclusion_probabilities(relative.double(), 8).numpy()
    assert method.chosen.tolist() == np.flatnonzero(drawn).tolist() and (method.weights == 1).all()
    assert history.rounds[0]["chosen"] == drawn.sum() < 24
    assert method.steps(0) == -(-len(method.chosen) // 8)


@pytest.mark.parametrize("options", [{}, {"budget": 8}])
def test_a_resumed_run_ends_where_the_whole_one_does(corpus, tmp_path, options):
    whole = build(labeled(corpus), tmp_path / "a", **options)
    _, states = run(whole)
    sungen._LEARNED.clear()
    again = build(labeled(corpus), tmp_path / "b", **options)
    run(again, resume=states[0])
    assert torch.equal(whole.classifier.weight, again.classifier.weight) and (whole.chosen == again.chosen).all()


def test_the_same_seed_gives_the_same_weights(corpus, tmp_path):
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        sungen._LEARNED.clear()
        method = build(labeled(corpus), tmp_path / folder, seed=seed)
        run(method, seed=seed)
        found.append(method.classifier.weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_weights_are_learned_once_for_what_they_follow_from(corpus, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sungen, "learn_weights", lambda *a, **k: calls.append(a) or learn_weights(*a, **k))
    first = build(labeled(corpus), tmp_path / "a").learned()
    assert build(labeled(corpus), tmp_path / "b", budget=8, epochs=3).learned() is first and len(calls) == 1
    flipped = replace(labeled(corpus), granted={id_: int(index < 12) for index, id_ in enumerate(corpus.unlabeled.ids)})
    others = [{"outer": "ce"}, {"outer_iterations": 7}, {"balance": False}, {"virtual_step": False}, {"seed": 1}]
    for count, options in enumerate(others, start=2):
        assert build(labeled(corpus), tmp_path / f"o{count}", **options).learned() is not first and len(calls) == count
    build(flipped, tmp_path / "f").learned()
    assert len(calls) == 2 + len(others)


def test_a_bilstm_finds_flipped_labels(corpus, texts_by_class):
    # Texts share their words: what a text has for itself lets the inner training memorise its label, and then the weights say nothing.
    rng = np.random.default_rng(0)
    words = [sorted({word for text in group for word in text.split()[:3]}) for group in texts_by_class.values()]
    texts = [" ".join(rng.choice(own, size=rng.integers(2, 5))) for own in words for _ in range(40)]
    wrong = rng.choice(80, size=12, replace=False).tolist()
    documents = Documents(tuple(f"{index:02}" for index in range(80)), tuple(texts))
    granted = {f"{index:02}": int(index >= 40) ^ int(index in wrong) for index in range(80)}
    torch.manual_seed(0)
    encoder = BiLSTMEncoder(bilstm(vocabulary(texts, 100), word_dimensions=8, hidden=8))
    options = {"name": "sungen", "epochs": 2, "batch_size": 8, "outer_iterations": 10, "inner_learning_rate": 0.02, "inner_epochs": 2}
    method = resolve(parse({"method": options})).build(replace(corpus, unlabeled=documents, granted=granted), encoder)
    history, _ = run(method)
    assert history.rounds[0]["outer_last"] < history.rounds[0]["outer_first"]
    right = [index not in wrong for index in range(80)]
    assert roc_auc_score(right, method.learned().weights) > 0.9


def test_what_cannot_be_done_is_said(corpus, tmp_path):
    with pytest.raises(SelfTrainError, match=r"sungen needs labels, right or wrong; set data\.supervision: all"):
        build(corpus, tmp_path / "a")
    with pytest.raises(SelfTrainError, match=r"budget must be at most the number of labeled documents, 24 \(got 25\)"):
        build(labeled(corpus), tmp_path / "b", budget=25)
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'head'"):
        resolve(parse({"method": {"name": "sungen"}})).build(labeled(corpus), TextEncoder(tiny_backbone(tmp_path / "c"), max_tokens=16))
