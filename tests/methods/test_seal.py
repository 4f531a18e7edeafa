"""SEAL: its losses by hand, the gradient through both virtual steps by differences, its theorem's toy data, and its training."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from selftrain import methods
from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.losses import distillation
from selftrain.methods.recipe import resolve
from selftrain.methods.soft_labels.seal import (
    LearnedObjective,
    bidirectional_divergence,
    smooth_leaky_relu,
)
from selftrain.methods.soft_labels.top_k import top_k_cross_entropy
from selftrain.methods.virtual import sgd_step, virtual
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.training.loop import train


def softmax(rows):
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def with_labels(corpus, count=24):
    """The tiny corpus (12 documents of each of two classes) with labels granted to its first `count`."""
    ids = corpus.unlabeled.ids
    return replace(corpus, granted={id_: int(place >= 12) for place, id_ in enumerate(ids) if place < count})


def built(corpus, folder, seed=0, **options):
    torch.manual_seed(0)
    experiment = parse({"method": {"name": "seal", "rounds": 2, "steps_per_round": 4, "batch_size": 8, "objective_steps": 2, **options}})
    return resolve(experiment).build(corpus, HeadEncoder(tiny_backbone(folder), max_tokens=16), seed=seed)


def trained(corpus, folder, resume=None, **options):
    method = built(corpus, folder, **options)
    history = train(method, texts=no_texts, report=lambda figures, state: None, seed=0, resume=resume)
    return method, history


def weights(method):
    return {name: value.clone() for name, value in method.net.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# --- losses


def test_equation_13_in_numpy():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    p, q = softmax(one), softmax(two)
    expected = ((q * np.log(q / p)).sum(1) + (p * np.log(p / q)).sum(1)).mean()
    assert bidirectional_divergence(torch.tensor(one), torch.tensor(two)).item() == pytest.approx(expected)
    p, q = softmax(one / 4), softmax(two / 4)
    expected = 16 * ((q * np.log(q / p)).sum(1) + (p * np.log(p / q)).sum(1)).mean()
    assert bidirectional_divergence(torch.tensor(one), torch.tensor(two), 4.0).item() == pytest.approx(expected)


def test_equation_13_is_symmetric_zero_on_itself_and_finite_far_out():
    one, two = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]])
    assert bidirectional_divergence(one, two).item() == pytest.approx(bidirectional_divergence(two, one).item())
    assert bidirectional_divergence(one, one).item() == 0.0
    far = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    loss = bidirectional_divergence(far, -far.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()


def test_equation_13_has_gradients_on_both_sides():
    torch.manual_seed(0)
    sides = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda one, two: bidirectional_divergence(one, two, 2.0), sides)
    assert torch.autograd.gradgradcheck(lambda one, two: bidirectional_divergence(one, two, 2.0), sides)


def test_distillation_by_hand_and_without_gradient_to_the_teacher():
    # teacher (1/2, 1/2), student (3/4, 1/4) at T = 2: KL = log 1/2 - (log 3/4 + log 1/4) / 2
    teacher = torch.zeros(1, 2, requires_grad=True)
    student = 2 * torch.tensor([[math.log(3), 0.0]])
    loss = distillation(student.requires_grad_(), teacher, 2.0)
    assert loss.item() == pytest.approx(4 * (math.log(1 / 2) - (math.log(3 / 4) + math.log(1 / 4)) / 2), rel=1e-5)
    loss.backward()
    assert teacher.grad is None


def test_distillation_gradients_and_its_zero():
    torch.manual_seed(0)
    logits, teacher = (torch.randn(3, 4, dtype=torch.float64, requires_grad=grad) for grad in (True, False))
    assert torch.autograd.gradcheck(lambda one: distillation(one, teacher, 3.0), logits)
    assert distillation(teacher, teacher, 3.0).item() == pytest.approx(0.0, abs=1e-12)


def test_smooth_leaky_relu_has_the_slopes_of_the_leaky_one():
    far = torch.tensor([-50.0, 0.0, 50.0], dtype=torch.float64)
    assert smooth_leaky_relu(far).tolist() == pytest.approx([-0.5, 0.99 * math.log(2) / 10, 50.0])


def test_h_is_shared_over_the_classes_and_positive():
    torch.manual_seed(0)
    h = LearnedObjective().double()
    logits, targets = torch.randn(5, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    order = torch.tensor([2, 0, 3, 1])
    assert h(logits, targets).item() == pytest.approx(h(logits[:, order], targets[:, order]).item())
    assert h(logits, targets).item() > 0
    # the mean over the batch of the sum over the classes, one pair at a time
    pairs = torch.stack([torch.softmax(logits, 1), targets], 2)
    single = sum(h_of_pair(h, pair) for pair in pairs.reshape(-1, 2)) / 5
    assert h(logits, targets).item() == pytest.approx(single)


def h_of_pair(h, pair):
    for layer in h.layers[:-1]:
        pair = smooth_leaky_relu(layer.weight @ pair)
    return math.log1p(math.exp((h.layers[-1].weight @ pair).item()))


# --- the two virtual steps


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("top_k", [False, True])
def test_the_gradient_through_both_virtual_steps_is_that_of_differences(corpus, tmp_path, form, top_k):
    method = built(with_labels(corpus), tmp_path / "e", form=form, generator_rate=2.0, virtual_rate=3.0, temperature=2.0)
    method.net.double()
    method.objective.double()
    torch.manual_seed(1)
    for parameter in method.net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    method.generator = {name: (torch.randn_like(value.double()) * 0.3).requires_grad_() for name, value in method.generator.items()}
    rows = method.encoder.inputs(corpus.unlabeled.contents[6:18]).double()
    labels = torch.tensor([0] * 6 + [1] * 6)
    if top_k:  # two classes leave no top-k; any smooth loss that is not cross-entropy will do
        method.task_loss = lambda logits, labels: top_k_cross_entropy(torch.cat([logits, logits.new_zeros(12, 1)], 1), labels, (0.7, 0.3))

    def loss():
        return method.virtual_task_loss(virtual(method.net, method.generator, [rows]), rows, labels, 0.7)[0]

    gradients = torch.autograd.grad(loss(), list(method.objective.parameters()))
    checked = 0
    for parameter, gradient in zip(method.objective.parameters(), gradients, strict=True):
        for place in gradient.abs().flatten().topk(2).indices:  # where the gradient is largest, differences are most exact
            flat, step = parameter.data.view(-1), 1e-5
            flat[place] += step
            above = loss().item()
            flat[place] -= 2 * step
            below = loss().item()
            flat[place] += step
            assert gradient.flatten()[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-10)
            checked += abs(gradient.flatten()[place].item()) > 1e-6
    assert checked  # some of them are far from zero


def test_virtual_steps_leave_f_and_g_as_they_are(corpus, tmp_path):
    method = built(with_labels(corpus), tmp_path / "e")
    before, generator = weights(method), {name: value.detach().clone() for name, value in method.generator.items()}
    rows, labels = method.encoder.inputs(corpus.unlabeled.contents[:8]), torch.zeros(8, dtype=torch.long)
    loss, stepped = method.virtual_task_loss(virtual(method.net, method.generator, [rows]), rows, labels, 1.0)
    method.update_objective(loss)
    assert equal(before, weights(method))
    assert equal(generator, method.generator)
    assert not equal(generator, stepped.parameters())
    assert all(parameter.grad is None for parameter in method.net.parameters())


@pytest.mark.parametrize("form", ["paper", "released"])
def test_g_repeats_its_step_with_the_new_h_in_the_paper_alone(corpus, tmp_path, form):
    method = built(with_labels(corpus), tmp_path / "e", form=form, objective_rate=0.1, ramp=0.0)
    start = method.generator
    seen = {}
    original = method.update_objective

    def remember(loss):
        seen["old"] = {name: value.clone() for name, value in method.objective.state_dict().items()}
        original(loss)

    method.update_objective = remember
    batches = []
    targets_of = method.targets_of
    method.targets_of = lambda batch: batches.append(batch) or targets_of(batch)
    method.step(0, 0)
    new = {name: value.clone() for name, value in method.objective.state_dict().items()}
    assert not equal(seen["old"], new)
    rows = method.encoder.inputs([corpus.unlabeled.contents[index] for index in batches[0].labeled])

    def after(omega):
        method.objective.load_state_dict(omega)
        loss = method.generator_loss(method.call(start, rows), targets_of(batches[0]))
        return sgd_step(loss, start, method.generator_rate, differentiable=False)

    expected, other = (after(new), after(seen["old"])) if form == "paper" else (after(seen["old"]), after(new))
    assert all(torch.allclose(method.generator[name], expected[name], atol=1e-7) for name in expected)
    assert not all(torch.allclose(method.generator[name], other[name], atol=1e-7) for name in other)


# --- the theorem


def on_circle(degrees):
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees], dtype=torch.float64)


def margin_of_first_class(soften, *, unit):
    """gamma_p of equation 17 after gradient descent on theta_p alone, from the edge of its class (assumption 2).

    Three classes on the circle, symmetric about their centres (assumption 1). The nearest other class lies on the far side of v_p from where theta_p starts.
    """
    centres = [0, 60, -120]
    features = on_circle([centre + offset for centre in centres for offset in (-15, -7.5, 0, 7.5, 15)])
    hard = torch.eye(3, dtype=torch.float64).repeat_interleave(5, dim=0)
    prototypes = on_circle(centres)
    targets = soften(hard, features @ prototypes.T)
    prototypes[0] = on_circle([-13])[0]
    for _ in range(2000):
        gradient = ((torch.softmax(features @ prototypes.T, 1) - targets)[:, :1] * features).mean(0)
        prototypes[0] -= 0.1 * gradient
        if unit:
            prototypes[0] /= prototypes[0].norm()
    scores = features[:5] @ prototypes.T
    return float(scores[:, 0].min() - scores[:, 1:].max())


def soft(hard, scores):
    return 0.5 * hard + 0.5 * torch.softmax(3 * scores, 1)


def smoothed(hard, scores):
    return 0.8 * hard + 0.2 / 3


def unchanged(hard, scores):
    return hard


def test_soft_labels_that_follow_the_features_give_a_larger_class_margin_than_hard_ones():
    # assumption 2 (1): theta_p has length one
    hard = margin_of_first_class(unchanged, unit=True)
    assert hard > 0
    assert margin_of_first_class(soft, unit=True) > hard + 0.02
    # softness alone is not what does it
    assert margin_of_first_class(smoothed, unit=True) < hard


def test_without_length_one_the_theorem_does_not_hold():
    # docs/methods/seal.md: the difference of gradients in equations 29 to 34 points the other way for theta_p that may grow
    assert margin_of_first_class(soft, unit=False) < margin_of_first_class(unchanged, unit=False)


# --- training


def test_lambda_rises_linearly_and_reaches_lambda_e(corpus, tmp_path):
    method = built(with_labels(corpus), tmp_path / "e", ramp=0.5)
    assert [method.ramped(progress) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert built(with_labels(corpus), tmp_path / "f", ramp=0.0).ramped(0.0) == 1.0


@pytest.mark.parametrize("options", [{}, {"learned": False}, {"form": "released"}, {"objective_steps": 3}, {"ns3l_weight": 0.3}])
def test_every_form_trains_and_is_reproducible(corpus, tmp_path, options):
    start = weights(built(with_labels(corpus), tmp_path / "a", **options))
    first, history = trained(with_labels(corpus), tmp_path / "b", **options)
    second, again = trained(with_labels(corpus), tmp_path / "c", **options)
    assert not equal(start, weights(first))
    assert equal(weights(first), weights(second))
    assert history.rounds == again.rounds
    assert {"ce", "seal", "loss"} <= set(history.rounds[0])
    assert all(math.isfinite(value) for figures in history.rounds for value in figures.values())


def test_h_changes_only_where_it_is_learned(corpus, tmp_path):
    for options, changes in (({}, True), ({"learned": False}, False)):
        before = {name: value.clone() for name, value in built(with_labels(corpus), tmp_path / "a", **options).objective.state_dict().items()}
        method, _ = trained(with_labels(corpus), tmp_path / "b", **options)
        assert equal(before, method.objective.state_dict()) != changes


def test_objective_steps_train_h_to_train_g(corpus, tmp_path):
    """One step with the warmed h takes a new g further down in cross-entropy than one with the h that it started as."""

    def gain(steps):
        method = built(with_labels(corpus), tmp_path / f"e{steps}", objective_steps=steps, warm_up_rate=1e-2, batch_size=12, generator_rate=3.0)
        method._warm_objective()
        rows, labels = method.encoder.inputs(corpus.unlabeled.contents), torch.tensor([0] * 12 + [1] * 12)
        torch.manual_seed(5)
        fresh = method.fresh_generator()
        logits = method.call(fresh, rows)
        after = method.call(sgd_step(method.generator_loss(logits, labels), fresh, 3.0, differentiable=False), rows)
        return (torch.nn.functional.cross_entropy(logits, labels) - torch.nn.functional.cross_entropy(after, labels)).item()

    assert gain(100) > gain(0)


def test_a_resumed_run_ends_as_the_one_that_was_never_stopped(corpus, tmp_path):
    states = []
    whole, _ = trained(with_labels(corpus), tmp_path / "a")
    stopped = built(with_labels(corpus), tmp_path / "b")
    train(stopped, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=0)
    resumed, _ = trained(with_labels(corpus), tmp_path / "c", resume=states[0])
    assert equal(weights(whole), weights(resumed))
    assert equal(whole.generator, resumed.generator)
    assert equal(whole.objective.state_dict(), resumed.objective.state_dict())


def test_the_tiny_corpus_is_learned(corpus, tmp_path):
    method, _ = trained(with_labels(corpus), tmp_path / "e", rounds=5, steps_per_round=20, learning_rate=1e-2)
    found = method.student().predict(corpus.unlabeled.contents).argmax(1)
    assert (found == torch.tensor([0] * 12 + [1] * 12)).float().mean() > 0.9


@pytest.mark.parametrize("ns3l", [0.0, 0.3])
def test_documents_without_label_matter_to_ns3ls_loss_alone(corpus, tmp_path, ns3l):
    few = with_labels(corpus, 14)
    documents = corpus.unlabeled
    other = replace(documents, contents=documents.contents[:14] + tuple(f"film music {i}" for i in range(10)))
    options = {"ns3l_weight": ns3l, "ns3l_threshold": 0.45}
    first, _ = trained(few, tmp_path / "a", **options)
    second, _ = trained(replace(few, unlabeled=other), tmp_path / "b", **options)
    apart = max((first.net.state_dict()[name] - value).abs().max().item() for name, value in second.net.state_dict().items())
    assert apart > 1e-4 if ns3l else apart < 1e-6


def test_two_classes_take_cross_entropy_as_task_loss(corpus, tmp_path):
    method = built(with_labels(corpus), tmp_path / "e")
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    assert method.task_loss(logits, labels).item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())


def test_four_classes_take_the_top_k_loss(corpus, tmp_path):
    four = replace(with_labels(corpus), labels=corpus.labels * 2)
    method = built(four, tmp_path / "e")
    logits, labels = np.random.default_rng(0).normal(size=(4, 4)), [0, 1, 2, 3]
    expected = top_k_cross_entropy(torch.tensor(logits), torch.tensor(labels), (0.8, 0.2)).item()
    assert method.task_loss(torch.tensor(logits), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-12)
    assert math.isfinite(method.step(0, 0)["loss"])


def test_a_full_encoder_is_refused(corpus, tmp_path):
    experiment = parse({"method": {"name": "seal"}})
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'head'"):
        resolve(experiment).build(with_labels(corpus), TextEncoder(tiny_backbone(tmp_path / "e"), max_tokens=16))


def test_without_labels_it_is_refused(corpus, tmp_path):
    with pytest.raises(SelfTrainError, match=r"data\.supervision"):
        built(corpus, tmp_path / "e")


@pytest.mark.parametrize("options", [{"top_k_prior": [0.8, 0.1]}, {"top_k_prior": []}, {"weight": -1}, {"temperature": 0}, {"form": "mine"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(SelfTrainError, match=r"method\."):
        methods.options_of({"name": "seal", **options})


def test_alpha_of_seal_nm_is_one_unless_it_is_set(corpus, tmp_path):
    rates = [
        built(with_labels(corpus), tmp_path / "e", **options).generator_rate
        for options in ({}, {"learned": False}, {"learned": False, "generator_rate": 5.0}, {"generator_rate": 5.0})
    ]
    assert rates == [10.0, 1.0, 5.0, 5.0]
