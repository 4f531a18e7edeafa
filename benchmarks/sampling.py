"""Drawing a token on a CPU, selftrain's way and vLLM's: `python benchmarks/sampling.py [--model gemma-3-270m] [--texts 64] [--turns 6] [--out FILE.csv]`.

One engine of vLLM in this process writes the same number of texts with each way to draw (`texts/engines/sampling.py`, `TopKTopPSampler.forward_cpu` of vLLM),
in turns, with temperature alone and with top-p .95. Wall time, because the engine has a thread for every core; `ratio` is our rate as a part of vLLM's, the
median of the turns with its quartiles.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from generation import prompts
from lines import tell

from selftrain.config import AugmentConfig
from selftrain.models.locate import language_model_of
from selftrain.texts.engines.vllm import engine_environment, engine_kwargs


def main() -> None:
    """A line for each kind of sampling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--texts", type=int, default=64, help="of a turn; the engine works on 32 at once")
    parser.add_argument("--tokens", type=int, default=12, help="of a text")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    config = AugmentConfig(model=options.model, gpus=0)
    os.environ.update(engine_environment(config))
    from vllm import LLM, SamplingParams
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    vllms = TopKTopPSampler.forward_cpu
    way: list[Any] = [vllms]  # the engine's sampler is bound when it is made, so this is what changes
    engine = LLM(model=str(language_model_of(config)), disable_log_stats=True, **engine_kwargs(config))
    ours = TopKTopPSampler.forward_cpu
    assert ours is not vllms, "vLLM did not load selftrain's plugin"
    sampler = engine.llm_engine.model_executor.driver_worker.model_runner.sampler.topk_topp_sampler
    sampler.forward = lambda *arguments: way[0](sampler, *arguments)
    number = 0

    def seconds(top_p: float) -> float:
        nonlocal number
        texts = [prompt.text for prompt in prompts(options.texts, options.tokens, number)]
        number += options.texts
        sampling = SamplingParams(temperature=0.8, top_p=top_p, min_tokens=options.tokens, max_tokens=options.tokens)
        started = time.perf_counter()
        engine.generate(texts, sampling, use_tqdm=False)
        return time.perf_counter() - started

    for top_p in (1.0, 0.95):
        seconds(top_p)
        taken: dict[Any, list[float]] = {ours: [], vllms: []}
        for turn in range(options.turns):
            for way[0] in (ours, vllms) if turn % 2 else (vllms, ours):
                taken[way[0]].append(seconds(top_p))
        low, middle, high = quantiles([their / our for our, their in zip(taken[ours], taken[vllms], strict=True)], n=4, method="inclusive")
        line = {
            "model": options.model,
            "top_p": top_p,
            "texts": options.texts,
            "tokens": options.tokens,
            "ours": round(options.texts / median(taken[ours]), 1),
            "vllm": round(options.texts / median(taken[vllms]), 1),
            "ratio": round(middle, 3),
            "q1": round(low, 3),
            "q3": round(high, 3),
            "n": options.turns,
            "load": round(os.getloadavg()[0], 1),
        }
        tell(line, options.out)


if __name__ == "__main__":
    main()
