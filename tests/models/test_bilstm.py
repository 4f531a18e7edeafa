"""The BiLSTM: its vocabulary and first weights, that padding is not read, and that a bundle of it opens without selftrain."""

import copy

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.config import parse
from selftrain.errors import SelfTrainError
from selftrain.methods.bilevel import Net, directional, gradient, meta_gradient, parameters_of
from selftrain.methods.losses import reverse_cross_entropy
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.open import is_light, open_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["Goal goal team.", "the bank", "the team and the bank and the goal", "unheard"]
WORDS = vocabulary(TEXTS[:3], 50)


def encoder(seed=0, **options):
    torch.manual_seed(seed)
    return BiLSTMEncoder(bilstm(WORDS, word_dimensions=5, hidden=4), **options)


def test_the_vocabulary_is_the_most_frequent_words_of_the_documents():
    assert vocabulary(TEXTS[:3], 50) == ["the", "goal", "and", "bank", "team", "team."]
    assert vocabulary(TEXTS[:3], 2) == ["the", "goal"]


def test_the_first_weights_follow_from_the_seed_within_the_released_bounds():
    first, same, other = encoder().state_dict(), encoder().state_dict(), encoder(1).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first) and not all(torch.equal(first[name], other[name]) for name in first)
    bound = 8**-0.5
    assert all(0.7 * bound < value.abs().max() <= bound for value in first.values())


def test_a_second_network_starts_with_new_weights():
    found = encoder()
    fresh = found.fresh()
    assert list(fresh) == [name for name, _ in found.named_parameters()]
    assert all(not torch.equal(fresh[name], value) and fresh[name].abs().max() <= 8**-0.5 for name, value in found.named_parameters())


def test_words_are_ids_and_unknown_ones_are_skipped():
    rows = encoder().inputs(TEXTS)
    ids = {word: place for place, word in enumerate(WORDS, start=1)}
    expected = [["goal", "goal", "team."], ["the", "bank"], ["the", "team", "and", "the", "bank", "and", "the", "goal"], []]
    assert rows.tolist() == [[ids[word] for word in words] + [0] * (8 - len(words)) for words in expected]
    assert encoder().lengths(TEXTS) == [3, 2, 8, 0] and encoder(max_tokens=2).inputs(TEXTS).shape == (4, 2)
    assert encoder().inputs(["The TEAM, unheard, (goal)"]).tolist() == [[ids["the"], ids["team"], ids["goal"]]]


def test_an_embedding_is_the_mean_of_the_states_by_hand():
    found = encoder()
    words, layer, _ = found.backbone
    expected = layer.encoder(words.emb_layer(found.inputs(TEXTS[1:2])))[0].mean(dim=1)
    assert torch.allclose(found(TEXTS[1:2]), expected, atol=1e-6)


def test_padding_and_neighbours_do_not_change_an_embedding():
    found = encoder()
    together = found(TEXTS)
    alone = torch.cat([found([text]) for text in TEXTS])
    padded = found.of_inputs(F.pad(found.inputs(TEXTS), (0, 7)))
    assert torch.allclose(together, alone, atol=1e-6) and torch.allclose(together, padded, atol=1e-6)
    assert torch.equal(together[3], torch.zeros(8))  # no known word
    assert torch.allclose(found.encode(TEXTS), together, atol=1e-6)


def test_all_weights_get_a_gradient_and_that_of_the_padding_is_zero():
    found = encoder()
    found(TEXTS).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in found.parameters())
    assert found.backbone[0].emb_layer.weight.grad[0].eq(0).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_the_exported_encoder_gives_the_same_embeddings_without_us(tmp_path, normalize):
    found = encoder(normalize=normalize)
    found.export().save_pretrained(str(tmp_path / "m"), create_model_card=False)
    opened = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    rows = opened.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=normalize)
    assert torch.allclose(rows, found.encode(TEXTS), atol=1e-6)


def test_a_bundle_predicts_what_the_student_does(tmp_path):
    found, weights, bias = encoder(max_tokens=4), torch.randn(2, 8), torch.tensor([0.3, -0.3])
    card = BundleCard(name="n", labels=("a", "b"), similarity="dot", max_tokens=4, method="zerogen")
    write_bundle(tmp_path / "b", backbone=found.export(), prototypes=weights, bias=bias, card=card)
    rows = Classifier.load(tmp_path / "b", device="cpu").predict_proba(TEXTS)
    expected = torch.softmax(found.encode(TEXTS) @ weights.T + bias, dim=1)
    assert torch.allclose(torch.from_numpy(rows).float(), expected, atol=1e-6)


