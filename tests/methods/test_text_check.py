"""The check of the language model's texts: decided by hand, followed by training, kept by a checkpoint."""

import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.texts import TextRequest, no_texts
from selftrain.methods import options_of
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.text_check import check_texts
from selftrain.models.encoder import TextEncoder
from selftrain.training.loop import train


@pytest.mark.parametrize(
    ("hits", "classes", "agreement", "needed", "used"),
    [
        ([True, True, False, False], 2, 0.5, 0.75, False),  # chance is .5, half way from there to 1 is .75
        ([True, True, True, False], 2, 0.5, 0.75, True),  # as many as needed are enough
        ([True, True, True, False], 5, 0.5, 0.6, True),  # chance is .2
        ([True, False], 5, 0.5, 0.6, False),
        ([False, True, False, False, False], 5, 0.0, 0.2, True),  # no better than chance, and no more was asked
        ([], 2, 0.5, 0.75, False),  # no text, no trust
        ([True] * 3, 4, 1.0, 1.0, True),
    ],
)
def test_texts_are_used_from_an_agreement_above_chance_on(hits, classes, agreement, needed, used):
    found = check_texts(hits, classes, agreement)
    assert found.needed == pytest.approx(needed) and found.used == used
    filed = sum(hits) / len(hits) if hits else 0
    assert found.figures() == {"texts_checked": len(hits), "texts_filed": filed, "texts_filed_needed": found.needed, "texts_used": float(used)}


class Dictionary:
    """Answers from its own words: a document that exists already, of the class that is asked for or of another one."""

    def __init__(self, corpus, of_label):
        self.corpus, self.of_label, self.asked = corpus, of_label, []

    def __call__(self, requests):
        self.asked += requests
        return {one: self.corpus.unlabeled.contents[0] if one.kind == "input" else self.of_label[one.label] for one in requests}


def best_texts(corpus, folder):
    """[class] -> the document that the encoder as it is puts into the class with the most confidence."""
    student = method_of(corpus, folder).student()
    found = student.predict(corpus.unlabeled.contents)
    places = [int(found[:, label].argmax()) for label in range(found.shape[1])]
    assert [int(found[place].argmax()) for place in places] == list(range(found.shape[1]))
    return [corpus.unlabeled.contents[place] for place in places]


def method_of(corpus, folder, **options):
    torch.manual_seed(0)
    recipe = resolve(parse({"method": {"name": "genco", "rounds": 3, "steps_per_round": 3, "learning_rate": 1e-3, "text_check": 0.5, **options}}))
    return recipe.build(corpus, TextEncoder(tiny_backbone(folder), max_tokens=16))


def trained(corpus, folder, texts, resume=None, **options):
    method, states = method_of(corpus, folder, **options), []
    fitted = train(method, texts=texts, report=lambda figures, state: states.append(torch_copy(state)), seed=0, resume=resume)
    return method, fitted, states


def torch_copy(state):
    import copy

    return copy.deepcopy(state)


def equal(a, b):
    return all(torch.equal(value, b.encoder.state_dict()[name]) for name, value in a.encoder.state_dict().items())


@pytest.fixture
def texts(corpus, tmp_path):
    right = best_texts(corpus, tmp_path / "start")
    return {"right": Dictionary(corpus, right), "wrong": Dictionary(corpus, right[::-1])}


def test_texts_that_are_filed_under_other_classes_are_not_used_and_training_is_by_equation_5(corpus, tmp_path, texts):
    channel = texts["wrong"]
    refused, fitted, _ = trained(corpus, tmp_path / "a", channel)
    assert fitted.rounds[0]["texts_used"] == 0 and fitted.rounds[0]["texts_filed"] == 0
    assert not refused.texts_used
    by_equation_5, plain, _ = trained(corpus, tmp_path / "b", no_texts, input_augmentation=False, conditional_augmentation=False)
    assert equal(refused, by_equation_5)
    for mine, other in zip(fitted.rounds, plain.rounds, strict=True):
        assert {name: mine[name] for name in other} == other
    # The first round's texts are those that were looked at; no later round asks for one.
    conditional = [one for one in channel.asked if one.kind == "conditional"]
    assert len(conditional) == fitted.rounds[0]["texts_checked"] == fitted.rounds[0]["pairs_drawn"]


def test_texts_that_are_filed_under_their_classes_are_used_as_without_the_check(corpus, tmp_path, texts):
    checked, fitted, _ = trained(corpus, tmp_path / "a", texts["right"])
    assert fitted.rounds[0]["texts_used"] == fitted.rounds[0]["texts_filed"] == 1
    assert "texts_used" not in fitted.rounds[1]  # decided once
    unchecked, others, _ = trained(corpus, tmp_path / "b", texts["right"], text_check=None)
    assert equal(checked, unchecked)
    assert [name for name in others.rounds[0] if name.startswith("texts_")] == []


def test_without_the_check_texts_under_wrong_classes_are_trained_on(corpus, tmp_path, texts):
    method, fitted, _ = trained(corpus, tmp_path / "a", texts["wrong"], text_check=None)
    assert method.texts_used and "g2l" in fitted.rounds[2] and "t2g" in fitted.rounds[2]


@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_a_training_that_goes_on_keeps_its_decision(corpus, tmp_path, texts, kind):
    whole, fitted, states = trained(corpus, tmp_path / "a", texts[kind])
    resumed, again, _ = trained(corpus, tmp_path / "b", texts[kind], resume=states[0])
    assert equal(whole, resumed) and resumed.texts_used == whole.texts_used == (kind == "right")
    assert again.rounds[1:] == fitted.rounds[1:]


def test_continuations_alone_are_not_checked(corpus, tmp_path, texts):
    _, fitted, _ = trained(corpus, tmp_path / "a", texts["wrong"], conditional_augmentation=False)
    assert "texts_used" not in fitted.rounds[0] and "t2g" in fitted.rounds[0]


def test_a_document_is_asked_for_once(corpus, tmp_path, texts):
    trained(corpus, tmp_path / "a", texts["wrong"])
    asked = texts["wrong"].asked
    assert TextRequest(corpus.unlabeled.ids[0], "input") in asked and len(asked) == len(set(asked))


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_an_agreement_lies_between_chance_and_certainty(value):
    with pytest.raises(Exception, match="text_check"):
        options_of({"name": "genco", "text_check": value})
