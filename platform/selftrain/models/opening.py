"""From the `model` section of an experiment to the encoder that it names."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from selftrain.config import ModelConfig
from selftrain.data.corpus import Corpus
from selftrain.errors import SelfTrainError
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.encoder import Encoder, TextEncoder
from selftrain.models.folders import check_model_folder, check_modules
from selftrain.models.frozen import HeadEncoder
from selftrain.models.images import ImageEncoder
from selftrain.models.precision import Precision, resolve
from selftrain.models.sources import BILSTM, IMAGE_ENCODERS, encoder_folder, fingerprint


def open_encoder(config: ModelConfig, corpus: Corpus, *, device: str = "cpu", precision: Precision = "float32") -> Encoder:
    """The encoder as it is before training.

    Args:
        config: what to open.
        corpus: what it will be trained on: an encoder without a vocabulary of its own takes that of the documents.
        device: where it computes.
        precision: of matrix products while training. Frozen embeddings are made in float32, for every run alike.

    Raises:
        SelfTrainError: the folder is no model, the name is not found, or it is no encoder of such documents, or has nothing pre-trained to freeze.
    """
    check_encoder(config, corpus)
    if config.encoder in IMAGE_ENCODERS:
        return ImageEncoder(
            config.encoder,
            corpus.unlabeled.texts,
            batch_size=config.batch_size,
            device=device,
            precision=resolve(precision, device),
        )
    normalize = config.similarity == "cosine"
    if config.encoder == BILSTM:
        words = vocabulary(corpus.unlabeled.texts, config.vocabulary)
        backbone = bilstm(words, word_dimensions=config.word_dimensions, hidden=config.hidden, device=device)
        return BiLSTMEncoder(backbone, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize)
    source = encoder_folder(config.encoder)
    backbone = _opened(source, device)
    if config.train == "head":
        kept = Path(config.cache) / fingerprint(source)
        return HeadEncoder(backbone, cache=kept, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize)
    return TextEncoder(
        backbone, max_tokens=config.max_tokens, batch_size=config.batch_size, normalize=normalize, precision=resolve(precision, device)
    )


def _opened(source: Path | str, device: str) -> SentenceTransformer:
    """A sentence encoder of modules that a bundle can hold.

    Raises:
        SelfTrainError: its folder names code, is damaged, or holds another kind of model.
    """
    if isinstance(source, Path):
        check_model_folder(source)
    try:
        backbone = SentenceTransformer(str(source), device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise SelfTrainError(
            f"model.encoder: {source} cannot be opened ({type(error).__name__}: {' '.join(str(error).split())[:200]}); name another encoder."
        ) from None
    check_modules([type(module).__name__ for module in backbone], f"model.encoder: {source}")
    return backbone


def located(config: ModelConfig) -> ModelConfig:
    """`config` with whole paths for its model folders: Ray workers run in folders of their own, where a relative one means nothing."""
    folders = {"encoder": config.encoder, "masked_lm": config.masked_lm}
    found = {key: str(Path(name).expanduser().absolute()) for key, name in folders.items() if name is not None and Path(name).expanduser().is_dir()}
    return config.model_copy(update=found)


def check_encoder(config: ModelConfig, corpus: Corpus) -> None:
    """Raise a `SelfTrainError` where the documents are images and the encoder reads texts, or the other way round, or there is nothing to freeze."""
    images, reads_images = corpus.kind == "image", config.encoder in IMAGE_ENCODERS
    if images and not reads_images:
        raise SelfTrainError(
            f"The documents of {corpus.name} are images, and model.encoder {config.encoder!r} does not read them; name one of {', '.join(IMAGE_ENCODERS)}."
        )
    if reads_images and not images:
        raise SelfTrainError(f"model.encoder {config.encoder!r} reads images, and the documents of {corpus.name} are texts; name a sentence encoder.")
    if images and config.train == "head":
        raise SelfTrainError(
            "model.train is 'head', which stands on a frozen encoder of texts; an encoder of images is trained whole: set model.train: full."
        )
    if config.encoder == BILSTM and config.train == "head":
        raise SelfTrainError("model.encoder bilstm starts from random weights, and model.train: head would freeze them; set model.train: full.")


def is_light(config: ModelConfig) -> bool:
    """Whether `open_encoder` would give a `light` one; said without opening it."""
    return config.train == "head" or config.encoder == BILSTM
