"""Costs: what a dry run predicts, what a price file may say, and how money comes about."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from light_runs import described
from tiny import tiny_backbone

from selftrain.config import load_prices, parse
from selftrain.data.corpus import Documents
from selftrain.data.texts import TextRequest
from selftrain.errors import ConfigError
from selftrain.methods.zero_shot.genco import GenCo, GenCoOptions
from selftrain.runs.cost import Asking, Work, plan, predicted, real, wanted_texts
from selftrain.runs.plan import prepare
from selftrain.runtime.devices import Devices
from selftrain.texts import cost
from selftrain.texts.cache import TextCache
from selftrain.texts.cost import Cost, missing_texts, total
from selftrain.texts.engines.base import Generation
from selftrain.texts.service import TextService

PRICES = "currency: EUR\ngpu_hours: {A card: 2.0}\nteachers:\n  writer: {prompt: 1.0, generated: 4.0}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cost")
    tiny_backbone(folder / "parts").save_pretrained(str(folder / "encoder"))
    rows = [("sport", f"the team and its coach won match {n}") for n in range(40)] + [("business", f"the bank lost profit {n}") for n in range(40)]
    documents = "\n".join(json.dumps({"text": text, "label": label}) for label, text in rows)
    (folder / "documents.jsonl").write_text(documents, encoding="utf-8")
    return folder


def asked(home, prices=PRICES, **augment):
    (home / "prices.yaml").write_text(prices, encoding="utf-8")
    changes = {
        "method": {"name": "genco", "rounds": 2, "steps_per_round": 2, "conditional_augmentation": False},
        "augment": {"model": "writer", "server": "http://127.0.0.1:9/v1", "max_tokens": 10, "input_samples": 2, "cache": str(home / "texts")}
        | augment,
        "cost": {"prices": str(home / "prices.yaml")},
    }
    return described(home, "head", **changes)


def test_a_dry_run_counts_prompts_and_says_what_they_come_to(home):
    found = prepare(asked(home))
    documents = found.corpus.unlabeled.contents
    texts = 2 * len(documents)
    prompt = 2 * sum(len(text) for text in documents) / 4  # a prompt is the document, all of whose words are read
    cost = predicted(found, cost_works(found))
    assert (cost.texts, cost.generated_tokens, cost.gpu_hours) == (texts, 10 * texts, 0.0)
    assert cost.prompt_tokens == round(prompt)
    assert cost.money == pytest.approx((prompt * 1.0 + 10 * texts * 4.0) / 1e6) and cost.currency == "EUR"
    said = plan(found)
    assert f"texts to generate at most: {texts}" in said and f"{cost.prompt_tokens:,} tokens of prompts and {10 * texts:,} of texts" in said
    assert said.splitlines()[-1].endswith(f"{cost.money:,.4g} EUR")


class Writer:
    """An engine that has a text for every prompt."""

    starting, notices = False, ()

    def generate(self, prompts):
        return (Generation(prompt, f"A new sentence of number {number}.", 10, 6) for number, prompt in enumerate(prompts))

    def close(self):
        pass


def write(found, requests):
    """Have the texts of `requests` in the cache, as the text service leaves them."""
    TextService(found.experiment.augment, found.corpus, "served:writer", TextCache(found.experiment.augment.cache), Writer()).usable_texts(requests)


def test_what_the_cache_holds_costs_nothing(home, tmp_path):
    found = prepare(asked(home, cache=str(tmp_path / "texts")))
    documents = found.corpus.unlabeled
    line = plan(found).splitlines()[-1]
    assert not (tmp_path / "texts").exists()  # nothing is written, no empty cache either
    write(found, [TextRequest(id_, "input") for id_ in documents.ids])  # the first of two samples
    prompts = sum(len(text) for text in documents.contents) / 4
    half = plan(found).splitlines()
    assert f"texts to generate at most: {len(documents)}" in half[-2]
    assert f": {len(documents)} texts, {round(prompts):,} tokens of prompts and {10 * len(documents):,} of texts" in half[-1]
    assert predicted(found, cost_works(found)).texts == 2 * len(documents)  # a report says what it would have been without
    write(found, [TextRequest(id_, "input", sample=1) for id_ in documents.ids])
    assert ": 0 texts, 0 tokens of prompts and 0 of texts; 0.02 hours" in plan(found)  # no engine starts
    other = prepare(asked(home, cache=str(tmp_path / "texts"), max_tokens=11))
    assert f": {2 * len(documents)} texts, " in plan(other) and line in plan(prepare(asked(home, cache=str(tmp_path / "other"))))


def asking(found, trainings=1, corpus=None, samples=1, **texts):
    augment = found.experiment.augment.model_copy(update={"conditional_samples": samples})
    return Asking(Work(texts, round(texts.get("input", 0) + 2 * texts.get("conditional", 0)), 1, 1.0), trainings, corpus or found.corpus, augment)


def test_texts_that_trainings_share_count_once_and_those_of_their_pseudo_labels_at_most(home):
    found = prepare(asked(home))
    count, pairs = len(found.corpus.unlabeled), 2 * len(found.corpus.unlabeled)

    def missing(*each):
        return missing_texts(found.experiment.augment, "served:writer", wanted_texts(each), cached=False)

    one = missing(asking(found, input=count, conditional=10.0))
    assert (one.texts, one.most, one.at_most) == (count + 10, count + 20, False)
    seeds = missing(asking(found, trainings=2, input=count, conditional=10.0))
    assert (seeds.texts, seeds.most, seeds.at_most) == (count + 40, count + 40, True)
    many = missing(asking(found, trainings=100, input=count, conditional=10.0), asking(found, input=2 * count))
    assert (many.texts, many.at_most) == (2 * count + pairs, True)  # a text for every document and class
    assert missing(asking(found, trainings=100, samples=3, conditional=10.0)).texts == 3 * pairs


def test_documents_of_several_corpora_count_once(home):
    found = prepare(asked(home))
    documents = found.corpus.unlabeled
    part = Documents(tuple(documents.ids[:20]), tuple(documents.contents[:20]))
    smaller = replace(found.corpus, unlabeled=part, fingerprint="another")
    both = [asking(found, corpus=smaller, input=20), asking(found, input=len(documents))]
    for order in (both, both[::-1]):
        assert missing_texts(found.experiment.augment, "served:writer", wanted_texts(order), cached=False).texts == len(documents)


def test_a_part_without_money_leaves_none_of_the_whole():
    paid, unpaid = Cost(1, 20, 300, 1.0, 0.5, 4.0, "EUR", ""), Cost(2, 0, 0, 0.5, 0.0, None, "EUR", "the price file has no GPU 'A'", True)
    assert total([paid, paid]) == Cost(2, 40, 600, 2.0, 1.0, 8.0, "EUR", "")
    assert total([paid, unpaid]) == Cost(3, 20, 300, 1.5, 0.5, None, "EUR", "the price file has no GPU 'A'", True)
    assert (
        unpaid.words() == "at most 2 texts, 0 tokens of prompts and 0 of texts; 0.50 hours, 0.00 GPU-hours; no money: the price file has no GPU 'A'"
    )


def cost_works(found):
    return {found.main_name: Work({"input": 2.0 * len(found.corpus.unlabeled)}, 0, 4, 1.0)}


def test_teachers_share_the_texts_and_all_of_them_classify(home):
    teachers = [{"model": name, "server": "http://127.0.0.1:9/v1", "share": share} for name, share in (("writer", 3), ("other", 1))]
    experiment = asked(home, PRICES + "  other: {prompt: 0, generated: 100.0}\n", teachers=teachers, model=None, server=None)
    found = prepare(experiment.model_copy(update={"evaluation": experiment.evaluation.model_copy(update={"llm_documents": 5})}))
    cost = predicted(found, cost_works(found))
    inputs, choice = 2 * len(found.corpus.unlabeled), np.mean([len(f" {name}") / 4 for name in found.corpus.class_names])
    assert cost.texts == inputs + 10 and cost.generated_tokens == round(10 * inputs + 10 * choice)
    other = (10 * inputs / 4 + 5 * choice) * 100.0 / 1e6
    assert cost.money == pytest.approx(other + (cost.prompt_tokens * 0.75 * 1.0 + (10 * inputs * 0.75 + 5 * choice) * 4.0) / 1e6, rel=0.01)


@pytest.mark.parametrize("known", [True, False])
def test_what_a_run_took_is_paid_by_its_tokens_and_its_gpus(home, monkeypatch, known):
    monkeypatch.setattr(cost, "gpu_name", lambda: "A card" if known else "Another card")
    found = replace(prepare(asked(home)), devices=Devices(engine=1, worker=0.5))
    rows = [{"train_seconds": 3600.0, "inference_augmentation": False}, {"train_seconds": 3600.0, "inference_augmentation": True}]
    texts = {"generated": 7, "prompt_tokens": 2_000_000, "generated_tokens": 1_000_000, "seconds": 1800.0}
    came_to = real(found, rows, texts, 7200.0)  # the engine is a server's, whose GPU is not ours
    assert (came_to.texts, came_to.hours, came_to.gpu_hours) == (7, 2.0, 0.5)
    assert came_to.money == (2.0 + 4.0 + 0.5 * 2.0 if known else None)
    assert came_to.why == ("" if known else "the price file has no GPU 'Another card'")


def test_without_a_price_that_is_needed_there_is_no_money_and_the_reason(home):
    found = prepare(asked(home, "currency: EUR\n"))
    assert (cost_of := predicted(found, cost_works(found))).money is None and cost_of.why == "the price file has no teacher 'writer'"
    own = prepare(asked(home, "currency: EUR\n", prompt_price=1.0, generated_price=4.0))  # what the experiment itself says
    assert predicted(own, cost_works(own)).money == predicted(prepare(asked(home)), cost_works(found)).money
    none = prepare(asked(home).model_copy(update={"cost": parse({}).cost}))
    assert predicted(none, cost_works(none)).why == "no price file (cost.prices)"
    with pytest.raises(ConfigError, match=r"augment\.prompt_price must be 1, the price that the price file has for 'writer' \(got 2\)"):
        prepare(asked(home, prompt_price=2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teachers: {}", "currency in .*: field required"),
        ("currency: EUR\ngpus: {}", "Unknown key 'gpus'"),
        ("currency: EUR\ngpu_hours: {A: -1}", "gpu_hours.A in .*greater than or equal to 0"),
        ("currency: EUR\nteachers: {w: {prompt: 1}}", "teachers.w.generated in .*: field required"),
        ("- EUR", "holds a list"),
        (None, "No price file"),
    ],
)
def test_a_wrong_price_file_is_a_sentence(tmp_path, text, message):
    if text is not None:
        (tmp_path / "prices.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_prices(tmp_path / "prices.yaml")


def test_expected_pairs_are_the_mean_of_what_both_bounds_draw():
    """By simulation of the draws: rounds that select no document again, and rounds of which each selects what the last one did."""
    rng, rounds, steps, drawn = np.random.default_rng(0), 3, 4, 3
    sizes = [2, 6, 10]
    options = GenCoOptions(rounds=rounds, steps_per_round=steps, per_class=drawn, first_share=0.2, last_share=1.0, input_augmentation=False)
    method = object.__new__(GenCo)
    method.options, method.conditional_samples, method.input_samples, method.texts_used = options, 2, 1, True
    method.corpus = type("Corpus", (), {"unlabeled": range(20), "labels": ("a", "b")})
    assert [method.selection_size(round_) for round_ in range(rounds)] == sizes
    apart, within = [], []
    for _ in range(4000):
        each = [{int(one) for _ in range(steps) for one in rng.choice(size, drawn, replace=size < drawn)} for size in sizes]
        apart.append(sum(map(len, each)))
        within.append(len(set.union(*each)))
    expected = method.texts_expected()
    assert expected["input"] == 0 and expected["conditional"] == pytest.approx(2 * 2 * (np.mean(apart) + np.mean(within)) / 2, rel=0.01)
