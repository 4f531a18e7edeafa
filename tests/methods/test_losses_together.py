"""What every loss of the index in methods/losses.py owes: the gradient of differences, and finite values and gradients where probabilities are 0 and 1, where
a class is absent from the batch, in half precision, and in an empty corner of a batch. The values by hand are in the tests of each paper."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from equations import index

from selftrain.methods.candidate_labels.partial import within

losses = SimpleNamespace(**{row.name: row.function for row in index()})
CLASSES = torch.tensor([0, 1, 2, 0, 1])
NEGATIVES = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
FEATURES = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SETS = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]])


def unified(x):
    """SSC's loss with the first two rows as prototypes, the third labeled, and two views of the others."""
    rows = F.normalize(x, dim=1)
    unlabeled = rows[3:] if len(x) > 3 else rows
    return losses.unified_contrastive(
        rows[:2],
        rows[2:3],
        [unlabeled, unlabeled.flip(1)],
        labels=CLASSES[2:3] * 0 if len(x) > 2 else CLASSES[:0],
        view_labels=torch.arange(1, 1 + len(unlabeled)),  # the second is unconfident
        temperature=0.1,
        labeled_weights=torch.ones(len(rows[2:3])).to(x),
        view_weights=[torch.full((len(unlabeled),), 0.2).to(x)] * 2,
    )


# Each as a function of scores or embeddings [5, 4] alone; class 3 is in no batch.
ALL = {
    "soft_targets": lambda x: losses.text_to_label(x, losses.soft_targets(x, 0.1)),
    "text_to_label": lambda x: losses.text_to_label(x, F.one_hot(CLASSES, 4).to(x)),
    "text_to_generated": lambda x: losses.text_to_generated(x, x.flip(0), CLASSES, CLASSES.flip(0), 1.0),
    "text_to_generated over generated": lambda x: losses.text_to_generated(x, x.flip(0), CLASSES, CLASSES.flip(0), 1.0, denominator="generated"),
    "negative_sampling": lambda x: losses.negative_sampling(x, NEGATIVES),
    "supervised_contrastive": lambda x: losses.supervised_contrastive(F.normalize(x, dim=1), CLASSES, 0.1),
    "pool_contrastive": lambda x: losses.pool_contrastive(F.normalize(x[:3], dim=1), F.normalize(x, dim=1), CLASSES[:3, None] == CLASSES, 0.1),
    "unified_contrastive": unified,
    "entropy": losses.entropy,
    "confident_cross_entropy": lambda x: losses.confident_cross_entropy(x, x.flip(1), 0.3),
    "distillation": lambda x: losses.distillation(x, x.flip(1), 3.0),
    "bidirectional_divergence": lambda x: losses.bidirectional_divergence(x, x.flip(1), 3.0),
    "top_k_cross_entropy": lambda x: losses.top_k_cross_entropy(x, CLASSES, (0.8, 0.2)),
    "reverse_cross_entropy": lambda x: losses.reverse_cross_entropy(x, CLASSES),
    "candidate_likelihood": lambda x: losses.candidate_likelihood(x, SETS.to(x)),
    "negative_candidates": lambda x: losses.negative_candidates(x, SETS.to(x)),
    "consistency": lambda x: losses.consistency(torch.stack([x, x.flip(0)]), losses.agreed_labels(torch.stack([x, x.flip(0)]), SETS.to(x))),
    "mean_absolute_error": lambda x: losses.mean_absolute_error(x, CLASSES),
    "dirichlet_divergence": losses.dirichlet_divergence,
    "reconstruction": lambda x: losses.reconstruction(x, x.flip(1), F.normalize(FEATURES.to(x), dim=1), SETS.to(x), torch.eye(len(x)).to(x)),
    "generation_likelihood": lambda x: losses.generation_likelihood(x, within(x.flip(0), SETS.to(x)), SETS.to(x)),
}
PARTS = {  # not losses: they are inside of others, or choose what a loss is taken of
    "similarity",
    "sharpened_targets",
    "agreed_labels",
    "rank_probabilities",
    "customized_soft_labels",
    "most_confident_per_class",
    "growing_size",
    "choose_negatives",
    "pseudo_margins",
    "LearnedObjective",
    "learn_weights",
    "meta_gradient",
    "inclusion_probabilities",
    "strongest",
    "label_posterior",
}


