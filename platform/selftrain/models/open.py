"""From the `model` section of an experiment to the encoder that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from selftrain.config import ModelConfig
from selftrain.data.corpus import Corpus
from selftrain.errors import BundleError, ConfigError
from selftrain.models.allowlist import check_model_folder, check_modules
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.cnn import ImageEncoder
from selftrain.models.encoder import Encoder, TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.models.locate import BILSTM, IMAGE_ENCODERS, contents_fingerprint, encoder_folder
from selftrain.models.precision import Precision, resolve_precision

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer


def open_encoder(config: ModelConfig, corpus: Corpus, *, device: str = "cpu", precision: Precision = "float32") -> Encoder:
    """The encoder as it is before training.

    Args:
        config: what to open.
        corpus: what it is trained on; an encoder without a vocabulary takes that of the documents.
        device: where it computes.
        precision: of matrix products while training. Frozen embeddings are made in float32, for every run alike.

    Raises:
        ConfigError: the name is not found, or it is not an encoder of such documents, or has nothing pre-trained to freeze.
        BundleError: the folder is not a model, or not one that a bundle can hold.
    """
    check_encoder(config, corpus)
    if config.encoder in IMAGE_ENCODERS:
        return ImageEncoder(
            config.encoder, corpus.unlabeled.contents, batch_size=config.batch_size, device=device, precision=resolve_precision(precision, device)
        )
    normalize = config.similarity == "cosine"
    if config.encoder == BILSTM:
        words = vocabulary(corpus.unlabeled.contents, config.vocabulary)
        backbone = bilstm(words, word_dimensions=config.word_dimensions, hidden=config.hidden, device=device)
        return BiLSTMEncoder(backbone, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize)
    source = encoder_folder(config.encoder)
    backbone = _opened(source, device)
    if config.train == "head":
        kept = Path(config.cache) / f"{contents_fingerprint(source)}-{config.similarity}"
        return HeadEncoder(
            backbone, cache=kept, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize, windows=config.windows
        )
    return TextEncoder(
        backbone,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        normalize=normalize,
        precision=resolve_precision(precision, device),
        windows=config.windows,
    )


def _opened(source: Path | str, device: str) -> SentenceTransformer:
    """A sentence encoder of modules that a bundle can hold.

    Raises:
        BundleError: its folder names code, is damaged, or holds another kind of model.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(source, Path):
        check_model_folder(source)
    try:
        backbone = SentenceTransformer(str(source), device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"model.encoder: {source} cannot be opened ({type(error).__name__}: {' '.join(str(error).split())[:200]}); use another encoder.",
            parameter="model.encoder",
        ) from None
    check_modules([type(module).__name__ for module in backbone], f"model.encoder: {source}")
    return backbone


def located(config: ModelConfig) -> ModelConfig:
    """`config` with absolute paths of its model folders, since Ray workers run in other working directories."""
    folders = {"encoder": config.encoder, "masked_lm": config.masked_lm}
    found = {key: str(Path(name).expanduser().absolute()) for key, name in folders.items() if name is not None and Path(name).expanduser().is_dir()}
    return config.model_copy(update=found)


def check_encoder(config: ModelConfig, corpus: Corpus) -> None:
    """Check that the encoder reads such documents, and has pre-trained weights where `model.train` freezes them.

    Raises:
        ConfigError: it does not, or has none.
    """
    images, reads_images = corpus.kind == "image", config.encoder in IMAGE_ENCODERS
    if images and not reads_images:
        raise ConfigError(
            f"model.encoder must be one of {', '.join(IMAGE_ENCODERS)}: the documents of {corpus.name} are images (got {config.encoder!r}).",
            parameter="model.encoder",
        )
    if reads_images and not images:
        raise ConfigError(
            f"model.encoder must be a sentence encoder: the documents of {corpus.name} are texts (got {config.encoder!r}, which reads images).",
            parameter="model.encoder",
        )
    if images and config.train == "head":
        raise ConfigError(
            "model.train must be 'full': an encoder of images has no pre-trained weights to freeze (got 'head').", parameter="model.train"
        )
    if config.windows > 1 and (images or config.encoder == BILSTM):
        raise ConfigError(
            f"model.windows must be 1: model.encoder {config.encoder} has no windows (got {config.windows}); "
            + ("an image is read whole." if images else "a larger model.max_tokens costs it no more a word."),
            parameter="model.windows",
        )
    if config.encoder == BILSTM and config.train == "head":
        raise ConfigError(
            "model.train must be 'full': model.encoder bilstm starts from random weights (got 'head', which freezes them).", parameter="model.train"
        )


def is_light(config: ModelConfig) -> bool:
    """Whether `open_encoder` returns a `light` encoder; nothing is opened."""
    return config.train == "head" or config.encoder == BILSTM
