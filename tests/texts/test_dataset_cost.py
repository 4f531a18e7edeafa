"""What a generation is expected to cost: a rehearsal of its tries, worked out by hand, and what came of it beside that."""

import json
from pathlib import Path

import pytest

from selftrain.cli import main
from selftrain.config import AugmentConfig, Experiment, load
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.texts.cache import TextCache
from selftrain.texts.dataset import generation
from selftrain.texts.dataset.cost import predicted, rehearsed
from selftrain.texts.dataset.generation import generate
from selftrain.texts.dataset.prompts import label_prompts
from selftrain.texts.dataset.writing import write_texts
from selftrain.texts.engines.base import Generation
from selftrain.texts.service import TextCounts, TextService
from selftrain.texts.teachers import service_of

LABELS = (Label("negative", "bad", "a bad film"), Label("positive", "good", "a good film"))
ENDED = 0.8  # of its tokens, that a text which a quotation mark ends is taken to have
TRIES = 13  # for 10 texts: of 10 tries numbers 4 and 8 fail (ceil of .76 n), and of 3 more number 12


def rehearse(folder, template="text", per_class=10, **augment):
    config = AugmentConfig(**{"model": "writer", "server": "http://127.0.0.1:9/v1", "max_tokens": 20, "cache": str(folder)} | augment)
    model = tuple(f"served:{one.model}" for one in config.language_models) if config.teachers else "served:writer"
    prompts = label_prompts(template, LABELS, style="continue")
    return rehearsed(Experiment(augment=config), LABELS, prompts, model, per_class=per_class, origin="test")


class Writer:
    """The engine: a text of its own for every prompt, but for one in `out_of`, which is empty."""

    starting, notices = False, ()

    def __init__(self, opening="All that is said", out_of=10**9):
        self.opening, self.out_of, self.generated = opening, out_of, 0

    def generate(self, prompts):
        for prompt in prompts:
            self.generated += 1
            text = f"Film {self.generated}" if prompt.kind == "subject" else f"{self.opening} of it is {self.generated}."
            yield Generation(prompt, "" if self.generated % self.out_of == 0 else text, 5, 5)

    def close(self):
        pass


def write(folder, engine, template="text", per_class=10):
    """Have texts in the cache, as the text service leaves them."""
    config = AugmentConfig(model="writer", server="http://127.0.0.1:9/v1", max_tokens=20)
    corpus = Corpus("generated", LABELS, (), Documents(), Documents())
    complete = TextService(config, corpus, "served:writer", TextCache(folder), engine).complete
    prompts = label_prompts(template, LABELS, style="continue")
    return write_texts([label.name for label in LABELS], prompts, complete, config, per_class=per_class, origin="test")


def test_a_share_of_the_tries_is_used(tmp_path):
    missing = rehearse(tmp_path / "texts")
    assert (missing.texts, missing.most, missing.at_most) == (2 * TRIES, 2 * 5 * 10, False)
    assert not (tmp_path / "texts").exists()
    prompts = [len(f'A text about {label.description}: "') / 4 for label in LABELS]
    assert missing.tokens == {"writer": (TRIES * sum(prompts), pytest.approx(2 * TRIES * 20 * ENDED))}


def test_subjects_are_written_first(tmp_path):
    missing = rehearse(tmp_path / "texts", template="review")
    assert (missing.texts, missing.most) == (TRIES + 2 * TRIES, 2 * 10 + 2 * 5 * 10)  # two tries a subject, which the classes share
    assert missing.tokens["writer"][1] == pytest.approx((10 * TRIES + 20 * 2 * TRIES) * ENDED)  # a subject has ten tokens


def test_what_the_cache_holds_costs_nothing(tmp_path):
    engine = Writer(out_of=3)
    write(tmp_path, engine, per_class=4)
    half = rehearse(tmp_path)
    assert half.texts < 2 * TRIES and half.most == 100 - engine.generated
    write(tmp_path, Writer())
    assert rehearse(tmp_path).texts == 0 == rehearse(tmp_path).seconds
    assert predicted(Experiment(), None, rehearse(tmp_path)).hours == 0


