"""What a model folder may name: modules of the libraries that open it, and no other code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selftrain.errors import BundleError
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
    """Check that an encoder's folder (not a bundle) names modules of sentence-transformers alone.

    Raises:
        BundleError: it names others.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return
    document = read_document(file)
    for entry in document if isinstance(document, list) else [None]:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or not kind.startswith(f"{_ST}."):
            raise BundleError(f"{file} names the module type {str(kind)[:100]!r}, which is not one of sentence-transformers; use another encoder.")


def check_modules(kinds: Iterable[str], where: str) -> None:
    """Check, before an encoder is trained, that a bundle can hold its modules.

    Args:
        kinds: class names of its modules.
        where: the encoder, for the error.

    Raises:
        BundleError: a bundle cannot hold one.
    """
    if odd := sorted(set(kinds) - set(MODULES.values())):
        raise BundleError(
            f"{where} has a module of the kind {odd[0]}, and a bundle holds only {', '.join(sorted(set(MODULES.values())))}; use another encoder."
        )


def read_document(file: Path) -> Any:
    """The JSON document in a file of a model.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return json_of(file.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged ({' '.join(str(error).split())[:150]}); write the bundle again.") from None


def _is_code(key: str, value: Any) -> bool:
    return bool((key in _CODE_KEYS and value) or (key in _KERNEL_KEYS and value not in _OWN_KERNELS) or (key.endswith("_file") and value))


def without_code(document: Any) -> Any:
    """A configuration without the keys that `check_keys` refuses: those of an encoder opened without them."""
    if isinstance(document, list):
        return [without_code(below) for below in document]
    if isinstance(document, dict):
        return {key: without_code(value) for key, value in document.items() if not _is_code(key, value)}
    return document


def check_keys(file: Path, document: Any) -> None:
    """Check a configuration of a bundle.

    Raises:
        BundleError: it holds a key that makes a library run, fetch or replace code, or a number that no model has.
    """
    if isinstance(document, list):
        for below in document:
            check_keys(file, below)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if _is_code(key, value):
            raise BundleError(f"{file} sets {key!r}, which can run code or open files of its own; a bundle holds data alone: write it again without.")
        if isinstance(value, int) and not isinstance(value, bool) and (abs(value) >= 1 << 62 or ("layers" in key and value > _LAYERS)):
            raise BundleError(f"{file} sets {key!r} to {str(value)[:30]}, more than any model has; write the bundle again.")
        check_keys(file, value)
