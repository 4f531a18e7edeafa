"""A frozen encoder for many trainings of one process: opened, and its documents embedded, once."""

from __future__ import annotations

import copy

import torch

from selftrain.config import ModelConfig
from selftrain.data.corpus import Corpus
from selftrain.models.encoder import Encoder
from selftrain.models.open import open_encoder

_FROZEN: dict[tuple[str, str], Encoder] = {}


def open_shared_encoder(model: ModelConfig, corpus: Corpus) -> Encoder:
    """The encoder of `model.train: head`. It is opened once a process; copies share its frozen embeddings, and have a trained layer of their own.

    Random numbers are drawn as `open_encoder` draws them, so the weights that a method makes next are those of a run.

    Args:
        model: says which encoder.
        corpus: what the head will be trained on.
    """
    key = model.model_dump_json(), corpus.fingerprint
    if key not in _FROZEN:
        state = torch.get_rng_state()
        _FROZEN[key] = open_encoder(model, corpus)
        torch.set_rng_state(state)
    return copy.deepcopy(_FROZEN[key])
