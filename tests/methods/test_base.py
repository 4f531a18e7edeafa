"""What every method has from its base: the optimiser by hand, what is averaged and clipped, embeddings and prototypes, and what a checkpoint holds."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
import torch
from by_hand import AdamW, LinearEncoder, embedded, falling, softmax

from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.errors import SelfTrainError
from selftrain.methods import method_class, options_of
from selftrain.methods.base import Method, Options
from selftrain.models.workers import Workers

WORDS = "sport money film about news match goal bank"


class Quadratic(Method):
    """The least that a method must have; its loss is what a test says."""

    name = "quadratic"
    Options: ClassVar[type[Options]] = Options

    @property
    def rounds(self):
        return int(self.options.rounds)

    def refresh(self, round_, texts):
        return {}

    def steps(self, round_):
        return 1

    def step(self, round_, step):
        return {}


class Tempered(Quadratic):
    @property
    def output_temperature(self):
        return self.options.tau


def corpus():
    labels = (Label("s", "sport", ""), Label("m", "money", ""), Label("f", "film", ""))
    return Corpus("toy", labels, ("about {label}", "news {label} match"), Documents(("a",), ("goal",)), Documents())


def built(cls=Quadratic, encoder=None, options=None, **how):
    given = options or SimpleNamespace(rounds=2, learning_rate=None, wants_texts=True)
    return cls(options=given, corpus=corpus(), encoder=encoder or LinearEncoder(WORDS, seed=4), **how)


def minimised(method, weight):
    """A loss whose gradient is far longer than one at first, and W after each of its steps."""
    target = torch.linspace(-3, 3, weight.numel(), dtype=torch.float64).view_as(weight)
    return lambda w: ((w - target) ** 4).sum()


@pytest.mark.parametrize("clip", [None, 0.5, 1e9])
def test_updates_are_those_of_adamw_with_a_rate_that_falls_to_nothing(clip):
    method = built()
    method.adamw(0.1, 0.05, 4)
    weight = method.encoder.weight.detach().clone()
    loss, adam = minimised(method, weight), AdamW(falling(0.1, 4), 0.05, clip)
    for _ in range(4):
        variable = weight.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(variable), variable)
        weight = adam.step({"w": weight}, {"w": gradient})["w"]
        value = loss(method.encoder.weight)
        assert method.backward(value) == value.item()
        method.update(clip=clip)
        assert method.encoder.weight.grad is None
        assert torch.allclose(method.encoder.weight, weight, rtol=0, atol=1e-11)
    assert method.optimizer.param_groups[0]["lr"] == 0.0
    for _ in range(2):  # a step too many moves nothing, and does not climb
        method.backward(loss(method.encoder.weight))
        method.update()
        assert torch.allclose(method.encoder.weight, weight, rtol=0, atol=1e-11)


def test_clipping_makes_another_path():
    """AdamW forgives a factor on all gradients alike, but not one that differs from step to step."""
    ends = []
    for clip in (None, 0.5):
        method = built()
        method.adamw(0.5, 0.0, 4)
        for _ in range(3):
            method.backward(minimised(method, method.encoder.weight)(method.encoder.weight))
            method.update(clip=clip)
        ends.append(method.encoder.weight.detach())
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_backward_adds_up_until_the_update():
    method = built()
    method.adamw(0.1, 0.0, 4)
    method.backward(method.encoder.weight.sum())
    method.backward(2.0 * method.encoder.weight.sum())
    assert torch.equal(method.encoder.weight.grad, torch.full_like(method.encoder.weight, 3.0))


def test_without_a_scheduler_the_rate_stands_still():
    method = built()
    method.adamw(0.1, 0.0, 4)
    method.scheduler = None
    method.backward(method.encoder.weight.sum())
    method.update()
    assert method.optimizer.param_groups[0]["lr"] == 0.1


def test_gradients_are_averaged_before_they_are_clipped():
    class Doubling(Workers):
        def average_gradients(self, parameters):
            for parameter in parameters:
                parameter.grad *= torch.tensor([[100.0], [1.0], [1.0]])  # as another worker's gradient would: what is clipped is the mean

    method = built(workers=Doubling())
    method.optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    before = method.encoder.weight.detach().clone()
    method.backward(method.encoder.weight.sum())
    method.update(clip=1.0)
    moved = before - method.encoder.weight.detach()
    assert moved.norm().item() == pytest.approx(1.0, rel=1e-6)
    assert torch.allclose(moved[0], 100 * moved[1])


@pytest.mark.parametrize(("light", "frozen", "fused"), [(True, False, True), (True, True, False), (False, False, False), (False, True, False)])
def test_word_vectors_alone_are_trained_by_the_fused_optimiser(light, frozen, fused):
    encoder = LinearEncoder(WORDS)
    encoder.light, encoder.frozen = light, frozen
    method = built(encoder=encoder)
    method.adamw(0.1, 0.05, 4)
    assert method.optimizer.defaults["fused"] is fused
    assert (method.optimizer.defaults["lr"], method.optimizer.defaults["weight_decay"]) == (0.1, 0.05)


@pytest.mark.parametrize(("given", "frozen", "rate"), [(None, False, 5e-5), (None, True, 0.25), (0.5, True, 0.5), (0.5, False, 0.5)])
def test_the_rate_is_the_option_or_that_of_what_is_trained(given, frozen, rate):
    encoder = LinearEncoder(WORDS)
    encoder.frozen = frozen
    assert built(encoder=encoder, options=SimpleNamespace(learning_rate=given)).rate(given, of_head=0.25) == rate


def test_label_embeddings_are_the_mean_of_each_class_and_prototypes_are_them_without_gradient():
    method = built(Tempered, scale=3.0, options=SimpleNamespace(rounds=0, tau=0.5))
    w, words = method.encoder.weight.detach(), method.encoder.words
    wanted = torch.stack([(embedded(w, words, f"about {one}") + embedded(w, words, f"news {one} match")) / 2 for one in ("sport", "money", "film")])
    found = method.label_embeddings()
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12) and found.requires_grad
    assert torch.allclose(method.prototypes(), wanted, rtol=0, atol=1e-12) and not method.prototypes().requires_grad
    (gradient,) = torch.autograd.grad(found.sum(), method.encoder.weight)
    assert gradient[:, words["about"]].abs().max() > 0  # prompts learn too
    # Equation 4 at the prototypes: the scale over tau.
    student = method.student()
    assert student.scale == method.output_scale == 6.0
    assert torch.allclose(student.predict(["goal bank"])[0], softmax(6.0 * wanted @ embedded(w, words, "goal bank")), rtol=0, atol=1e-12)


def test_the_steps_planned_are_those_of_all_rounds():
    class Growing(Quadratic):
        def steps(self, round_):
            return 10 + round_

    assert built(Growing, options=SimpleNamespace(rounds=3)).planned_steps == 33
    assert built(Growing, options=SimpleNamespace(rounds=0)).planned_steps == 0


def test_a_method_trains_unless_its_options_say_otherwise():
    assert Options().trains
    assert [options_of({"name": "genco", "rounds": rounds}).trains for rounds in (0, 1)] == [False, True]


@pytest.mark.parametrize("name", ["genco", "pesco"])
def test_steps_that_a_refresh_decides_are_planned_as_if_it_had(name):
    method = method_class(name)(
        options=options_of({"name": name, "rounds": 4, "steps_per_round": 7}), corpus=corpus(), encoder=LinearEncoder(WORDS, seed=4)
    )
    assert method.steps(0) == 0 and method.planned_steps == 28


def test_without_tau_the_scale_alone_is_reported():
    assert built(scale=3.0).output_scale == 3.0
    assert built().output_scale == 1.0


def test_several_prompts_of_unequal_number_belong_to_their_class(monkeypatch):
    method = built()
    monkeypatch.setattr(Corpus, "label_prompts", lambda self: [["sport"], ["money", "bank", "news"], ["film", "goal"]])
    w, words = method.encoder.weight.detach(), method.encoder.words
    groups = (("sport",), ("money", "bank", "news"), ("film", "goal"))
    wanted = torch.stack([sum(embedded(w, words, text) for text in group) / len(group) for group in groups])
    assert torch.allclose(method.prototypes(), wanted, rtol=0, atol=1e-12)


def test_a_worker_without_a_text_takes_part_and_keeps_no_row():
    seen, passed = [], []

    class Watching(LinearEncoder):
        def forward(self, texts, max_tokens=None):
            seen.append(list(texts))
            return super().forward(texts, max_tokens)

    class Third(Workers):
        def gather(self, part, total):
            passed.append((tuple(part.shape), total))
            return part

    method = built(encoder=Watching(WORDS), workers=Third(2, 3))
    method.embed(["goal", "bank"])
    method.embed(["goal", "bank", "film", "news", "match", "sport"])
    assert seen == [["goal"], ["film", "sport"]]
    assert passed == [((0, 3), 2), ((2, 3), 6)]


def test_batch_normalisation_is_for_one_worker():
    encoder = LinearEncoder(WORDS)
    encoder.norm = torch.nn.BatchNorm1d(3)
    assert built(encoder=encoder).encoder is encoder
    with pytest.raises(SelfTrainError, match=r"training\.workers must be 1.*batch normalization.*\(got 2\)"):
        built(encoder=encoder, workers=Workers(0, 2))
    assert built(workers=Workers(0, 2)).workers.size == 2


def test_options_are_checked_against_the_documents_before_anything_else():
    class Picky(Quadratic):
        @classmethod
        def check(cls, options, corpus):
            raise SelfTrainError(f"not {options.rounds} with {corpus.name}")

    with pytest.raises(SelfTrainError, match="not 2 with toy"):
        built(Picky)
    assert Quadratic.check(SimpleNamespace(), corpus()) is None


@pytest.mark.parametrize(("rounds", "wants", "found"), [(2, True, True), (0, True, False), (2, False, False)])
def test_texts_are_wanted_by_what_trains(rounds, wants, found):
    assert built(options=SimpleNamespace(rounds=rounds, wants_texts=wants)).wants_texts is found
    assert Options().wants_texts is False
    assert built().texts_wanted() == 0


def test_what_is_given_is_what_is_kept():
    method = built(seed=7, scale=2.0, input_samples=3, conditional_samples=4)
    assert (method.seed, method.scale, method.input_samples, method.conditional_samples) == (7, 2.0, 3, 4)
    plain = built()
    assert (plain.seed, plain.scale, plain.input_samples, plain.conditional_samples, plain.workers) == (0, 1.0, 1, 1, Workers())


def test_options_are_strict_and_do_not_change():
    with pytest.raises(ValueError, match="extra"):
        Options(other=1)

    class WithOne(Options):
        one: int = 1

    with pytest.raises(ValueError, match="frozen"):
        WithOne().one = 2


def stepped(method, steps):
    for _ in range(steps):
        method.backward(minimised(method, method.encoder.weight)(method.encoder.weight))
        method.update()
    return method.encoder.weight.detach().clone()


def test_a_checkpoint_holds_weights_moments_and_rate():
    whole = built()
    whole.adamw(0.1, 0.05, 5)
    stepped(whole, 2)
    state = copy.deepcopy(whole.state())
    assert state.keys() == {"encoder", "optimizer", "scheduler"}
    end = stepped(whole, 3)
    for part in ("all", "optimizer", "scheduler"):
        rest = built(encoder=LinearEncoder(WORDS, seed=9))
        rest.adamw(0.1, 0.05, 5)
        rest.load_state(copy.deepcopy(state) if part == "all" else copy.deepcopy(state) | {part: None})
        assert torch.equal(stepped(rest, 3), end) == (part == "all"), part


def test_a_method_that_does_not_train_has_a_state_too():
    method = built()
    state = copy.deepcopy(method.state())
    assert state["optimizer"] is None and state["scheduler"] is None
    other = built(encoder=LinearEncoder(WORDS, seed=9))
    other.load_state(state)
    assert torch.equal(other.encoder.weight, method.encoder.weight)
    trained = built()
    trained.adamw(0.1, 0.05, 5)
    other.load_state(trained.state())  # a state with an optimiser, for one without
    assert other.optimizer is None


def test_a_methods_name_is_that_of_its_options():
    class NamedOptions(Options):
        name: Literal["named"] = "named"

    class Named(Quadratic):
        Options: ClassVar[type[Options]] = NamedOptions

    assert (Quadratic.name, Named.name) == ("quadratic", "named")
