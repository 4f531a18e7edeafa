"""From the `model` section of an experiment to the encoder that it names."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers import SentenceTransformer

from selftrain.config import ModelConfig
from selftrain.data.corpus import Corpus
from selftrain.models.encoder import Encoder, TextEncoder
from selftrain.models.frozen import HeadEncoder
from selftrain.models.precision import Precision, resolve
from selftrain.models.sources import encoder_folder, fingerprint


def open_encoder(config: ModelConfig, corpus: Corpus, *, device: str = "cpu", precision: Precision = "float32") -> Encoder:
    """The encoder as it is before training.

    Args:
        config: what to open.
        corpus: what it will be trained on: an encoder without a vocabulary of its own takes that of the documents.
        device: where it computes.
        precision: of matrix products while training. Frozen embeddings are made in float32, for every run alike.

    Raises:
        UserError: the folder is no model, or the name is not found.
    """
    source = encoder_folder(config.encoder)
    backbone = SentenceTransformer(str(source), device=device)
    normalize = config.similarity == "cosine"
    if config.train == "head":
        kept = Path(config.cache) / fingerprint(source)
        return HeadEncoder(backbone, cache=kept, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize)
    return TextEncoder(
        backbone, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize, precision=resolve(precision, device)
    )
