"""What a checkpoint of the two-level, noisy-label and candidate-set methods holds: everything. A run that goes on in a net of other numbers ends alike."""

import copy

import pytest
import torch
from linear import TEXTS, ResidualEncoder, assert_equal, build, corpus_of

from selftrain.data.texts import no_texts
from selftrain.methods.noisy_labels import sungen

LABELS = (0, 1, 2, 1, 2, 0, 1)
SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))
EPOCHS = {"epochs": 3, "batch_size": 3, "learning_rate": 0.05}
STEPS = {"rounds": 3, "steps_per_round": 2, "batch_size": 4, "learning_rate": 0.05}
OPTIONS = {
    "seal": STEPS | {"generator_rate": 0.7, "virtual_rate": 1.3, "objective_rate": 0.05, "objective_steps": 1, "batch_size": 3},
    "seal_partial": STEPS | {"generator_rate": 0.7, "virtual_rate": 1.3, "objective_rate": 0.05, "objective_steps": 1},
    "sungen": EPOCHS | {"outer_iterations": 2, "inner_learning_rate": 0.1, "budget": 5},
    "zerogen": EPOCHS,
    "confidence": EPOCHS,
    "co_teaching": EPOCHS | {"noise_rate": 0.5},
    "meta_weight_net": EPOCHS | {"validation_share": 0.3, "weight_learning_rate": 0.05},
    "temporal_ensembling": EPOCHS,
    "proden": STEPS,
    "cc": STEPS,
    "cavl": STEPS,
    "plcr": STEPS,
    "valen": STEPS,
    "idgp": STEPS,
    "pico": STEPS | {"queue": 6, "projected": 3, "key_momentum": 0.7, "prototype_momentum": 0.6, "start": 0.2},
}
WITH_SETS = ("seal_partial", "proden", "cc", "cavl", "plcr", "pico", "valen", "idgp")
WITH_WEIGHTS = ("proden", "plcr", "pico", "valen", "idgp")
CHANGED_IN_PLACE = ("class_prototypes", "keys", "key_classes", "inferred", "chances")


def built(name, encoder=0):
    corpus = corpus_of(candidates=dict(enumerate(SETS))) if name in WITH_SETS else corpus_of(granted=dict(enumerate(LABELS)))
    return build(corpus, name, encoder=ResidualEncoder(encoder), **OPTIONS[name])


def numbers(state):
    """Every tensor and number of a nested state, by its path."""
    if isinstance(state, dict):
        return {f"{key}.{path}": value for key, part in state.items() for path, value in numbers(part).items()}
    if isinstance(state, list | tuple):
        return numbers(dict(enumerate(state)))
    return {"": state}


def rounds_of(method, first=0):
    """Train from round `first` on: the state after every round."""
    states = []
    for round_ in range(first, method.rounds):
        method.refresh(round_, no_texts)
        for step in range(method.steps(round_)):
            method.step(round_, step)
        states.append(copy.deepcopy(method.state()))
    return states


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_goes_on_in_a_net_of_other_numbers(name):
    sungen._LEARNED.clear()
    states = rounds_of(built(name))
    last = numbers(states[-1])
    assert any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in last.values())
    for round_, state in enumerate(states[:-1]):
        other = built(name, encoder=1)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1)
        before = numbers(copy.deepcopy(state))
        other.load_state(state)
        found = numbers(rounds_of(other, round_ + 1)[-1])
        assert found.keys() == last.keys()
        for path, value in last.items():
            same = torch.equal(found[path], value) if isinstance(value, torch.Tensor) else found[path] == value
            assert same, path
        # What a method changes in place is its own from here on; the optimiser's tensors are torch's affair.
        kept = numbers(state)
        own = [path for path in before if path.split(".")[0] in CHANGED_IN_PLACE or (path == "weights." and name in WITH_SETS)]
        assert bool(own) == (name in WITH_WEIGHTS) and all(torch.equal(kept[path], before[path]) for path in own)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_round_begins_with_what_it_counts(name):
    method = built(name)
    sungen._LEARNED.clear()
    figures = method.refresh(0, no_texts)
    assert figures["labeled"] == (6 if name in WITH_SETS else 7)
    assert ("chosen" in figures) != (name in WITH_SETS or name == "seal")
    if name == "meta_weight_net":
        assert figures["validation"] == 2 and figures["chosen"] == 5 and figures["weight_mean"] == 1.0
        method.step(0, 0)
        trained = method.weights[torch.from_numpy(method.chosen)]
        assert method.refresh(1, no_texts)["weight_mean"] == pytest.approx(trained.mean().item()) != 1.0


def test_both_nets_of_co_teaching_are_in_training_mode():
    method = built("co_teaching")
    method.peer_encoder.eval()
    method.step(0, 0)
    assert method.peer_encoder.training


def test_the_students_are_the_nets_that_were_trained():
    for name in OPTIONS:
        sungen._LEARNED.clear()
        method = built(name)
        rounds_of(method)
        rows = method.encoder.encode(TEXTS)
        expected = torch.softmax(rows @ method.classifier.weight.detach().T + method.classifier.bias.detach(), 1)
        assert_equal({name: [method.student().predict(TEXTS)]}, {name: [expected]})
