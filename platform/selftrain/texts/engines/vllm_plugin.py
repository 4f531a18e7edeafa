"""A plugin of vLLM (entry point `vllm.general_plugins` in pyproject.toml) that makes the engine smaller and faster on a CPU.

Gemma 3 shares the weight of its 262,144 token embeddings with its output layer. vLLM 0.32 keeps two modules around the one tensor, and on a CPU each of them
is packed anew for oneDNN: 640 MiB in float32 that nobody reads. Here the output layer is the embedding itself; nothing else of the model changes.

Reading a tokenizer of that size and packing weights leave another 400 MiB that the two processes of the engine no longer use: they are given back.

Tokens are drawn as `sampling` does it.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm import ModelRegistry
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.platforms import current_platform
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from selftrain.runtime.memory import keep_trimming
from selftrain.texts.engines.sampling import draw

TRIM_SECONDS = 10.0


class OneEmbeddingGemma3(Gemma3ForCausalLM):
    """Gemma 3, text only; see the module's docstring."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.config.tie_word_embeddings:
            self.lm_head = self.model.embed_tokens


_vllms_own = TopKTopPSampler.forward_cpu


def _sample(
    self: Any, logits: torch.Tensor, generators: dict[int, torch.Generator], k: torch.Tensor | None, p: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`TopKTopPSampler.forward_cpu`; requests with a seed of their own, or that want probabilities back, are left to vLLM."""
    if generators or self.use_fp64_gumbel or self.logprobs_mode in ("processed_logits", "processed_logprobs"):
        sampled: tuple[torch.Tensor, torch.Tensor | None] = _vllms_own(self, logits, generators, k, p)
        return sampled
    return draw(logits, k, p), None


def register() -> None:
    """Called by every process of vLLM before it builds a model."""
    ModelRegistry.register_model("Gemma3ForCausalLM", OneEmbeddingGemma3)
    if current_platform.is_cpu():
        keep_trimming(TRIM_SECONDS)
        TopKTopPSampler.forward_cpu = _sample
