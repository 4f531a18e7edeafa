"""How fast texts go through the whole path: `python benchmarks/generation.py [--texts 20000] [--replicas 1,2] [--model NAME] [--repeats N] [--out FILE.csv]`.

From `open_texts(...).complete(prompts)` in a driver through Ray, the text service, its cache on the disk and Serve's handles to engines and back. **By default the
engine is a stub**, in a package of vLLM's name that the replicas find first: what is measured is everything but vLLM, and none of these rates is that of a language
model. The stub answers at once, or with `--step-ms` takes so long for a token of all texts that it works on, as a GPU does (sleeping, so that more replicas than
cores can be tried). With `--model` (for instance gemma-3-270m) vLLM writes, once through the whole path and once alone in this process (`vllm.LLM.generate`, the
same prompts, the same arguments of the engine), one after the other; `share` is the first rate as a part of the second's. A machine whose speed changes within
minutes needs several `--repeats`, a line each.

The clock starts when the first text is there (a few are asked for before), so no engine's start counts. Rates depend on what else the machine does; the load
average is in the result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lines import tell

from selftrain.config import AugmentConfig, Experiment
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.models.locate import language_model_of
from selftrain.runtime.cluster import Needs, session
from selftrain.texts.channel import open_texts
from selftrain.texts.engines.vllm import engine_environment, engine_kwargs
from selftrain.texts.prompts import Prompt, Sampling

STUB = """
import os
import time
from types import SimpleNamespace

class EngineArgs:
    def __init__(self, max_num_seqs, **_):
        self.max_num_seqs = max_num_seqs

class SamplingParams:
    def __init__(self, max_tokens, **_):
        self.max_tokens = max_tokens

class LLMEngine:
    @classmethod
    def from_engine_args(cls, args):
        engine = cls()
        engine.most, engine.waiting = args.max_num_seqs, []
        engine.pause = float(os.environ["STUB_STEP_MS"]) / 1000
        return engine

    def get_tokenizer(self):
        return SimpleNamespace(bos_token=None)

    def add_request(self, id, prompt, sampling):
        self.waiting.append([sampling.max_tokens if self.pause else 1, id, prompt, sampling.max_tokens])

    def step(self):
        running = self.waiting[: self.most]
        time.sleep(self.pause)
        for one in running:
            one[0] -= 1
        self.waiting = [one for one in self.waiting if one[0]]
        return [
            SimpleNamespace(
                request_id=id,
                finished=True,
                prompt_token_ids=[1] * 60,
                outputs=[SimpleNamespace(text=f"It went on after {prompt[-20:]}", token_ids=[1] * tokens)],
            )
            for left, id, prompt, tokens in running
            if not left
        ]
"""
DOCUMENT = "The northern team won its match on Monday after a late goal by the captain, and the coach said that the league was still open, number {}."


def corpus() -> Corpus:
    """What the service wants to know of documents: prompts are complete here."""
    return Corpus("prompts", (Label("a", "a", "a"), Label("b", "b", "b")), ("{label}",), Documents(("x",), ("a document",)), Documents())


def prompts(count: int, tokens: int) -> list[Prompt]:
    """Different prompts of some 30 tokens."""
    sampling = Sampling(0.8, tokens, tokens)
    return [Prompt(f"Continue the text: {DOCUMENT.format(number)}", str(number), "input", "", 0, sampling) for number in range(count)]


def through_the_path(config: AugmentConfig, model: Any, count: int, tokens: int) -> float:
    """Seconds."""
    with (
        session(Experiment(), Needs(1.0 + config.replicas, 0.0, 1.0)),
        open_texts(config, corpus(), model, model_fingerprint="measured", progress=False) as texts,
    ):
        texts.complete([replace(prompt, document_id=f"first {prompt.document_id}", sample=9) for prompt in prompts(4 * config.replicas, tokens)])
        started = time.perf_counter()
        found = texts.complete(prompts(count, tokens))
        seconds = time.perf_counter() - started
    assert len(found) == count
    return seconds


def alone(config: AugmentConfig, model: Any, count: int, tokens: int) -> float:
    """Seconds of vLLM by itself, in a process of its own."""
    environment = os.environ | engine_environment(config)
    command = [
        sys.executable,
        __file__,
        "--alone",
        str(model),
        "--texts",
        str(count),
        "--tokens",
        str(tokens),
        "--concurrent",
        str(config.concurrent_requests),
    ]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def by_vllm(config: AugmentConfig, model: str, count: int, tokens: int) -> float:
    """The same in this process."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=model, disable_log_stats=True, **engine_kwargs(config))
    sampling = SamplingParams(**prompts(1, tokens)[0].sampling.options())
    texts = [prompt.text for prompt in prompts(count, tokens)]
    engine.generate(texts[:4], sampling, use_tqdm=False)
    started = time.perf_counter()
    engine.generate(texts, sampling, use_tqdm=False)
    return time.perf_counter() - started


def main() -> None:
    """One line for each number of replicas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=12, help="of a text")
    parser.add_argument("--replicas", default="1,2")
    parser.add_argument("--concurrent", type=int, default=64, help="augment.concurrent_requests")
    parser.add_argument(
        "--step-ms", type=float, default=0, help="of the stub: for a token of all texts that it works on; default: it answers at once"
    )
    parser.add_argument("--model", help="a language model for the real engine; default: the stub")
    parser.add_argument("--repeats", type=int, default=1, help="measurements, one after the other")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = AugmentConfig(model=options.model or "stub", gpus=0, concurrent_requests=options.concurrent)
    if options.alone:
        print(by_vllm(config, options.alone, options.texts, options.tokens))
        return
    with tempfile.TemporaryDirectory(prefix="generation-") as folder:
        model: Any = Path(folder)
        if options.model:
            model = language_model_of(config)
        else:
            (Path(folder) / "vllm").mkdir()
            (Path(folder) / "vllm" / "__init__.py").write_text(STUB, encoding="utf-8")
            (Path(folder) / "vllm" / "sampling_params.py").write_text(
                "StructuredOutputsParams = dict\n\nclass RequestOutputKind:\n    FINAL_ONLY = 2\n", encoding="utf-8"
            )
            os.environ["STUB_STEP_MS"] = str(options.step_ms)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
            sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
            from tiny import tiny_language_model

            model = tiny_language_model(Path(folder) / "model")
        for number, replicas in enumerate([int(one) for one in options.replicas.split(",")] * options.repeats):
            changed = config.model_copy(update={"replicas": replicas, "cache": f"{folder}/texts-{number}"})
            seconds = through_the_path(changed, model, options.texts, options.tokens)
            bare = alone(changed, model, options.texts, options.tokens) if options.model and replicas == 1 else None
            line = {
                "engine": options.model or "stub",
                "replicas": replicas,
                "texts": options.texts,
                "tokens": options.tokens,
                "concurrent_requests": options.concurrent,
                "step_ms": "" if options.model else options.step_ms,
                "texts_per_second": round(options.texts / seconds, 1),
                "vllm_alone": round(options.texts / bare, 1) if bare else "",
                "share": round(bare / seconds, 3) if bare else "",
                "load": round(os.getloadavg()[0], 1),
            }
            tell(line, options.out)


if __name__ == "__main__":
    main()
