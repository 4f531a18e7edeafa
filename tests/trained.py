"""Training in a test: what the tests of several methods do with a method of theirs."""

from __future__ import annotations

import copy
from typing import Any

import torch

from selftrain.data.texts import no_texts
from selftrain.methods.base import Method
from selftrain.training.loop import Fitted, train


def run(method: Method, seed: int = 0, **more: Any) -> tuple[Fitted, list[dict[str, Any]]]:
    """Train without a language model: what `train` returns, and the state after every round."""
    states: list[dict[str, Any]] = []
    history = train(method, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=seed, **more)
    return history, states


def tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    """Every tensor of a state that may hold dictionaries, in the order of its keys."""
    return [
        value for key in sorted(state) for value in (tensors(state[key]) if isinstance(state[key], dict) else [state[key]]) if torch.is_tensor(value)
    ]
