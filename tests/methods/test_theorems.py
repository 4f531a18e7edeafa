"""What the papers prove, on toy data that meets their assumptions: GenCo's theorems 2 and 3, SEAL's theorem 3.1, SunGen's robustness to wrong labels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flipped_labels import flipped
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.methods.losses import reverse_cross_entropy, similarity, text_to_label
from selftrain.methods.noisy_labels.sungen import SunGenOptions, learn_weights, mean_absolute_error
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.genco import soft_targets
from selftrain.models.encoder import TextEncoder

pytestmark = pytest.mark.usefixtures("one_thread")


# --- GenCo, theorem 2: a gradient step on equation 5 widens the margin d = <x, e_1 - e_2>


def through(scores, tau):
    """Q with its gradient, as equation 21 differentiates it; `soft_targets` is Q held constant, as training has it."""
    return torch.softmax(scores / tau, dim=1)


def slope(d, tau, targets):
    """dL/dd of equation 5 for one document with scores (d, 0)."""
    d = torch.tensor(float(d), dtype=torch.float64, requires_grad=True)
    scores = torch.stack([d, torch.zeros_like(d)]).unsqueeze(0)
    return torch.autograd.grad(text_to_label(scores, targets(scores, tau)), d)[0].item()


def terms_of_equation_21(d, tau):
    soft, hard = math.exp(-d / tau), math.exp(-d)
    return -d * soft / (tau * (soft + 1) ** 2), (soft - hard) / ((soft + 1) * (hard + 1))


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("d", [-3.0, -0.5, -0.01, 0.01, 0.5, 3.0])
def test_equation_21_and_what_is_left_of_it_where_q_is_held_constant(d, tau):
    first, second = terms_of_equation_21(d, tau)
    assert slope(d, tau, through) == pytest.approx(first + second, rel=1e-9)
    assert slope(d, tau, soft_targets) == pytest.approx(second, rel=1e-9)
    # equation 22 holds for either: a step takes d further from zero, on the side where it is
    for targets in (through, soft_targets):
        assert abs(d - 0.1 * slope(d, tau, targets)) > abs(d)


def test_at_tau_1_q_held_constant_gives_nothing_to_learn_while_the_proof_would_go_on():
    assert slope(0.7, 1.0, soft_targets) == pytest.approx(0.0, abs=1e-15)
    assert slope(0.7, 1.0, through) < -0.1  # minimal conditional entropy, equation 8


def descended(tau, targets, steps, rate):
    """Margins `[steps + 1, documents]` and classifiers of gradient descent on w = e_1 - e_2, two classes that w separates from the start."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([1.0, -1.0] * 10, dtype=torch.float64)
    documents = torch.randn(20, 2, dtype=torch.float64, generator=generator) * 0.5
    documents[:, 0] += 2.0 * sides
    w = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    margins, classifiers = [], []
    for _ in range(steps + 1):
        d = documents @ w
        margins.append((sides * d).detach())
        classifiers.append(w.detach().clone())
        scores = torch.stack([d, torch.zeros_like(d)], dim=1)
        (gradient,) = torch.autograd.grad(text_to_label(scores, targets(scores, tau)), w)
        # The slope falls exponentially in the margin; a rate that makes up for it shortens the way and changes no direction.
        w = (w - rate(gradient) * gradient).detach().requires_grad_()
    return documents, sides, torch.stack(margins), torch.stack(classifiers)


@pytest.mark.parametrize("targets", [through, soft_targets])
@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_theorem_2_every_step_widens_the_smallest_margin_of_separable_data(tau, targets):
    _, _, margins, _ = descended(tau, targets, steps=100, rate=lambda gradient: 5.0)
    smallest = margins.min(dim=1).values
    assert smallest[0] > 0 and (smallest.diff() > 0).all()
    assert smallest[-1] > 5 * smallest[0]


@pytest.mark.parametrize("targets", [through, soft_targets])
def test_theorem_3_the_direction_becomes_that_of_the_max_margin_classifier(targets):
    documents, sides, margins, classifiers = descended(0.1, targets, steps=1200, rate=lambda gradient: 0.05 / float(gradient.norm()))
    found = margins.min(dim=1).values / classifiers.norm(dim=1)
    mirrored = torch.cat([documents * sides.unsqueeze(1), -documents * sides.unsqueeze(1)])  # w has no constant: a plane through the origin
    best = torch.tensor(SVC(kernel="linear", C=1e6).fit(mirrored.numpy(), [1] * 20 + [0] * 20).coef_[0])
    widest = float((sides * (documents @ best)).min() / best.norm())
    assert found[0] < 0.5 * widest
    assert 0.99 * widest < found[-1] <= widest