def scores(scale=1.0, dtype=torch.float64):
    return (scale * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()


def value_and_gradient(name, x):
    loss = ALL[name](x)
    (gradient,) = torch.autograd.grad(loss, x)
    return loss.detach(), gradient


def test_no_loss_is_left_out():
    found = {row.name for row in index()}
    assert found == {name.split()[0] for name in ALL} | PARTS


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_differences(name):
    held = scores().detach()
    constant = {  # what a loss holds constant must stand still for the differences too
        "soft_targets": lambda x: losses.text_to_label(x, losses.soft_targets(held, 0.1)),
        "distillation": lambda x: losses.distillation(x, held.flip(1), 3.0),
    }
    function = constant.get(name, ALL[name])
    assert torch.autograd.gradcheck(function, scores())
    (checked,) = torch.autograd.grad(function(x := scores()), x)
    assert torch.allclose(checked, value_and_gradient(name, scores())[1])
    assert checked.abs().max() > 1e-6


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e2, 1e4, 1e30])
def test_finite_where_probabilities_are_zero_and_one(name, scale):
    loss, gradient = value_and_gradient(name, scores(scale, torch.float32))
    if scale < 1e30 or ("generated" not in name and name != "reconstruction"):  # products of 1e60 are beyond float32
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])  # measured: at most 0.021 and 0.0023
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_half_precision_is_finite_and_near_single(name, dtype, near, scale):
    x = scores(scale, dtype)
    if name.startswith("text_to_generated") and scale > 1:
        x = scores(5.0, dtype)
    loss, gradient = value_and_gradient(name, x)
    exact, exact_gradient = value_and_gradient(name, x.detach().double().requires_grad_())
    assert loss.dtype == dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert float(loss) == pytest.approx(float(exact), rel=near / 2, abs=0)
    assert exact_gradient.norm() > 0.01
    assert (gradient.double() - exact_gradient).norm() < near * exact_gradient.norm()


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one(name):
    only = {
        "text_to_generated": lambda x: losses.text_to_generated(x, x * 0.5, CLASSES[:1], CLASSES[:1], 1.0),
        "text_to_generated over generated": lambda x: losses.text_to_generated(x, x * 0.5, CLASSES[:1], CLASSES[:1], 1.0, denominator="generated"),
        "text_to_label": lambda x: losses.text_to_label(x, F.one_hot(CLASSES[:1], 4).to(x)),
        "negative_sampling": lambda x: losses.negative_sampling(x, NEGATIVES[:1]),
        "supervised_contrastive": lambda x: losses.supervised_contrastive(F.normalize(x, dim=1), CLASSES[:1], 0.1),
        "top_k_cross_entropy": lambda x: losses.top_k_cross_entropy(x, CLASSES[:1], (0.8, 0.2)),
        "reverse_cross_entropy": lambda x: losses.reverse_cross_entropy(x, CLASSES[:1]),
        "mean_absolute_error": lambda x: losses.mean_absolute_error(x, CLASSES[:1]),
        "reconstruction": lambda x: losses.reconstruction(x, x.flip(1), FEATURES[:1].to(x), SETS[:1].to(x), torch.ones(1, 1)),
        "generation_likelihood": lambda x: losses.generation_likelihood(x, within(x * 0.5, SETS[:1].to(x)), SETS[:1].to(x)),
    }
    x = scores()[:1].detach().requires_grad_()
    loss = only.get(name, ALL[name])(x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
def test_an_embedding_of_length_zero_or_a_flat_prediction_has_a_finite_gradient(name):
    x = scores().detach()
    x[0] = 0.0
    loss, gradient = value_and_gradient(name, x.requires_grad_())
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


# --- limits


def test_equation_5_is_cross_entropy_on_the_argmax_as_tau_falls():
    x = scores()
    found, hard = losses.text_to_label(x, losses.soft_targets(x, 1e-4)), F.cross_entropy(x, x.argmax(dim=1))
    assert found.item() == pytest.approx(hard.item(), rel=1e-9)
    assert torch.allclose(*(torch.autograd.grad(loss, x)[0] for loss in (found, hard)), atol=1e-9)


def test_equation_5_at_tau_1_has_the_value_of_the_entropy_and_no_gradient():
    x = scores()
    loss = losses.text_to_label(x, losses.soft_targets(x, 1.0))
    assert loss.item() == pytest.approx(losses.entropy(x).item(), rel=1e-12)
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-12  # Q is held constant; the entropy itself has a gradient
    assert torch.autograd.grad(losses.entropy(x), x)[0].abs().max() > 0.01


def test_equation_10_of_one_class_by_hand():
    # Two unit vectors at right angles, each its own continuation: sim is 1 and 0, so each term is -(1 - log(e + 1)) and -(0 - log(e + 1)).
    rows = torch.eye(2, dtype=torch.float64)
    log_sum = torch.log(torch.tensor(1.0, dtype=torch.float64).exp() + 1)
    both = losses.text_to_generated(rows, rows, torch.tensor([0, 0]), torch.tensor([0, 0]), 1.0)
    own = losses.text_to_generated(rows, rows, torch.tensor([0, 1]), torch.tensor([0, 1]), 1.0)
    assert both.item() == pytest.approx((log_sum - 0.5).item())
    assert own.item() == pytest.approx((log_sum - 1.0).item())


@pytest.mark.parametrize("threshold", [0.01, 0.04, 0.3, 0.49])
def test_ns3l_of_two_classes_has_the_gradient_of_pseudo_labeling_too(threshold):
    x = torch.linspace(-5, 5, 24, dtype=torch.float64).reshape(12, 2).roll(3, 0).requires_grad_()
    x = (x * torch.tensor([1.0, -0.7], dtype=torch.float64)).detach().requires_grad_()
    negative = losses.negative_sampling(x, torch.softmax(x.detach(), dim=1) < threshold)
    pseudo = losses.confident_cross_entropy(x, x, 1 - threshold)
    assert negative.item() == pytest.approx(pseudo.item(), rel=1e-9)
    assert torch.allclose(*(torch.autograd.grad(loss, x)[0] for loss in (negative, pseudo)), atol=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_prototypes_at_temperature_1_make_supcon_cross_entropy_for_a_whole_batch_of_anchors(classes):
    """SSC section 3.3, anchor by anchor; in one SupCon over all of them the other examples are in the denominator too."""
    generator = torch.Generator().manual_seed(3)
    prototypes = F.normalize(torch.randn(classes, 6, dtype=torch.float64, generator=generator), dim=1).requires_grad_()
    examples = F.normalize(torch.randn(7, 6, dtype=torch.float64, generator=generator), dim=1)
    labels = torch.arange(7) % classes
    only = torch.tensor([1.0, *[0.0] * classes], dtype=torch.float64)
    everyone = [torch.cat([label.view(1), torch.arange(classes)]) for label in labels]
    found = torch.stack(
        [losses.supervised_contrastive(torch.cat([row.view(1, -1), prototypes]), own, 1.0, only) for row, own in zip(examples, everyone, strict=True)]
    ).mean()
    plain = F.cross_entropy(examples @ prototypes.T, labels)
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)
    assert torch.allclose(*(torch.autograd.grad(loss, prototypes)[0] for loss in (found, plain)), atol=1e-12)


def test_distillation_at_high_temperature_matches_logits():
    # Hinton et al. 2015: with centred logits and T -> infinity, T^2 KL -> sum of squared differences / (2 L)
    student, teacher = scores(), torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    student, teacher = student.detach() - student.detach().mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    expected = ((student - teacher) ** 2).sum(dim=1).mean() / 8
    assert losses.distillation(student, teacher, 1e4).item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_threshold_of_confident_cross_entropy_includes_its_ends():
    x = scores()
    assert losses.confident_cross_entropy(x, x, 0.0).item() == pytest.approx(F.cross_entropy(x, x.argmax(dim=1)).item())
    assert losses.confident_cross_entropy(x, x, 1.0).item() == 0.0
    sure = torch.tensor([[200.0, 0.0]])
    assert losses.confident_cross_entropy(torch.zeros(1, 2), sure, 1.0).item() == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_top_k_cross_entropy_of_the_first_place_alone_is_cross_entropy():
    x = scores()
    assert losses.top_k_cross_entropy(x, CLASSES, (1.0,)).item() == pytest.approx(F.cross_entropy(x, CLASSES).item(), rel=1e-5)


def test_a_comparison_of_scores_far_apart_keeps_its_digits_and_a_gradient():
    # The lower one comes first with probability 1 / (pi 4e6), which arctan / pi + 1/2 would round away.
    x = torch.tensor([[0.0, 2e6]], requires_grad=True)
    share = losses.rank_probabilities(x)[0, 0, 0]
    assert share.item() == pytest.approx(1 / (math.pi * 4e6), rel=1e-4)
    (gradient,) = torch.autograd.grad(share.log(), x)
    assert gradient[0, 0].item() == pytest.approx(5e-7, rel=1e-2)
