"""What vLLM is started with on a CPU and on GPUs."""

from __future__ import annotations

import os
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.models.precision import fast_cpu_dtype


def engine_kwargs(config: AugmentConfig) -> dict[str, Any]:
    """Arguments of the engine."""
    kwargs: dict[str, Any] = {
        "dtype": resolve_dtype(config),
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": config.concurrent_requests,
        "seed": config.engine_seed,
        "enable_prefix_caching": True,  # the samples of a document share its prompt
        "generation_config": "vllm",  # what a request leaves open is vLLM's neutral value, not the model's own taste
    }
    if config.gpus == 0:
        kwargs["enforce_eager"] = True  # compiling takes longer than a small run generates
        kwargs["kv_cache_memory_bytes"] = int(config.engine_memory_gb * 2**30)
    else:
        kwargs["tensor_parallel_size"] = config.gpus
    return kwargs


def engine_environment(config: AugmentConfig) -> dict[str, str]:
    """Environment of the vLLM processes; threads are bound by hand, since vLLM's `auto` leaves cores of a small machine idle.

    Ray's state and logs show it, so that it holds no token of a hub.

    On a CPU the engine core runs the model itself: a worker process of its own costs 0.7 GB and wins nothing. vLLM allows that with
    VLLM_ENABLE_V1_MULTIPROCESSING=0 alone, and takes its threads from OMP_NUM_THREADS then (Ray sets that to 1).
    """
    environment = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME") if name in os.environ}
    if config.gpus == 0:
        environment |= {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return environment | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def resolve_dtype(config: AugmentConfig) -> str:
    """`auto` made concrete on a CPU; a GPU's is left to vLLM, which follows the model."""
    return config.dtype if config.dtype != "auto" or config.gpus else fast_cpu_dtype()
