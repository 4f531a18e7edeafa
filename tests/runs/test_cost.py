"""Costs: what a dry run predicts, what a price file may say, and how money comes about."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from light_runs import described
from tiny import tiny_backbone

from selftrain.config import load_prices, parse
from selftrain.errors import ConfigError
from selftrain.methods.zero_shot.genco import GenCo, GenCoOptions
from selftrain.runs import cost
from selftrain.runs.cost import Work, plan, predicted, real
from selftrain.runs.plan import prepare
from selftrain.runtime.devices import Devices

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
        "augment": {"model": "writer", "server": "http://127.0.0.1:9/v1", "max_tokens": 10, "input_samples": 2} | augment,
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
