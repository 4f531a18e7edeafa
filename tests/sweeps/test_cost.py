"""What a sweep is expected to cost: texts that trials share count once, what is done costs nothing, and what follows from results is called a bound."""

from __future__ import annotations

import pytest

from selftrain.config import AugmentConfig
from selftrain.runtime.devices import Devices
from selftrain.sweeps.cost import TRIAL_SECONDS, Account, describe_sweep, predicted
from selftrain.sweeps.plan import folder_of, prepare_sweep
from selftrain.sweeps.results import Results
from selftrain.sweeps.space import parse_space
from selftrain.texts import cost as texts_cost

COUNT = 60  # unlabeled documents of the toy sweep
PRICES = "currency: EUR\ngpu_hours: {A card: 2.0}\nteachers: {writer: {prompt: 0.0, generated: 1000.0}, other: {prompt: 0.0, generated: 3000.0}}\n"


@pytest.fixture
def writing(document, tmp_path):
    """Two temperatures and two seeds of GenCo with two continuations a document, by a server's language model."""
    (tmp_path / "prices.yaml").write_text(PRICES, encoding="utf-8")
    document["base"]["data"] |= {"supervision": "none"}
    document["base"]["method"] = {"name": "genco", "rounds": 2, "steps_per_round": 3, "conditional_augmentation": False}
    document["base"]["augment"] = {"model": "writer", "server": "http://127.0.0.1:9/v1", "max_tokens": 10, "input_samples": 2}
    document["base"]["augment"]["cache"] = str(tmp_path / "texts")
    document["base"]["cost"] = {"prices": str(tmp_path / "prices.yaml")}
    document["axes"] = {"method.tau": [0.1, 0.5]}
    return document


def cost_of(document, at_once=1):
    prepared = prepare_sweep(parse_space(document))
    return predicted(prepared, prepared.cells, len(prepared.cells), Devices(), at_once)


def test_texts_that_trials_share_count_once(writing):
    cost = cost_of(writing)
    assert (cost.texts, cost.generated_tokens, cost.at_most) == (2 * COUNT, 20 * COUNT, False)
    assert cost.money == pytest.approx(20 * COUNT * 1000 / 1e6)
    writing["axes"] = {"augment.input_samples": [1, 2, 3]}  # the first sample is the same text
    assert cost_of(writing).texts == 3 * COUNT
    writing["axes"] = {"augment.max_tokens": [5, 10]}  # other texts
    assert (found := cost_of(writing)).texts == 4 * COUNT and found.generated_tokens == 2 * COUNT * 5 + 2 * COUNT * 10
    writing["axes"] = {"augment.model": ["writer", "other"]}
    assert (found := cost_of(writing)).texts == 4 * COUNT and found.money == pytest.approx(20 * COUNT * (1000 + 3000) / 1e6)


def test_documents_that_settings_have_in_common_are_continued_once(writing):
    writing["axes"] = {"data.unlabeled_documents": [20, 40]}
    prepared = prepare_sweep(parse_space(writing))
    ids = [set(corpus.unlabeled.ids) for corpus, _ in prepared.corpora.values()]
    assert cost_of(writing).texts == 2 * len(set.union(*ids)) < 2 * 60


def test_inference_on_continuations_is_counted(writing):
    writing["base"]["evaluation"] = {"inference_augmentation": True}
    assert cost_of(writing).texts == 2 * COUNT + 2 * 20


def test_texts_for_pseudo_labels_of_several_trainings_are_a_bound(writing):
    writing["base"]["method"] |= {"conditional_augmentation": True, "input_augmentation": False, "per_class": 2}
    bound = cost_of(writing)
    prepared = prepare_sweep(parse_space(writing))
    (one, other) = prepared.works.values()
    assert bound.at_most and bound.texts == min(4 * one.most_texts, 2 * COUNT) and one == other
    assert describe_sweep(prepared, 1).splitlines()[-1].startswith("# predicted for what is to do, with hours of two CPU cores: at most ")
    writing["axes"], writing["seeds"] = {"evaluation.inference_augmentation": [False, True]}, [0]
    alike = cost_of(writing)  # one training, evaluated in two ways
    assert not alike.at_most and alike.texts == round(one.texts["conditional"]) + 2 * 20
    writing["axes"], writing["seeds"] = {"method.tau": [0.1]}, [0]
    alone = cost_of(writing)
    assert not alone.at_most and alone.texts == round(one.texts["conditional"]) < one.most_texts


def test_hours_are_those_of_the_trials_at_once(document):
    prepared = prepare_sweep(parse_space(document))
    steps, seconds = {(work.steps, work.seconds) for work in prepared.works.values()}.pop()
    assert (steps, seconds) == (6, 6 * 0.015)  # a light training starts at once
    assert cost_of(document).hours == pytest.approx(4 * (6 * 0.015 + TRIAL_SECONDS) / 3600)
    assert cost_of(document, at_once=2).hours == pytest.approx(2 * (6 * 0.015 + TRIAL_SECONDS) / 3600)