def test_teachers_share_the_texts_and_all_of_them_vote(tmp_path):
    teachers = [{"model": name, "server": "http://127.0.0.1:9/v1", "share": share} for name, share in (("writer", 3), ("other", 1))]
    missing = rehearse(tmp_path / "texts", model=None, server=None, teachers=teachers)
    assert missing.texts == 2 * TRIES + 2 * 20
    choice = sum(len(f" {label.name}") for label in LABELS) / 2 / 4
    assert missing.tokens["writer"][1] == pytest.approx(2 * TRIES * 20 * 3 / 4 * ENDED + 20 * choice)
    assert missing.tokens["other"][1] == pytest.approx(2 * TRIES * 20 / 4 * ENDED + 20 * choice)
    config = AugmentConfig(teachers=teachers, max_tokens=20)
    corpus = Corpus("generated", LABELS, (), Documents(), Documents())
    complete = service_of(config, corpus, ["served:writer", "served:other"], str(tmp_path / "texts"), [Writer(), Writer("Said by another")]).complete
    write_texts([label.name for label in LABELS], label_prompts("text", LABELS, style="continue"), complete, config, per_class=10, origin="test")
    assert rehearse(tmp_path / "texts", model=None, server=None, teachers=teachers).texts == 2 * 20  # the votes


@pytest.mark.parametrize("per_class", [1, 7, 40])
@pytest.mark.parametrize("tokens", [1, 8, 4096])
def test_no_rehearsal_fails(tmp_path, per_class, tokens):
    """A text is made up that no filter refuses, and no class is left without one."""
    found = [
        rehearse(tmp_path / "texts", template=template, per_class=per_class, max_tokens=tokens).texts for template in ("text", "review", "subject")
    ]
    assert 2 * per_class <= found[0] <= 2 * (1.4 * per_class + 1) and found[0] < found[1] < found[2]


def test_a_dry_run_writes_nothing_and_a_data_set_says_what_it_cost(tmp_path, capsys, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "prices.yaml").write_text("currency: EUR\nteachers: {./model: {prompt: 0, generated: 1000}}\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ask = [
        "generate",
        "--classes",
        "negative,positive",
        "--per-class",
        "10",
        "--model",
        "./model",
        "--out",
        "out",
        "--set",
        "cost.prices=prices.yaml",
    ]
    assert main([*ask, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "per_class: 10" in said and "# texts to generate at most: 100 (" in said
    money = 2 * TRIES * 32 * ENDED * 1000 / 1e6
    assert f"# predicted, with hours of two CPU cores: {2 * TRIES} texts, " in said and f"and {round(1000 * money)} of texts; " in said
    assert said.rstrip().endswith(f"{money:.4g} EUR")

    def by_rule(experiment, request):
        found = generation.requested_texts(experiment, request, lambda prompts: story(prompts))
        return found, TextCounts(requested=24, generated=24, prompt_tokens=100, generated_tokens=500, seconds=2.0)

    monkeypatch.setattr(generation, "_write_with_engine", by_rule)
    experiment = load(None, ["cost.prices=prices.yaml"], {"data": {"classes": ["negative", "positive"]}, "augment": {"model": "./model"}})
    generate(experiment, Path("out"), per_class=10)
    cost = json.loads(Path("out/dataset.json").read_text(encoding="utf-8"))["generated"]["cost"]
    assert (cost["predicted"]["texts"], cost["predicted"]["money"]) == (2 * TRIES, pytest.approx(money))
    assert (cost["real"]["texts"], cost["real"]["generated_tokens"], cost["real"]["money"]) == (24, 500, 0.5)
    assert main([*ask, "--dry-run"]) == 0 and "# nothing to do: out holds these texts" in capsys.readouterr().out


def story(prompts):
    from selftrain.texts.cache import Completion

    return {
        one: Completion("", one.document_id, one.kind, one.label, one.sample, f"A {one.label} text of {one.sample}.", False, 1, 1) for one in prompts
    }
