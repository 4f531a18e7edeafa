"""SEAL: its losses by hand, the gradient through both virtual steps by differences, its theorem's toy data, and its training."""

import copy
import itertools
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
from selftrain.methods.soft_labels import top_k
from selftrain.methods.soft_labels.seal import (
    LearnedObjective,
    bidirectional_divergence,
    sgd_step,
    smooth_leaky_relu,
)
from selftrain.methods.soft_labels.top_k import rank_probabilities, strongest, top_k_cross_entropy
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


def test_ranks_of_two_classes_by_hand():
    # one comparison: class 0 stays first with arctan(2 * (1 - 0)) / pi + 1/2
    found = rank_probabilities(torch.tensor([[1.0, 0.0]]), steepness=2.0)[0]
    first = math.atan(2.0) / math.pi + 0.5
    assert found.flatten().tolist() == pytest.approx([first, 1 - first, 1 - first, first], abs=1e-6)


def test_ranks_of_three_classes_by_hand():
    """The network sorts upwards and its first layer compares columns 0 and 1 (diffsort's odd-even network): what column 0 becomes, by a pocket calculator."""
    # scores 1, 2, 0. Layer 1, columns 0 and 1: they stay with arctan(2) / pi + 1/2 = .852416, so column 0 is now 1.147584, column 1 is 1.852416.
    # Layer 2, columns 1 and 2: stay with arctan(-3.704833) / pi + 1/2 = .083918; column 1 is .155450, column 2 is 1.696966.
    # Layer 3, columns 0 and 1: stay with arctan(-1.984266) / pi + 1/2 = .148592.
    # What was column 0 is in 0, 1, 2 with: .852416, .147584, 0; then .852416, .012385, .135199; then .137206, .727595, .135199.
    found = rank_probabilities(torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64))[0, :, 0]
    assert found.tolist() == pytest.approx([0.135199, 0.727595, 0.137206], abs=2e-6)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_rank_probabilities_are_doubly_stochastic(classes):
    torch.manual_seed(classes)
    found = rank_probabilities(torch.randn(5, classes, dtype=torch.float64))
    ones = torch.ones(5, classes, dtype=torch.float64)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(1), ones)
    assert torch.allclose(found.sum(2), ones)


def test_steep_ranks_are_the_hard_sort_of_every_order():
    for order in itertools.permutations([3.0, 1.0, 2.0, 0.0]):
        found = rank_probabilities(torch.tensor([order], dtype=torch.float64), steepness=1e9)[0]
        assert found.argmax(dim=1).tolist() == np.argsort(-np.array(order)).tolist()
        assert found.max(dim=1).values.min() > 1 - 1e-6


def sorted_softly(scores, steepness=2.0):
    """[place][column] of one row, the highest place first: an odd-even network that sorts upwards, one comparison of two neighbours after the other."""
    values, chances = list(scores), np.eye(len(scores))
    for layer in range(len(scores)):
        for left in range(layer % 2, len(scores) - 1, 2):
            stays = math.atan(steepness * (values[left + 1] - values[left])) / math.pi + 0.5
            mix = np.array([[stays, 1 - stays], [1 - stays, stays]])
            values[left : left + 2] = mix @ values[left : left + 2]
            chances[left : left + 2] = mix @ chances[left : left + 2]
    return chances[::-1]


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_the_sorting_network_one_comparison_at_a_time(classes):
    scores = np.random.default_rng(classes).normal(size=(4, classes))
    found = rank_probabilities(torch.tensor(scores), steepness=3.0).numpy()
    assert found == pytest.approx(np.stack([sorted_softly(row, 3.0) for row in scores]), rel=1e-10)


def equation_14(row, label, prior, steepness=2.0):
    """Of one row, as released: the label first, then the seven strongest others downwards; P(1) times the softmax of these, the rest from the network."""
    scores = np.array([row[label], *sorted(np.delete(row, label), reverse=True)[:7]])
    chances = sorted_softly(scores, steepness)
    found = prior[0] * softmax(scores)[0] + sum(p * chances[: k + 1, 0].sum() for k, p in enumerate(prior) if k)
    return -math.log(found * (1 - 2e-7) + 1e-7)


@pytest.mark.parametrize(
    ("classes", "prior"), [(5, (0.5, 0.3, 0.2)), (3, (0.8, 0.2)), (8, (0.5, 0.0, 0.3, 0.0, 0.2)), (20, (0.5, 0.0, 0.3, 0.0, 0.2))]
)
def test_equation_14_in_numpy(classes, prior):
    logits, labels = np.random.default_rng(1).normal(size=(6, classes)), [0, 1, 2, classes - 1, classes - 2, 0]
    expected = np.mean([equation_14(row, label, prior) for row, label in zip(logits, labels, strict=True)])
    assert top_k_cross_entropy(torch.tensor(logits), torch.tensor(labels), prior).item() == pytest.approx(expected, rel=1e-12)