def test_what_is_done_costs_nothing(writing):
    prepared = prepare_sweep(parse_space(writing))
    assert "4 trainings, 4 of them still to do, 1 at once" in describe_sweep(prepared, 1)
    results = Results(folder_of(prepared) / "results.jsonl", "")
    for cell in prepared.cells[:3]:
        results.add(cell, {"scores": {}, "train_seconds": 1.0})
    said = describe_sweep(prepared, 1)
    assert "4 trainings, 1 of them still to do" in said and f": {2 * COUNT} texts" in said
    results.add(prepared.cells[3], {"scores": {}, "train_seconds": 1.0})
    assert ": 0 texts, 0 tokens of prompts and 0 of texts; 0.00 hours, 0.00 GPU-hours; 0 EUR" in describe_sweep(prepared, 1)


def test_a_training_that_two_settings_come_to_counts_once(document):
    document["axes"] = {"method.learning_rate": [0.1], "augment.max_tokens": [10, 20]}  # no part of a training without texts
    assert "4 trainings, 2 of them still to do" in describe_sweep(prepare_sweep(parse_space(document)), 1)


@pytest.mark.parametrize("change", [{"search": {"trials": 3, "asha": True}}, {"search": {"trials": 3}, "minutes": 5}, {"search": {"trials": 3}}])
def test_a_search_that_ends_trials_early_has_a_bound(document, change):
    document["base"]["data"]["validation_documents"] = 20
    document |= {"axes": {"method.batch_size": {"low": 2, "high": 9, "integer": True}}, "seeds": [0]} | change
    cost = cost_of(document)
    assert cost.at_most == (change != {"search": {"trials": 3}})
    assert cost.hours == pytest.approx(3 * (6 * 0.015 + TRIAL_SECONDS) / 3600)


def test_an_adaptive_search_has_a_bound_of_its_corners(writing):
    pytest.importorskip("optuna")
    writing["base"]["data"]["validation_documents"] = 20
    writing["axes"] = {"method.rounds": {"low": 1, "high": 4, "integer": True}}
    writing |= {"seeds": [0], "search": {"sampler": "optuna", "trials": 5}}
    prepared = prepare_sweep(parse_space(writing))
    cost = predicted(prepared, [], 5, Devices(), 1)
    assert cost.at_most and cost.texts == 2 * 40 and cost.hours > 5 * (4 * 3 * 0.015 + TRIAL_SECONDS) / 3600  # and the engine's seconds
    assert "Optuna chooses 5 settings, 5 of them are still to try" in describe_sweep(prepared)


def test_what_a_start_took_is_paid(writing, tmp_path, monkeypatch):
    monkeypatch.setattr(texts_cost, "gpu_name", lambda: "A card")
    writing["base"]["augment"] |= {"server": None, "gpus": 1, "replicas": 2}
    prepared = prepare_sweep(
        parse_space({**writing, "axes": {"augment.temperature": [0.5]}} | {"base": writing["base"] | {"method": {"name": "genco", "rounds": 0}}})
    )
    account = Account(prepared, tmp_path / "cost.json")
    said = []
    assert account.close(5.0, lambda event, **facts: said.append(facts)) == {} and said == []  # nothing to do
    account.begin(prepared.cells, len(prepared.cells), Devices(worker=0.5), 1)
    account.results += [{"train_seconds": 3600.0}, {"error": "broken"}, {"train_seconds": 1800.0}]
    counts = {"generated": 7, "prompt_tokens": 50, "generated_tokens": 2_000_000, "seconds": 900.0}
    account.texts += [
        (AugmentConfig(model="writer", gpus=1, replicas=2), counts),
        (AugmentConfig(model="other", server="http://127.0.0.1:9/v1"), counts),
    ]
    came = account.real(7200.0)
    assert (came.texts, came.prompt_tokens, came.generated_tokens, came.hours) == (14, 100, 4_000_000, 2.0)
    assert came.gpu_hours == 1.5 * 0.5 + 0.25 * 2  # training on half a card; two engines with one each, and a server's, which is not ours
    assert came.money == pytest.approx(2000 + 6000 + 1.25 * 2.0) and not came.at_most
    account.texts[0] = (AugmentConfig(model="writer", gpus=1, replicas=2, most_replicas=4), counts)
    came = account.real(7200.0)
    assert came.gpu_hours == 1.5 * 0.5 + 0.25 * 4 and came.at_most  # nobody knows how long the third and the fourth were there
    words = account.close(7200.0, lambda event, **facts: said.append(facts))
    assert words["real"] == came.words() and said == [words]
    assert Account(prepared, tmp_path / "cost.json").close(1.0, lambda *_, **__: None) == words  # of the last start that did something


def test_prices_are_no_part_of_what_is_asked(writing):
    prepared = prepare_sweep(parse_space(writing))
    del writing["base"]["cost"]
    without = prepare_sweep(parse_space(writing))
    assert folder_of(prepared) == folder_of(without)
    assert predicted(without, without.cells, 4, Devices(), 1).why == "no price file (cost.prices)"
