"""What a model folder may say, and what it may not: no configuration names code that is not of the libraries that open it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selftrain.errors import SelfTrainError
from selftrain.files.parsing import json_of

_ST = "sentence_transformers"
_WRITTEN = {
    f"{_ST}.base.modules.transformer.Transformer",
    f"{_ST}.base.modules.normalize.Normalize",
    f"{_ST}.base.modules.dense.Dense",
    f"{_ST}.sentence_transformer.modules.pooling.Pooling",
    f"{_ST}.sentence_transformer.modules.lstm.LSTM",
    f"{_ST}.sentence_transformer.modules.word_embeddings.WordEmbeddings",
    f"{_ST}.sentence_transformer.modules.static_embedding.StaticEmbedding",
    f"{_ST}.sentence_transformer.modules.layer_norm.LayerNorm",
    f"{_ST}.sentence_transformer.modules.dropout.Dropout",
}
MODULES = {name: name.rsplit(".", 1)[1] for name in _WRITTEN} | {
    f"{_ST}.models.{short}": short
    for short in (name.rsplit(".", 1)[1] for name in _WRITTEN)  # what versions before 6 called them
}
# Keys by which transformers and sentence-transformers are made to run, fetch or replace code.
_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "code_revision", "adapter_name_or_path"})
_KERNEL_KEYS = frozenset({"_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation"})
_OWN_KERNELS = (None, "eager", "sdpa")
_LAYERS = 1024


def check_model_folder(folder: Path) -> None:
    """Raise a `SelfTrainError` where a model folder that is no bundle, an encoder to start from, names modules of anybody else than sentence-transformers."""
    file = folder / "modules.json"
    if not file.is_file():
        return
    document = read_document(file)
    for entry in document if isinstance(document, list) else [None]:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or not kind.startswith(f"{_ST}."):
            raise SelfTrainError(f"{file} names the module type {str(kind)[:100]!r}, which is not one of sentence-transformers; use another encoder.")


def check_modules(kinds: Iterable[str], where: str) -> None:
    """Raise a `SelfTrainError` where an encoder is made of a module that a bundle cannot hold: before it is trained, and not when it is to be written.

    Args:
        kinds: class names of its modules.
        where: the encoder, for the error.
    """
    if odd := sorted(set(kinds) - set(MODULES.values())):
        raise SelfTrainError(
            f"{where} has a module of the kind {odd[0]}, and a bundle holds only {', '.join(sorted(set(MODULES.values())))}; use another encoder."
        )


def read_document(file: Path) -> Any:
    """The JSON document in a file of a model.

    Raises:
        SelfTrainError: it cannot be read.
    """
    try:
        return json_of(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise SelfTrainError(f"{file} is damaged ({' '.join(str(error).split())[:150]}); write the bundle again.") from None


def _is_code(key: str, value: Any) -> bool:
    return bool((key in _CODE_KEYS and value) or (key in _KERNEL_KEYS and value not in _OWN_KERNELS) or (key.endswith("_file") and value))


def without_code(document: Any) -> Any:
    """A configuration without the keys that `check_keys` refuses: those of an encoder that was opened without them."""
    if isinstance(document, list):
        return [without_code(below) for below in document]
    if isinstance(document, dict):
        return {key: without_code(value) for key, value in document.items() if not _is_code(key, value)}
    return document


def check_keys(file: Path, document: Any) -> None:
    """No key that makes a library run, fetch or replace code, and no number beyond sense."""
    if isinstance(document, list):
        for below in document:
            check_keys(file, below)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if _is_code(key, value):
            raise SelfTrainError(
                f"{file} sets {key!r}, by which it could have code or files of its own used; a bundle holds data alone: write it again without."
            )
        if isinstance(value, int) and not isinstance(value, bool) and (abs(value) >= 1 << 62 or ("layers" in key and value > _LAYERS)):
            raise SelfTrainError(f"{file} sets {key!r} to {str(value)[:30]}, beyond what any model has; write the bundle again.")
        check_keys(file, value)
