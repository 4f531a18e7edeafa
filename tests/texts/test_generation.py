"""The folder that a generation leaves, as a data source; what it refuses. The language model is a rule, Ray is not started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selftrain.cli import main
from selftrain.config import DataConfig, load
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import SelfTrainError
from selftrain.texts.cache import Completion
from selftrain.texts.dataset import generation
from selftrain.texts.dataset.generation import NOT_TRUE, generate
from selftrain.texts.service import TextCounts


def story(prompts):
    def text(prompt):
        return (
            f"Film {prompt.sample}"
            if prompt.kind == "subject"
            else f"A {prompt.label} word on {prompt.text.split(chr(34))[1]} by critic {prompt.sample}."
        )

    return {prompt: Completion("", prompt.document_id, prompt.kind, prompt.label, prompt.sample, text(prompt), False, 1, 1) for prompt in prompts}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model folder that is never opened; what was generated with it is counted in the list that comes back."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    calls = []

    def by_rule(experiment, request):
        calls.append(request.settings)
        return generation.requested_texts(experiment, request, story), TextCounts()

    monkeypatch.setattr(generation, "_write_with_engine", by_rule)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    return calls


ASK = ["generate", "--per-class", "12", "--model", "./model", "--out", "generated/reviews"]


def ask(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([*ASK, *arguments]) == code
    said = capsys.readouterr()
    if code:
        assert said.err.startswith("selftrain: ") and len(said.err.strip().splitlines()) == 1
    return said.err if code else said.out


def test_the_folder_is_a_source_with_all_that_made_it(model, tmp_path, capsys):
    said = ask(capsys, "--data", "sst2", "--seed", "3")
    assert "12 negative, 12 positive in generated/reviews" in said and "--data generated/reviews" in said
    folder = tmp_path / "generated" / "reviews"
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "train.parquet"]
    assert [path.name for path in folder.parent.iterdir()] == ["reviews"]  # no scratch folder is left
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    assert len(rows) == 24 and [row["label"] for row in rows[:4]] == [0, 1, 0, 1]
    assert all(("negative", "positive")[row["label"]] in row["text"] for row in rows)
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert (facts["name"], facts["labels"], facts["splits"], facts["notes"]) == ("reviews", ["negative", "positive"], {"train": 24}, NOT_TRUE)
    asked = facts["generated"]["asked"]
    assert (asked["template"], asked["seed"], asked["per_class"]) == ("review", 3, 12)
    assert asked["prompts"]["subject"] == ['Movie: "'] and "{subject}" in asked["prompts"]["text"]["positive"]
    assert asked["model"] in facts["source"] and facts["generated"]["filtered"] == {"negative": {}, "positive": {}}


def test_a_generated_folder_is_trained_on_and_nothing_is_tested_on_it(model, tmp_path, capsys, monkeypatch):
    ask(capsys, "--data", "sst2")
    config = DataConfig(source="generated/reviews", supervision="all")
    corpus, truth = load_corpus(config)
    assert (len(corpus.unlabeled), len(corpus.test)) == (24, 0)
    assert corpus.labels[0].words == "bad"  # the catalogue's words for the classes of sst2
    assert len(grant(corpus, truth, config, 0).granted) == 24
    monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path / "generated"))
    assert load_corpus(DataConfig(source="reviews"))[0].fingerprint == corpus.fingerprint


def test_the_same_request_again_says_that_all_is_there(model, capsys):
    ask(capsys, "--data", "sst2")
    assert "nothing to do: 12 negative, 12 positive" in ask(capsys, "--data", "sst2")
    assert "nothing to do" in ask(capsys, "--classes", "negative,positive", "--template", "review")  # the same texts by another road
    assert len(model) == 1
    message = ask(capsys, "--data", "sst2", "--seed", "1", "--set", "augment.temperature=1", code=2)
    assert "generated with other seed and sampling" in message and len(model) == 1


def test_too_few_texts_are_said(model, capsys, monkeypatch):
    def poor(prompts):
        return {prompt: completion for prompt, completion in story(prompts).items() if prompt.label != "positive" or prompt.sample < 1}

    monkeypatch.setattr(
        generation, "_write_with_engine", lambda experiment, request: (generation.requested_texts(experiment, request, poor), TextCounts())
    )
    assert main([*ASK, "--data", "ag_news", "--classes", "sports,world", "--template", "text"]) == 0
    capsys.readouterr()
    assert main([*ASK[:-1], "other", "--classes", "negative,positive"]) == 0
    said = capsys.readouterr()
    assert "The tries were used up (5 a text) with 1 of 12 for positive." in said.err and "12 negative, 1 positive" in said.out
    assert json.loads(Path("other/dataset.json").read_text(encoding="utf-8"))["generated"]["filtered"]["positive"] == {"failed": 59}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--per-class", "0", "--data", "sst2"], "must be at least 1 (got 0)"),
        ([], "no classes to write for"),
        (["--classes", "negative"], "names 1 class; at least two"),
        (["--classes", "good,Good"], "twice"),
        (["--data", "sst3"], "did you mean 'sst2'"),
        (["--data", "ag_news", "--classes", "sports,weather"], "ag_news has no class 'weather'"),
        (["--data", "sst2", "--template", "reviews"], "did you mean 'review'"),
        (["--data", "sst2", "--model", "./none"], "no folder './none'"),
        (["--data", "sst2", "--out", "file.txt"], "must be a new folder (got the file 'file.txt')"),
        (["--data", "sst2", "--out", "full"], "'full' holds something else"),
        (["--data", "sst2", "--out", "set"], "'set' holds another data set; pass another"),
        (["--data", "sst2", "--out", "file.txt/below"], "cannot be written"),
        (["--data", "sst2", "--set", "method.tau=1"], "has no effect here"),
        (["--data", "sst2", "--set", "augment.temprature=1"], "did you mean 'temperature'"),
        (["--classes", "a,b", "--set", "data.descriptions={c: cats}"], "describes 'c'"),
    ],
)
def test_bad_input_gets_one_sentence(model, tmp_path, capsys, arguments, says):
    (tmp_path / "file.txt").write_text("a")
    for name, file in (("full", "notes.md"), ("set", "dataset.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert says in ask(capsys, *arguments, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_model_is_an_error_before_anything_starts(model, tmp_path):
    with pytest.raises(SelfTrainError, match="no language model to write the texts"):
        generate(load(), tmp_path / "out", per_class=1, named="sst2")


def test_a_folder_that_lost_its_texts(model, capsys):
    ask(capsys, "--data", "sst2")
    os.remove("generated/reviews/train.parquet")
    assert "has lost its train.parquet" in ask(capsys, "--data", "sst2", code=2)


def test_neither_ray_nor_torch_is_imported_to_refuse():
    code = (
        "import sys; from selftrain.cli import main; assert main(['generate', '--per-class', '1', '--out', 'x', '--classes', 'a,b']) == 2; "
        "print([name for name in ('ray', 'vllm', 'torch', 'mlflow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"
