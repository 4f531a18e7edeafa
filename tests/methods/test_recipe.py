"""From the `method` section to a recipe: once, with a name that is written once."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from selftrain import methods
from selftrain.config import parse
from selftrain.errors import ConfigError
from selftrain.methods.recipe import resolve


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_methods_name_is_that_of_its_file_and_of_its_options(name):
    cls = methods.method_class(name)
    assert cls.name == name == cls.__module__.rpartition(".")[2] == resolve(parse({"method": {"name": name}})).name


def test_a_recipe_holds_what_training_reads_and_survives_being_sent():
    experiment = parse({"method": {"name": "genco", "tau": 0.5}, "model": {"train": "head"}, "training": {"workers": 3}})
    recipe = pickle.loads(pickle.dumps(resolve(experiment)))
    assert recipe == resolve(experiment)
    assert (recipe.options.tau, recipe.model, recipe.augment, recipe.training) == (0.5, experiment.model, experiment.augment, experiment.training)


@pytest.mark.parametrize(
    ("document", "trains", "texts", "light"),
    [
        ({"method": {"name": "genco"}}, True, True, False),
        ({"method": {"name": "genco", "rounds": 0}}, False, False, False),
        ({"method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False}}, True, False, False),
        ({"method": {"name": "sungen"}, "model": {"encoder": "bilstm"}}, True, False, True),
        ({"method": {"name": "ssc", "views": "continuations"}, "model": {"train": "head"}}, True, True, True),
        ({"method": {"name": "ipet"}, "model": {"train": "head", "masked_lm": "a"}}, True, False, False),
    ],
)
def test_what_a_recipe_says_of_itself(document, trains, texts, light):
    recipe = resolve(parse(document))
    assert (recipe.trains, recipe.wants_texts, recipe.light) == (trains, texts, light)


def test_what_is_trained_has_a_name():
    assert resolve(parse({"method": {"name": "ipet"}, "model": {"encoder": "e", "masked_lm": "m"}})).source == "m"
    assert resolve(parse({"method": {"name": "genco"}, "model": {"encoder": "e", "masked_lm": "m"}})).source == "e"


def test_errors_name_the_key():
    with pytest.raises(ConfigError, match=r"Unknown method 'gencoo' \(method\.name\); did you mean 'genco'"):
        resolve(parse({"method": {"name": "gencoo"}}))
    with pytest.raises(ConfigError, match=r"Unknown option method\.tua of genco; did you mean 'tau'"):
        resolve(parse({"method": {"name": "genco", "tua": 1}}))


def test_planned_steps_are_known_before_the_first_refresh():
    from selftrain.methods.zero_shot.genco import GenCo

    options = methods.options_of({"name": "genco", "rounds": 3, "steps_per_round": 7})
    assert GenCo.planned_steps.fget(SimpleNamespace(rounds=3, options=options)) == 21


def test_an_option_inside_of_another_is_named_by_its_path():
    with pytest.raises(ConfigError, match=r"^method\.patterns\.1 of ipet: "):
        methods.options_of({"name": "ipet", "patterns": ["{mask}: {text}", 3]})


@pytest.mark.parametrize(("name", "key"), [("ipet", "model.masked_lm"), ("genco", "model.encoder")])
def test_what_identifies_a_training_is_what_it_trains(tmp_path, name, key):
    folders = {"encoder": str(tmp_path / "e"), "masked_lm": str(tmp_path / "m")}
    with pytest.raises(ConfigError, match=rf"^{key}: no folder"):
        resolve(parse({"method": {"name": name}, "model": folders})).source_fingerprint()