def test_a_document_on_the_wrong_side_is_pushed_further_to_it():
    """Equation 22 is about |d|: the theorem's "separable" has to mean that the pseudo-labels are right, or the margin of the wrong ones shrinks."""
    for targets in (through, soft_targets):
        assert -0.2 - 0.1 * slope(-0.2, 0.1, targets) < -0.2


def test_within_a_round_the_margin_grows_to_d_over_tau_and_no_further():
    tau, first = 0.25, 0.4
    held = soft_targets(torch.tensor([[first, 0.0]], dtype=torch.float64), tau)
    d, path = first, []
    for _ in range(400):
        d -= slope(d, tau, lambda scores, tau: held)
        path.append(d)
    assert (torch.tensor(path).diff() >= 0).all()
    assert path[-1] == pytest.approx(first / tau, rel=1e-6)
    assert max(path) <= first / tau + 1e-12


def test_training_holds_q_as_the_round_began(corpus, tmp_path):
    """The gradient of a step of GenCo is that of Q held constant; differentiating through Q, as the proof does, gives another."""
    plain = {"rounds": 1, "steps_per_round": 2, "tau": 0.5, "learning_rate": 1e-2, "input_augmentation": False, "conditional_augmentation": False}
    method = resolve(parse({"method": plain})).build(corpus, TextEncoder(tiny_backbone(tmp_path / "e"), max_tokens=16), seed=0)
    method.refresh(0, no_texts)
    method.encoder.eval()
    first = {index: value.clone() for index, value in method.selection.targets.items()}
    weights = {name: value.detach().clone() for name, value in method.encoder.named_parameters()}
    batches, embed = [], method.embed
    method.embed = lambda texts: batches.append(texts) or embed(texts)
    method.optimizer.zero_grad = lambda **how: None  # the gradient is looked at after the step
    method.step(0, 0)
    used = [value for value in method.encoder.parameters() if value.grad is not None]
    taken = torch.cat([value.grad.flatten() for value in used])
    with torch.no_grad():  # back to where the step was taken
        for name, value in method.encoder.named_parameters():
            value.copy_(weights[name])

    def gradient(targets):
        scores = similarity(method.encoder(batches[0]), method.label_embeddings(), method.scale)
        return torch.cat([part.flatten() for part in torch.autograd.grad(text_to_label(scores, targets(scores)), used)])

    order = [corpus.unlabeled.contents.index(text) for text in batches[0]]
    held = gradient(lambda scores: torch.stack([first[index] for index in order]))
    proof = gradient(lambda scores: through(scores, 0.5))
    assert (taken - held).norm() < 1e-3 * held.norm()
    assert (taken - proof).norm() > 0.1 * proof.norm()
    method.step(0, 1)
    assert all(torch.equal(method.selection.targets[index], value) for index, value in first.items())  # the same Q for the whole round


# --- SEAL, theorem 3.1: soft labels that follow the features leave theta_p nearer to its class than hard ones

CENTRES = [0, 80, 145, 210, 270]  # degrees; class p is the first
HALF = [15, 5, 5, 5, 5]  # half of the arc of a class
classes = torch.arange(5).repeat_interleave(5)
HARD = torch.eye(5, dtype=torch.float64)[classes]


