"""Methods for candidate sets: their losses by hand, their limits, and what each learns and keeps."""

import copy
import math

import numpy as np
import pytest
import torch
from linear import WORDS, corpus_of, steps_of
from linear import build as linear_build
from tiny import tiny_backbone
from trained import run, tensors

from selftrain.config import parse
from selftrain.errors import SelfTrainError
from selftrain.methods.candidate_labels.plcr import negative_candidates
from selftrain.methods.losses import agreed_labels, candidate_likelihood, consistency
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["proden", "cc", "cavl", "plcr", "valen", "idgp", "seal_partial"]
LOGITS = torch.tensor([[0.2, -1.0, 0.7], [1.5, 0.0, -0.3]], dtype=torch.float64)
SETS = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)


def test_the_likelihood_of_a_set_by_hand():
    p = torch.softmax(LOGITS, dim=1)
    expected = -(math.log(p[0, 0] + p[0, 2]) + math.log(p[1, 0])) / 2
    assert candidate_likelihood(LOGITS, SETS).item() == pytest.approx(expected)
    one = torch.nn.functional.one_hot(torch.tensor([2, 0]), 3).double()
    assert torch.isclose(candidate_likelihood(LOGITS, one), torch.nn.functional.cross_entropy(LOGITS, torch.tensor([2, 0])))
    assert candidate_likelihood(LOGITS, torch.ones_like(SETS)).item() == pytest.approx(0.0, abs=1e-12)  # every class: nothing is said


def test_negative_candidates_by_hand():
    p = torch.softmax(LOGITS, dim=1)
    expected = -(math.log(1 - p[0, 1]) + math.log(1 - p[1, 1]) + math.log(1 - p[1, 2])) / 2
    assert negative_candidates(LOGITS, SETS).item() == pytest.approx(expected)
    assert negative_candidates(LOGITS, torch.ones_like(SETS)).item() == 0.0


def test_views_agree_on_the_geometric_mean():
    other = LOGITS.flip(1)
    p, q = torch.softmax(LOGITS, dim=1), torch.softmax(other, dim=1)
    mean = (p * q).sqrt()
    views = torch.stack([LOGITS, other])
    assert torch.allclose(agreed_labels(views), mean / mean.sum(dim=1, keepdim=True))
    kept = mean * SETS
    assert torch.allclose(agreed_labels(views, SETS), kept / kept.sum(dim=1, keepdim=True))
    same = torch.stack([LOGITS, LOGITS])
    assert consistency(same, agreed_labels(same)).item() == pytest.approx(0.0, abs=1e-12)
    u = agreed_labels(views, SETS)
    by_hand = sum(u[i, j] * (u[i, j].log() - r[i, j].log()) for r in (p, q) for i in range(2) for j in range(3) if SETS[i, j])
    assert consistency(views, u).item() == pytest.approx(float(by_hand) / 2)


@pytest.mark.parametrize("loss", [candidate_likelihood, negative_candidates])
def test_gradients_by_differences(loss):
    assert torch.autograd.gradcheck(lambda logits: loss(logits, SETS), (LOGITS.clone().requires_grad_(),))


def test_the_gradient_of_consistency_by_differences():
    views = torch.stack([LOGITS, LOGITS.flip(1)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: consistency(logits, agreed_labels(logits, SETS)), (views,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", [candidate_likelihood, negative_candidates])
def test_certain_predictions_stay_finite(loss, dtype):
    logits = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 0.0]], dtype=dtype, requires_grad=True)
    found = loss(logits, SETS.to(dtype))
    found.backward()
    assert torch.isfinite(found) and torch.isfinite(logits.grad).all()


def build(corpus, folder, name, kind=HeadEncoder, **options):
    torch.manual_seed(0)
    options |= {"objective_steps": 2} if name == "seal_partial" else {}
    experiment = parse({"method": {"name": name, "rounds": 3, "steps_per_round": 4, "batch_size": 8, **options}})
    return resolve(experiment).build(corpus, kind(tiny_backbone(folder), max_tokens=16), seed=0)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [*NAMES, "pico"])
def test_every_method_finds_the_label_where_a_set_leaves_a_choice(name):
    """Three classes with words of their own, each other class in a document's set with probability 1/2; only documents with a choice are counted."""
    rng = np.random.default_rng(0)
    own = (("goal", "chip"), ("bank", "vote"), ("film",))
    truth = [index % 3 for index in range(60)]
    texts = [" ".join([*rng.choice(own[label], 4), *rng.choice(WORDS, 2)]) for label in truth]
    sets = {place: tuple(j for j in range(3) if j == label or rng.random() < 0.5) for place, label in enumerate(truth)}
    choice = [place for place in sets if len(sets[place]) > 1]
    options = {"rounds": 4, "steps_per_round": 10, "batch_size": 12, "learning_rate": 0.2}
    options |= {"generator_rate": 1.0, "virtual_rate": 1.0} if name == "seal_partial" else {}
    options |= {"key_momentum": 0.9, "prototype_momentum": 0.9, "weights_momentum": (0.9, 0.3), "temperature": 0.5} if name == "pico" else {}
    method = linear_build(corpus_of(texts=texts, candidates=sets), name, **options)
    found = []
    for _ in range(2):
        right = method.student().predict(texts).argmax(1) == torch.tensor(truth)
        found.append(right[choice].double().mean().item())
        steps_of(method)
    assert len(choice) > 35 and found[0] < 0.7 and found[1] > 0.9
    if hasattr(method, "weights"):
        assert (method.weights.argmax(1) == torch.tensor(truth))[choice].double().mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_as_the_one_that_was_never_stopped(with_sets, tmp_path, name):
    whole = build(with_sets, tmp_path / "a", name)
    _, states = run(whole)
    rest = build(with_sets, tmp_path / "b", name)
    run(rest, resume=states[0])
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole.state()), tensors(rest.state()), strict=True))


@pytest.mark.parametrize("name", ["proden", "plcr", "valen", "idgp"])
def test_weights_stay_in_the_sets(with_sets, tmp_path, name):
    method = build(with_sets, tmp_path / "e", name)
    run(method)
    assert torch.allclose(method.weights.sum(dim=1), torch.ones(24), atol=1e-5)
    assert all(method.weights[index, 1 - int(index >= 12)] == 0 for index in range(24) if index % 3)


@pytest.mark.parametrize("name", ["proden", "cc", "cavl", "plcr", "valen", "idgp"])
def test_a_full_encoder_is_trained_too(with_sets, tmp_path, name):
    method = build(with_sets, tmp_path / "e", name, kind=TextEncoder, rounds=1, steps_per_round=2)
    before = copy.deepcopy(method.encoder.state_dict())
    run(method)
    assert any(not torch.equal(before[key], value) for key, value in method.encoder.state_dict().items())


def test_sets_and_labels_are_not_taken_for_each_other(with_sets, corpus, tmp_path):
    with pytest.raises(SelfTrainError, match="needs candidate sets"):
        build(corpus, tmp_path / "a", "cc")
    with pytest.raises(SelfTrainError, match="needs one label a document"):
        build(with_sets, tmp_path / "b", "cross_entropy")
    for negatives in ("exclude_nearest", "furthest"):
        with pytest.raises(SelfTrainError, match=f"{negatives} needs documents with one label"):
            build(with_sets, tmp_path / "c", "cc", ns3l_weight=1.0, ns3l_negatives=negatives, ns3l_threshold=0.1)