def test_a_copy_is_another_net(tmp_path):
    found = encoder()
    twin = copy.deepcopy(found)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.allclose(found(TEXTS[:1]), twin(TEXTS[:1]))


def test_it_is_opened_by_its_name_with_the_vocabulary_of_the_corpus(corpus):
    config = parse({"model": {"encoder": "bilstm", "similarity": "dot", "hidden": 3, "word_dimensions": 2, "vocabulary": 5}}).model
    found = open_encoder(config, corpus)
    assert isinstance(found, BiLSTMEncoder) and found.light and is_light(config) and not found.normalize and not found.frozen
    assert found.dimensions == 6 and found.backbone[0].emb_layer.weight.shape == (6, 2)
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'full'.*bilstm starts from random weights"):
        open_encoder(config.model_copy(update={"train": "head"}), corpus)


# --- the meta-gradient through it


@pytest.fixture
def net():
    """In float64, with texts of different lengths, one of them without words."""
    torch.manual_seed(0)
    model = Net(encoder(), torch.nn.Linear(8, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    rows = torch.tensor([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 1, 2, 3], [3, 3, 0, 0, 0], [0, 0, 0, 0, 0], [6, 2, 4, 1, 0]])
    return model, rows, torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("outer", [reverse_cross_entropy, F.cross_entropy])
def test_the_forward_mode_gradient_is_that_of_double_backward_through_the_virtual_step(net, outer, virtual):
    model, rows, targets = net
    weights = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    some, rate = torch.tensor([0, 2, 5]), 0.5

    def loss(logits):
        return outer(logits, targets[some])

    found = meta_gradient(model, parameters_of(model), rows, targets, weights, loss, rows[some], rate, virtual=virtual)
    at = {name: value.requires_grad_(True) for name, value in parameters_of(model).items()}
    losses = F.cross_entropy(torch.func.functional_call(model, at, (rows,)), targets, reduction="none")
    slopes = torch.autograd.grad((weights * losses).sum() / weights.sum().detach(), list(at.values()), create_graph=True)
    stepped = {name: value - rate * slope for (name, value), slope in zip(at.items(), slopes, strict=True)}
    if virtual:
        (expected,) = torch.autograd.grad(loss(torch.func.functional_call(model, stepped, (rows[some],))), weights)
    else:  # the outer gradient at theta is pulled back through the step
        at_theta = torch.autograd.grad(loss(torch.func.functional_call(model, at, (rows[some],))), list(at.values()))
        (expected,) = torch.autograd.grad(list(stepped.values()), weights, at_theta)
    assert expected.abs().min() > 0
    assert torch.allclose(found, expected, rtol=1e-6, atol=0)


def test_texts_of_one_length_differentiate_too(net):
    # torch hands them to another kernel, and in float32 to one without a forward-mode derivative
    model, targets = net[0].float(), torch.tensor([0, 1])
    at, rows = parameters_of(model), torch.tensor([[1, 2, 3], [4, 5, 6]])
    direction = {name: torch.randn_like(value) for name, value in at.items()}
    together = directional(model, at, direction, rows, targets)
    slopes = [gradient(model, at, lambda logits, i=i: F.cross_entropy(logits, targets[i : i + 1]), rows[i : i + 1]) for i in range(2)]
    expected = torch.stack([sum((slope[name] * direction[name]).sum() for name in at) for slope in slopes])
    assert torch.allclose(together, expected, rtol=1e-4)


def test_directional_derivatives_do_not_depend_on_the_chunks(net):
    model, rows, targets = net
    at = parameters_of(model)
    direction = {name: torch.randn_like(value) for name, value in at.items()}
    whole, parts = (directional(model, at, direction, rows, targets, chunk=chunk) for chunk in (6, 4))
    assert torch.allclose(whole, parts, rtol=1e-10, atol=0)
    step = 1e-6

    def losses(sign):
        moved = {name: value + sign * step * direction[name] for name, value in at.items()}
        return F.cross_entropy(torch.func.functional_call(model, moved, (rows,)), targets, reduction="none")

    with torch.no_grad():
        assert torch.allclose(whole, (losses(1) - losses(-1)) / (2 * step), rtol=1e-6, atol=1e-8)