def on_circle(degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


FEATURES = on_circle([centre + half * offset for centre, half in zip(CENTRES, HALF, strict=True) for offset in (-1, -0.5, 0, 0.5, 1)])
START = -13.0  # theta_p lies between the edge of its class and the centre, on the side away from the nearest class (assumption 2)


def prototypes(angle):
    return torch.cat([on_circle([angle]), on_circle(CENTRES[1:])])


def class_margins(theta):
    """gamma of equation 17, document by document."""
    scores = FEATURES @ theta.T
    runner_up = scores.masked_fill(HARD.bool(), -torch.inf)
    margins = scores[range(25), classes] - runner_up.max(dim=1).values
    return torch.stack([margins[classes == label].min() for label in range(5)]), runner_up.argmax(dim=1)


def angle_after(targets):
    """Degrees of theta_p after gradient descent on it alone, kept at length one (assumption 2 (1))."""
    theta = prototypes(START)
    for _ in range(1000):
        theta[0] -= 0.1 * ((torch.softmax(FEATURES @ theta.T, dim=1) - targets)[:, :1] * FEATURES).mean(dim=0)
        theta[0] /= theta[0].norm()
    return float(torch.atan2(theta[0, 1], theta[0, 0]).rad2deg())


def of_generator(steps=50):
    """Soft labels of a g that was trained with cross-entropy for a few steps (SEAL-NM): a softmax regression on the features."""
    weights = torch.zeros(5, 2, dtype=torch.float64)
    for _ in range(steps):
        weights -= (torch.softmax(FEATURES @ weights.T, dim=1) - HARD).T @ FEATURES / 25
    return torch.softmax(FEATURES @ weights.T, dim=1)


def test_the_toy_data_meets_all_assumptions_of_the_theorem():
    centres = on_circle(CENTRES)
    products = FEATURES @ FEATURES.T
    same = classes.unsqueeze(0) == classes.unsqueeze(1)
    assert (products[same] > 0).all()  # 1 (1); 1 (2) is the symmetry of the offsets
    to_centre = FEATURES @ centres.T
    assert (to_centre.argmax(dim=1) == classes).all()  # 1 (3), of a document
    assert all(to_centre[classes == label, label].min() >= to_centre[classes != label, label].max() for label in range(5))  # 1 (3), of a centre
    for label in range(5):  # 1 (4), at the smallest d^p that an argmax can have
        own, others = products[classes == label][:, classes == label].sum(), products[classes != label][:, classes == label].sum()
        assert own / 5 > (1 - 1 / 5) * others
    assert -HALF[0] <= START <= 0  # 2 (2)
    nearest = on_circle(CENTRES)[0] @ centres.T
    assert int(nearest[1:].argmax()) + 1 == 1  # 2 (3): the nearest class lies on the far side
    for angle in (START, 0.0):  # 2 (4): p is no other document's runner-up
        assert (class_margins(prototypes(angle))[1][classes != 0] != 0).all()


@pytest.mark.parametrize(
    "soft", [of_generator(), 0.5 * HARD + 0.5 * torch.softmax(3 * FEATURES @ on_circle(CENTRES).T, dim=1)], ids=["trained g", "features"]
)
def test_theorem_3_1_soft_labels_that_follow_the_features_give_the_larger_margin(soft):
    hard_angle, soft_angle = angle_after(HARD), angle_after(soft)
    assert all(-HALF[0] < angle < 0 for angle in (hard_angle, soft_angle))  # assumption 2 (2) still holds
    hard, soft_margins = class_margins(prototypes(hard_angle))[0], class_margins(prototypes(soft_angle))[0]
    assert soft_margins[0] > hard[0] + 1e-3
    assert torch.equal(soft_margins[1:], hard[1:])  # so every bound that falls with the margins (Cao et al. 2019) is smaller


def test_softness_alone_gives_a_smaller_margin():
    smoothed = 0.8 * HARD + 0.2 / 5
    assert class_margins(prototypes(angle_after(smoothed)))[0][0] < class_margins(prototypes(angle_after(HARD)))[0][0] - 1e-3


# --- SunGen, section 4: the outer loss has its minimum on wrong labels where it has it on right ones


@pytest.mark.parametrize(("loss", "robust"), [(reverse_cross_entropy, True), (mean_absolute_error, True), (F.cross_entropy, False)])
def test_uniform_noise_changes_a_robust_loss_by_a_factor_and_a_constant(loss, robust):
    """Appendix A.2: E over the noise is (1 - eta K / (K - 1)) L + eta C / (K - 1), with eta wrong labels among K classes; C is the sum over all labels."""
    count, wrong = 4, 0.45
    logits = 2 * torch.randn(50, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for part in logits.split(10):
        every = torch.stack([loss(part, torch.full((10,), label)) for label in range(count)])  # the mean where all have this label
        truth = torch.arange(10) % count
        clean = loss(part, truth)
        shifted = torch.stack([loss(part, (truth + step) % count) for step in range(1, count)])
        noisy = (1 - wrong) * clean + wrong * shifted.mean()
        constant = 2.0 * (count - 1) if loss is mean_absolute_error else 10.0 * (count - 1)
        expected = (1 - wrong * count / (count - 1)) * clean + wrong * constant / (count - 1)
        assert (abs(float(noisy - expected)) < 1e-9) == robust
        assert (abs(float(every.sum()) - constant) < 1e-9) == robust


def area(outer, share, seed):
    """Area under the ROC curve of the learned weights as a test for right labels."""
    rows, targets, right = flipped(share, seed=seed)
    torch.manual_seed(0)
    options = SunGenOptions(outer=outer, outer_iterations=20, inner_learning_rate=1e-2)
    return roc_auc_score(np.asarray(right), learn_weights(torch.nn.Linear(8, 2), rows, targets, options, seed=seed).weights)


@pytest.mark.parametrize("seed", [0, 1])
def test_with_two_labels_of_five_wrong_rce_finds_them_and_cross_entropy_does_not(seed):
    assert area("rce", 0.4, seed) > 0.85  # measured: 0.93, 0.99
    assert area("ce", 0.4, seed) < 0.6  # measured: 0.50, 0.51: no better than chance
