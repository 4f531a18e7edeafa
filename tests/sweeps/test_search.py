"""Searches choose on validation documents, repeat, and say what they lack."""

from __future__ import annotations

import pytest

from selftrain.errors import ConfigError, MissingExtraError
from selftrain.methods.base import Options
from selftrain.methods.candidate_labels.seal_partial import SEALPartialOptions
from selftrain.methods.few_labels.vat import VATOptions
from selftrain.methods.noisy_labels.co_teaching import CoTeachingOptions
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.search import draw, ranking
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.trial import axis_values


@pytest.fixture
def searched(document):
    document["base"]["data"]["validation_documents"] = 20
    document["axes"] = {
        "method.learning_rate": {"low": 0.001, "high": 1.0, "log": True},
        "method.batch_size": {"low": 2, "high": 9, "integer": True},
        "method.ramp": [0.0, 0.5],
    }
    document["search"] = {"trials": 20}
    document["seeds"] = [0]
    return document


def test_random_settings_follow_the_seed_and_stay_in_their_ranges(searched):
    found = draw(parse_space(searched))
    assert found == draw(parse_space(searched)) and len(found) == 20
    assert all(0.001 <= one["method.learning_rate"] <= 1 and 2 <= one["method.batch_size"] <= 9 for one in found)
    assert {one["method.ramp"] for one in found} == {0.0, 0.5} and isinstance(found[0]["method.batch_size"], int)
    assert sum(one["method.learning_rate"] < 0.0316 for one in found) in range(4, 17)  # half of the range on a logarithmic scale
    searched["search"]["trials"] = 30
    assert draw(parse_space(searched))[:20] == found  # a longer search goes on from a shorter one
    searched["search"]["seed"] = 1
    assert draw(parse_space(searched))[:20] != found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"datasets": {"a": {}, "b": {}}}, "a search has one data set"),
        ({"axes": {"data.labels_per_class": [1, 2]}}, "cannot be an axis"),
        ({"search": {"asha": True}, "seeds": [0, 1]}, "set one seed"),
        ({"search": {"sampler": "grid"}}, "search.sampler in the sweep"),
        ({"search": {"trials": 0}}, "search.trials in the sweep"),
    ],
)
def test_what_a_search_may_not(searched, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        prepare_sweep(parse_space({**searched, **changes}))


def test_asha_judges_no_training_before_its_unlabeled_losses_are_on(searched):
    """With a ramp over half of 5 rounds, their weight is there in the course of the third."""
    assert prepare_sweep(parse_space(searched)).asha_after is None
    searched["search"]["asha"] = True
    searched["base"]["method"]["rounds"] = 5
    searched["axes"]["method.ramp"] = [0.5]
    assert prepare_sweep(parse_space(searched)).asha_after == 3
    searched["axes"]["method.ramp"] = [0.5, 0.0, 0.7]  # the latest of all settings
    assert prepare_sweep(parse_space(searched)).asha_after == 4
    searched["axes"]["method.ramp"] = [0.0]
    assert prepare_sweep(parse_space(searched)).asha_after == 1
    searched["axes"]["method.ramp"] = [1.0]
    with pytest.raises(ConfigError, match=r"trains 5 rounds and its losses have their full weight after 5; set search\.asha: false"):
        prepare_sweep(parse_space(searched))


def test_when_losses_have_their_full_weight():
    assert VATOptions(rounds=10, ramp=0.25).settled_rounds == 3
    assert VATOptions(rounds=10, ramp=0.0).settled_rounds == 1
    assert CoTeachingOptions(ramp_epochs=4).settled_rounds == 4
    assert SEALPartialOptions(rounds=20, ramp=0.25, start=0.5).settled_rounds == 5
    assert SEALPartialOptions(rounds=20, ramp=0.25, start=0.5, form="released").settled_rounds == 10
    assert Options().settled_rounds == 1


def test_a_search_never_chooses_on_test_documents(searched):
    del searched["base"]["data"]["validation_documents"]
    with pytest.raises(ConfigError, match="never on test documents"):
        prepare_sweep(parse_space(searched))


def test_optuna_is_an_extra(searched, monkeypatch):
    monkeypatch.setattr("selftrain.sweeps.search.find_spec", lambda name: None)
    searched["search"]["sampler"] = "optuna"
    with pytest.raises(MissingExtraError, match=r"needs the package optuna; install the extra"):
        prepare_sweep(parse_space(searched))


def test_places_of_listed_values(searched):
    config = {"method.learning_rate": 0.12345678, "method.batch_size": 3, "method.ramp": 1}
    assert axis_values(parse_space(searched), config) == {"method.learning_rate": 0.123457, "method.batch_size": 3, "method.ramp": 0.5}


def test_the_ranking_puts_what_was_ended_early_last(document):
    document["axes"] = {"method.learning_rate": [0.1, 0.2, 0.3, 0.4]}
    settings = parse_space(document).settings()
    results = {
        "0.1": [{"validation": 0.5, "scores": {"accuracy": 0.9}}],
        "0.2": [{"validation": 0.7, "scores": {"accuracy": 0.6}}, {"validation": 0.9, "scores": {"accuracy": 0.8}}],
        "0.3": [{"stopped": 1, "objective": 0.95}],
        "0.4": [{"error": "broke"}],
    }
    rows = ranking(settings, results)
    assert [row["setting"] for row in rows] == ["0.2", "0.1", "0.3"]
    assert rows[0]["validation"]["mean"] == pytest.approx(80) and rows[0]["test"]["mean"] == pytest.approx(70) and rows[2]["test"] is None