def test_equation_14_by_hand():
    # scores 1 (the label), 2, 0: softmax .244728, and among the first two with .135199 + .727595 (above): .8 * .244728 + .2 * .862794 = .368341
    loss = top_k_cross_entropy(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64), torch.tensor([1]), (0.8, 0.2))
    assert loss.item() == pytest.approx(-math.log(0.368341), abs=1e-5)


def test_equation_14_is_near_zero_for_a_clear_winner_among_a_hundred_classes_wherever_it_stands():
    """A network over all classes in the order of their numbers, which it was, found the label first with .225 where it is class 0, and with .000 at the end."""
    found = []
    for label in (0, 1, 50, 98, 99):
        logits = torch.zeros(1, 100)
        logits[0, label] = 8.0
        found.append(top_k_cross_entropy(logits, torch.tensor([label]), (0.8, 0.2)).item())
    assert max(found) < 0.1
    assert max(found) - min(found) < 1e-6
    few = torch.zeros(1, 8)
    few[0, 3] = 8.0
    assert found[0] == pytest.approx(top_k_cross_entropy(few, torch.tensor([3]), (0.8, 0.2)).item(), abs=1e-6)


def test_equation_14_sorts_eight_scores_however_many_classes_there_are(monkeypatch):
    sizes = []
    original = top_k.rank_probabilities
    monkeypatch.setattr(top_k, "rank_probabilities", lambda scores, *more, **named: sizes.append(scores.shape[1]) or original(scores, *more, **named))
    for classes in (3, 8, 9, 1000):
        top_k_cross_entropy(torch.zeros(2, classes), torch.tensor([0, classes - 1]), (0.8, 0.2))
    assert sizes == [3, 8, 8, 8]


def test_the_strongest_others_follow_the_label_downwards():
    scores = torch.arange(10.0).unsqueeze(0)
    assert strongest(scores, torch.tensor([1])).tolist() == [[1, 9, 8, 7, 6, 5, 4, 3]]
    assert strongest(scores, torch.tensor([9])).tolist() == [[9, 8, 7, 6, 5, 4, 3, 2]]
    assert strongest(scores[:, :3], torch.tensor([0])).tolist() == [[0, 2, 1]]


def test_equation_14_counts_second_places_by_the_prior():
    # steep, so that the label is second for sure, which the prior gives .2; the part for the first place is a softmax: e^2 / (e^3 + e^2 + e)
    scores = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    loss = top_k_cross_entropy(scores, torch.tensor([1]), (0.8, 0.2), steepness=1e9)
    assert loss.item() == pytest.approx(-math.log(0.2 + 0.8 / (math.e + 1 + 1 / math.e)), rel=1e-6)
    loss = top_k_cross_entropy(scores, torch.tensor([2]), (0.8, 0.2), steepness=1e9)
    assert loss.item() == pytest.approx(-math.log(0.8 / (math.e**2 + math.e + 1)), rel=1e-5)


def test_equation_14_gradients_and_finite_far_out():
    torch.manual_seed(2)
    for classes in (4, 12):
        logits, labels = torch.randn(3, classes, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 3])
        assert torch.autograd.gradcheck(lambda one, labels=labels: top_k_cross_entropy(one, labels, (0.8, 0.2)), logits)
    far = torch.tensor([[-1e6, 0.0, 1e6]], requires_grad=True)
    loss = top_k_cross_entropy(far, torch.tensor([0]), (0.8, 0.2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()


@pytest.mark.parametrize("prior", [(0.5, 0.3, 0.2), (0.8, 0.1), (1.2, -0.2)])
def test_equation_14_refuses_priors_that_say_nothing(prior):
    with pytest.raises(ValueError, match="prior"):
        top_k_cross_entropy(torch.zeros(1, 3), torch.tensor([0]), prior)
    with pytest.raises(ValueError, match="8 of 20 classes"):
        top_k_cross_entropy(torch.zeros(1, 20), torch.tensor([0]), (0.125,) * 8)


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
        return method.virtual_task_loss(rows, labels, 0.7)[0]

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
    loss, stepped = method.virtual_task_loss(rows, labels, 1.0)
    method.update_objective(loss)
    assert equal(before, weights(method))
    assert equal(generator, method.generator)
    assert not equal(generator, stepped)
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
    expected = np.mean([equation_14(row, y, (0.8, 0.2)) for row, y in zip(logits, labels, strict=True)])
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
