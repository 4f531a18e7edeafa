"""How fast texts go through the whole path: `python benchmarks/generation.py [--texts 20000] [--replicas 1,2] [--model NAME] [--turns N] [--out FILE.csv]`.

From `open_texts(...).complete(prompts)` in a driver through Ray, the text service, its cache on the disk and Serve's handles to engines and back. **By default the
engine is a stub**, in a package of vLLM's name that the replicas find first: what is measured is everything but vLLM, and none of these rates is that of a language
model. The stub answers at once, or with `--step-ms` takes so long for a token of all texts that it works on, as a GPU does (sleeping, so that more replicas than
cores can be tried).

`--most N` lets the stubs become N while prompts wait: seconds until so many are there, texts a second before and after, and seconds from the last text until one
stub is left (a file of its own, docs/results/scaling.csv, because nothing is asked for before the clock starts).

With `--model` (for instance gemma-3-270m) vLLM writes, through the whole path and by itself (`vllm.LLM.generate` in a process of its own, the same prompts, the
same arguments of the engine), there without selftrain's plugin, which draws tokens faster on a CPU; `--plugin` gives it to both, and the share says what the path
alone costs. `--texts` of each side are written in `--turns` turns, one side after the other, because the speed of a machine can change by half
within minutes: both engines stay in memory, and every pair of turns gives a share, our rate as a part of vLLM's. Ray's processes are there while vLLM writes by
itself. The processor time that they take then is `idle_cores`; as a part of one core it is the most that vLLM can have lost by it, and `share_at_least` is the
median share less that.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
from lines import tell

from selftrain.config import AugmentConfig, Experiment
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.models.locate import language_model_of
from selftrain.runtime.background import Call
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
ANSWER = "seconds: "  # a line of the process in which vLLM writes by itself
COMPARED = ("plugin", "texts_per_second", "vllm_alone", "share", "q1", "q3", "n", "idle_cores", "share_at_least")
Turn = Callable[[int, int], float]
DOCUMENT = "The northern team won its match on Monday after a late goal by the captain, and the coach said that the league was still open, number {}."


def corpus() -> Corpus:
    """What the service wants to know of documents: prompts are complete here."""
    return Corpus("prompts", (Label("a", "a", "a"), Label("b", "b", "b")), ("{label}",), Documents(("x",), ("a document",)), Documents())


def prompts(count: int, tokens: int, first: int = 0) -> list[Prompt]:
    """Different prompts of some 30 tokens."""
    sampling = Sampling(0.8, tokens, tokens)
    return [Prompt(f"Continue the text: {DOCUMENT.format(number)}", str(number), "input", "", 0, sampling) for number in range(first, first + count)]


@contextmanager
def whole_path(config: AugmentConfig, model: Any, tokens: int) -> Iterator[Turn]:
    """Open the path; a turn is the seconds for `count` prompts from number `first` on."""
    with (
        session(Experiment(), Needs(1.0 + config.replicas_at_most, 0.0, 1.0)),
        open_texts(config, corpus(), model, model_fingerprint="measured", progress=False) as texts,
    ):
        texts.complete([replace(prompt, document_id=f"first {prompt.document_id}", sample=9) for prompt in prompts(4 * config.replicas, tokens)])

        def turn(count: int, first: int) -> float:
            asked = prompts(count, tokens, first)
            started = time.perf_counter()
            found = texts.complete(asked)
            assert len(found) == count
            return time.perf_counter() - started

        yield turn


def running() -> int:
    """Replicas that Serve sends prompts to."""
    from ray import serve

    deployments = [one for application in serve.status().applications.values() for one in application.deployments.values()]
    return sum(one.replica_states.get("RUNNING", 0) for one in deployments)


def growing(config: AugmentConfig, model: Any, count: int, tokens: int) -> dict[str, Any]:
    """Texts while engines become more, and how long it takes until they are all there, and until one is left."""
    with (
        session(Experiment(), Needs(1.0 + config.replicas_at_most, 0.0, 1.0)),
        open_texts(config, corpus(), model, model_fingerprint="measured", progress=False) as texts,
    ):
        texts.complete([replace(prompt, sample=9) for prompt in prompts(4, tokens)])
        started, seen = time.perf_counter(), [(0.0, 0, running())]  # seconds, texts, replicas
        call = Call(lambda: texts.complete(prompts(count, tokens, 1_000)), "measured")
        while not call.ended(1.0):
            state = texts.progress()
            assert state is not None
            seen.append((time.perf_counter() - started, state.done, running()))
            print(*seen[-1], file=sys.stderr, flush=True)
        assert len(call.result()) == count
        over = time.perf_counter()
        while running() > config.replicas:
            time.sleep(1.0)
        left = time.perf_counter() - over
    few = [one for one in seen if one[2] == config.replicas]
    all_there = [one for one in seen if one[2] == config.replicas_at_most and one[1]]
    assert len(few) > 1 and len(all_there) > 1, "too few texts: they were written before all replicas were there"

    def rate(first: tuple[float, int, int], last: tuple[float, int, int]) -> float:
        return round((last[1] - first[1]) / (last[0] - first[0]), 1)

    return {
        "seconds_to_most": round(all_there[0][0], 1),
        "texts_per_second_before": rate(few[0], few[-1]),
        "texts_per_second_with_most": rate(all_there[0], all_there[-1]),
        "seconds_to_few": round(left, 1),
    }


@contextmanager
def by_itself(config: AugmentConfig, model: Any, tokens: int, plugin: bool) -> Iterator[tuple[Turn, int]]:
    """vLLM in a process of its own, and that process's number."""
    environment = os.environ | engine_environment(config) | ({} if plugin else {"VLLM_PLUGINS": "none"})
    command = [sys.executable, __file__, "--alone", str(model), "--tokens", str(tokens), "--concurrent", str(config.requests_at_once)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        asked, answers = process.stdin, process.stdout

        def turn(count: int, first: int) -> float:
            print(count, first, file=asked, flush=True)
            while line := answers.readline():
                if line.startswith(ANSWER):
                    return float(line.removeprefix(ANSWER))
            raise SystemExit("vLLM ended; what it printed says why.")

        turn(4, 0)
        yield turn, process.pid
        asked.close()


def answer_turns(config: AugmentConfig, model: str, tokens: int) -> None:
    """What the process of `by_itself` does."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=model, disable_log_stats=True, **engine_kwargs(config))
    sampling = SamplingParams(**prompts(1, tokens)[0].sampling.options())
    for line in sys.stdin:
        count, first = map(int, line.split())
        texts = [prompt.text for prompt in prompts(count, tokens, first)]
        started = time.perf_counter()
        engine.generate(texts, sampling, use_tqdm=False)
        print(f"{ANSWER}{time.perf_counter() - started}", flush=True)


def processor_seconds(without: int) -> float:
    """Of this process and all that it started, but for one and its own."""
    this = psutil.Process()
    left_out = {without} | {child.pid for child in psutil.Process(without).children(recursive=True)}
    seconds = 0.0
    for process in [this, *this.children(recursive=True)]:
        if process.pid not in left_out:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
    return seconds


def compared(config: AugmentConfig, model: Any, count: int, tokens: int, turns: int, plugin: bool) -> dict[str, Any]:
    """The whole path and vLLM by itself in turns; the columns of the result."""
    ours, theirs, idle = [], [], []
    of_a_turn = count // turns
    with whole_path(config, model, tokens) as path, by_itself(config, model, tokens, plugin) as (vllm, pid):

        def theirs_once(first: int) -> None:
            before, started = processor_seconds(pid), time.perf_counter()
            theirs.append(vllm(of_a_turn, first))
            idle.append((processor_seconds(pid) - before) / (time.perf_counter() - started))

        for number in range(turns):
            first = 1_000 + number * of_a_turn
            if number % 2:
                theirs_once(first)
            ours.append(path(of_a_turn, first))
            if not number % 2:
                theirs_once(first)
            print(f"turn {number + 1}: {of_a_turn / ours[-1]:.1f} and {of_a_turn / theirs[-1]:.1f} texts a second", file=sys.stderr, flush=True)
    low, middle, high = quantiles([their / our for our, their in zip(ours, theirs, strict=True)], n=4, method="inclusive")
    cores = sum(idle) / len(idle)
    return {
        "plugin": "both" if plugin else "ours",
        "texts_per_second": round(turns * of_a_turn / sum(ours), 1),
        "vllm_alone": round(turns * of_a_turn / sum(theirs), 1),
        "share": round(middle, 3),
        "q1": round(low, 3),
        "q3": round(high, 3),
        "n": turns,
        "idle_cores": round(cores, 3),
        "share_at_least": round(middle * (1 - cores), 3),
    }


def scaled(config: AugmentConfig, model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The line of a measurement with --most."""
    asked = {"replicas": config.replicas, "most_replicas": config.most_replicas, "texts": options.texts, "tokens": options.tokens}
    result = growing(config, model, options.texts, options.tokens)
    return asked | {"concurrent_requests": options.concurrent, "step_ms": options.step_ms} | result | {"load": round(os.getloadavg()[0], 1)}


def main() -> None:
    """One line for each number of replicas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=12, help="of a text")
    parser.add_argument("--replicas", default="1,2")
    parser.add_argument("--most", type=int, help="augment.most_replicas, with the stub and --step-ms")
    parser.add_argument("--concurrent", type=int, default=64, help="augment.concurrent_requests")
    parser.add_argument(
        "--step-ms", type=float, default=0, help="of the stub: for a token of all texts that it works on; default: it answers at once"
    )
    parser.add_argument("--model", help="a language model for the real engine; default: the stub")
    parser.add_argument("--turns", type=int, default=8, help="with --model: of each side")
    parser.add_argument("--plugin", action="store_true", help="with --model: vLLM by itself has selftrain's plugin, too")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = AugmentConfig(model=options.model or "stub", gpus=0, concurrent_requests=options.concurrent)
    if options.alone:
        answer_turns(config, options.alone, options.tokens)
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
        for number, replicas in enumerate(int(one) for one in options.replicas.split(",")):
            changed = config.model_copy(update={"replicas": replicas, "cache": f"{folder}/texts-{number}"})
            if options.most:
                tell(scaled(changed.model_copy(update={"most_replicas": options.most}), model, options), options.out)
                continue
            if options.model:
                result = compared(changed, model, options.texts, options.tokens, options.turns, options.plugin)
            else:
                with whole_path(changed, model, options.tokens) as path:
                    result = {"texts_per_second": round(options.texts / path(options.texts, 0), 1)}
            line = {
                "engine": options.model or "stub",
                "replicas": replicas,
                "texts": options.texts,
                "tokens": options.tokens,
                "concurrent_requests": options.concurrent,
                "step_ms": "" if options.model else options.step_ms,
                **dict.fromkeys(COMPARED, ""),
                **result,
                "load": round(os.getloadavg()[0], 1),
            }
            tell(line, options.out)


if __name__ == "__main__":
    main()
