"""The checks that a bundle, which may come from anyone, passes before anything of it is opened or imported.

A bundle is data, and stays data: only files and modules of the kinds that `write_bundle` writes are opened; no configuration may name code; weights are as large
as their headers say; and files are those that the card lists, where it lists them (older cards do not, and their bundles pass all other checks).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrain.errors import BundleError
from selftrain.files.parsing import json_of
from selftrain.models.allowlist import MODULES, check_keys, read_document

_MB = 1 << 20
CARD, PROTOTYPES, REFERENCE = "selftrain.json", "prototypes.safetensors", "reference.safetensors"
# Root files -> bytes at most; None: as large as its header says. The largest tokenizers there are, of 262,144 tokens, take 33 MB.
FILES: dict[str, int | None] = {
    CARD: 16 * _MB, PROTOTYPES: None, REFERENCE: 64 * _MB, "README.md": 16 * _MB, "MLmodel": _MB, "registered_model_meta": _MB, "backend.json": _MB,
    "modules.json": _MB, "config_sentence_transformers.json": _MB, "sentence_bert_config.json": _MB, "config.json": _MB, "generation_config.json": _MB,
    "model.safetensors": None, "model.safetensors.index.json": 16 * _MB,
    "tokenizer.json": 64 * _MB, "tokenizer_config.json": 16 * _MB, "special_tokens_map.json": _MB, "added_tokens.json": 16 * _MB, "chat_template.jinja": _MB,
    "vocab.txt": 64 * _MB, "vocab.json": 64 * _MB, "merges.txt": 64 * _MB,
    "sentencepiece.bpe.model": 64 * _MB, "spiece.model": 64 * _MB, "tokenizer.model": 64 * _MB,
    "wordembedding_config.json": _MB, "whitespacetokenizer_config.json": 64 * _MB,
}  # fmt: skip
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_FOLDER = re.compile(r"\d{1,2}_[A-Za-z]{1,40}")  # of a module behind the first
_IN_FOLDER: dict[str, int | None] = {"config.json": _MB, "lstm_config.json": _MB, "model.safetensors": None}
_GRAPHS: dict[str, int | None] = {"model.onnx": None, "model_int8.onnx": None, "tokenizer.json": 64 * _MB}
_LATER = frozenset(
    {CARD, REFERENCE, "README.md", "MLmodel", "registered_model_meta", "backend.json"}
)  # not among the card's files: added, edited or removed later
_MOST_FILES = 200

_ST = "sentence_transformers"
_TOKENIZERS = tuple(f"{_ST}.{place}.WhitespaceTokenizer" for place in ("sentence_transformer.modules.tokenizer.whitespace", "models.tokenizer"))
_ACTIVATIONS = re.compile(r"torch\.nn\.modules\.(activation\.(Tanh|ReLU|GELU|SiLU|Sigmoid|LeakyReLU|ELU)|linear\.Identity)")
_TRANSFORMER_KEYS = frozenset({"transformer_task", "modality_config", "module_output_name", "max_seq_length", "do_lower_case", "unpad_inputs"})

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_HEADER_BYTES = 16 * _MB
Header = dict[str, tuple[str, tuple[int, ...]]]  # tensor -> (type, shape)


def check_bundle(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise a `BundleError` unless the bundle in `folder` holds nothing but what a bundle holds.

    Args:
        folder: of the bundle.
        hashes: file -> SHA-256, from its card; empty for a bundle from before cards listed them.
    """
    files = _files(folder)
    for name in (PROTOTYPES, "modules.json"):
        if name not in files:
            raise BundleError(f"{folder / name} is missing; write the bundle again.")
    if hashes:
        _check_hashes(folder, files, hashes)
    headers = {name: read_header(folder / name) for name in files if name.endswith(".safetensors")}
    # backend.json is validated where a graph is opened (bundle/backends.py); PyTorch opens none.
    named = [name for name in files if name.endswith(".json") and not name.endswith("tokenizer.json") and name not in (CARD, "backend.json")]
    documents = {name: read_document(folder / name) for name in named}
    for name, document in documents.items():
        check_keys(folder / name, document)
    kinds = _modules(folder, documents["modules.json"])
    _check_settings(folder, documents)
    _check_index(folder, documents.get("model.safetensors.index.json"))
    for path, kind in kinds.items():
        _check_module(folder, path, kind, documents, headers)


def _files(folder: Path) -> dict[str, int]:
    """Every file -> its size."""
    found: dict[str, int] = {}
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        for name in (*folders, *names):
            if (Path(place) / name).is_symlink():
                raise BundleError(f"{Path(place) / name} is a link, which a bundle must not hold; copy the bundle with its files (cp -rL).")
        if inside != Path() and (len(inside.parts) > 1 or not (inside.name == "onnx" or _FOLDER.fullmatch(inside.name))):
            raise BundleError(f"{place} is not a folder of a bundle; remove it, or write the bundle again.")
        allowed = FILES if inside == Path() else _GRAPHS if inside.name == "onnx" else _IN_FOLDER
        for name in names:
            file = Path(place) / name
            if name not in allowed and not (inside == Path() and _SHARD.fullmatch(name)):
                raise BundleError(f"{file} is not a file of a bundle; remove it, or write the bundle again.")
            size, most = file.stat().st_size, allowed.get(name)
            if not file.is_file() or (most is not None and size > most):
                raise BundleError(f"{file} must have at most {most or 0:,} bytes (got {size:,}); write the bundle again.")
            found[(inside / name).as_posix()] = size
            if len(found) > _MOST_FILES:
                raise BundleError(f"{folder} has more than {_MOST_FILES} files, where a bundle has a few dozen; write it again.")
    return found


def hashes_of(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what a card lists."""
    return {name: _sha256(folder / name) for name in sorted(_files(folder)) if name not in _LATER and not name.startswith("onnx/")}


def fingerprint_of(folder: Path) -> str:
    """What tells bundles apart that compute something else."""
    return hashlib.sha256(json.dumps(hashes_of(folder)).encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_hashes(folder: Path, files: Mapping[str, int], hashes: Mapping[str, str]) -> None:
    if lost := sorted(set(hashes) - set(files)):
        raise BundleError(f"{folder / lost[0]} is missing, although {CARD} lists it; write the bundle again, or copy all of it.")
    for name in files:
        if name in _LATER or name.startswith("onnx/"):
            continue
        if name not in hashes:
            raise BundleError(f"{folder / name} is not among the files that {CARD} lists; remove it, or write the bundle again.")
        if _sha256(folder / name) != hashes[name]:
            raise BundleError(f"{folder / name} is not the file that was written (its SHA-256 differs from {CARD}'s); write the bundle again.")


def read_header(file: Path) -> Header:
    """The tensors of a safetensors file, from its header, which is checked against the file's size.

    Raises:
        BundleError: the file is missing, torn, or of another format.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_HEADER_BYTES, size - 8):
                raise ValueError(f"its header claims {length:,} bytes of {size:,}")
            document = json_of(stream.read(length).decode("utf-8"))
        return _tensors(document, size - 8 - length)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:150]
        raise BundleError(f"{file} cannot be read ({reason}); write the bundle again.") from None


def _tensors(document: Mapping[str, Any], size: int) -> Header:
    found: Header = {}
    places = []
    for name, facts in document.items():
        if name == "__metadata__":
            continue
        kind, shape, (start, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        if kind not in _BYTES or not all(type(one) is int and 0 <= one < 1 << 40 for one in (*shape, start, end)) or len(shape) > 8:
            raise ValueError(f"the tensor {name[:50]!r} does not have a type and shape of weights")
        if end - start != math.prod(shape) * _BYTES[kind]:
            raise ValueError(f"the tensor {name[:50]!r} has another size than its shape")
        places.append((start, end))
        found[name] = (kind, tuple(shape))
    at = 0
    for start, end in sorted(places):
        if start != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise ValueError(f"its tensors have {at:,} bytes, and the file {size:,}")
    return found


def _modules(folder: Path, document: Any) -> dict[str, str]:
    """Folder of each module -> the last part of its type."""
    file = folder / "modules.json"
    if not isinstance(document, list) or not 1 <= len(document) <= 16:
        raise BundleError(f"{file} is not a list of an encoder's modules; write the bundle again.")
    kinds: dict[str, str] = {}
    for number, entry in enumerate(document):
        if not isinstance(entry, dict) or not {"idx", "name", "path", "type"} >= set(entry) or not {"path", "type"} <= set(entry):
            raise BundleError(f"{file} has an entry that is not a module with idx, name, path and type; write the bundle again.")
        kind, path = entry["type"], entry["path"]
        if kind not in MODULES if isinstance(kind, str) else True:
            raise BundleError(
                f"{file} has the module type {str(kind)[:100]!r}, but only these are opened: {', '.join(sorted(set(MODULES.values())))}."
            )
        if not isinstance(path, str) or (path and not _FOLDER.fullmatch(path)) or path in kinds or (number > 0) != bool(path):
            raise BundleError(f"{file} has a module in the folder {str(path)[:100]!r}, which a bundle does not have; write the bundle again.")
        kinds[path] = MODULES[kind]
    if kinds.get("") not in ("Transformer", "WordEmbeddings", "StaticEmbedding") or set(kinds.values()) & {"Transformer"} != (
        {kinds[""]} & {"Transformer"}
    ):
        raise BundleError(f"{file} does not begin with a Transformer, WordEmbeddings or StaticEmbedding; write the bundle again.")
    return kinds


def _check_settings(folder: Path, documents: Mapping[str, Any]) -> None:
    """The settings of sentence-transformers for the whole model, and for its transformer."""
    whole = documents.get("config_sentence_transformers.json", {})
    if (
        not isinstance(whole, dict)
        or whole.get("model_type", "SentenceTransformer") != "SentenceTransformer"
        or whole.get("truncate_dim") is not None
    ):
        raise BundleError(
            f"{folder / 'config_sentence_transformers.json'} describes another kind of model than that of a bundle; write the bundle again."
        )
    file = folder / "sentence_bert_config.json"
    told = documents.get(file.name, {})
    odd = sorted(set(told) - _TRANSFORMER_KEYS) if isinstance(told, dict) else ["no keys and values"]
    ways = told.get("modality_config", {}) if isinstance(told, dict) else {}
    plain = isinstance(ways, dict) and all(
        isinstance(way, dict) and way.get("method") == "forward" and isinstance(way.get("method_output_name"), str) for way in ways.values()
    )
    if odd or not plain or told.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise BundleError(f"{file} has a setting that a bundle does not have ({odd[0] if odd else 'modality_config'}); write the bundle again.")


def _check_index(folder: Path, document: Any) -> None:
    """Weights in several files are in the files beside their index."""
    names = document.get("weight_map") if isinstance(document, dict) else None
    if document is not None and not (isinstance(names, dict) and all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names.values())):
        raise BundleError(f"{folder / 'model.safetensors.index.json'} lists other files than a bundle's weights; write the bundle again.")


def _check_module(folder: Path, path: str, kind: str, documents: Mapping[str, Any], headers: Mapping[str, Header]) -> None:
    """Compare a module's settings with its weights: a layer is made as large as its settings say, before the weights are read."""

    def settings(name: str) -> dict[str, Any]:
        document = documents.get((Path(path) / name).as_posix())
        if not isinstance(document, dict):
            raise BundleError(f"{folder / path / name} is missing, or does not hold keys and values; write the bundle again.")
        return document

    weights = headers.get((Path(path) / "model.safetensors").as_posix(), {})
    shapes = {name: shape for name, (_, shape) in weights.items()}
    where = folder / path
    if kind == "Dense":
        told = settings("config.json")
        if told.get("activation_function") is not None and not _ACTIVATIONS.fullmatch(str(told["activation_function"])):
            raise BundleError(
                f"{where / 'config.json'} has the activation {str(told['activation_function'])[:100]!r}, which a bundle does not have; write the bundle again."
            )
        _agree(where, shapes.get("linear.weight"), (told.get("out_features"), told.get("in_features")))
    elif kind == "LSTM":
        told = settings("lstm_config.json")
        layers, hidden = told.get("num_layers"), told.get("hidden_dim")
        inputs = told.get("embedding_dimension", told.get("word_embedding_dimension"))
        gates = 4 * hidden if isinstance(hidden, int) else None
        _agree(where, shapes.get("encoder.weight_hh_l0"), (gates, hidden))
        _agree(where, shapes.get("encoder.weight_ih_l0"), (gates, inputs))
        _agree(where, (len({name.split("_l")[-1].split("_")[0] for name in shapes}),), (layers,))
    elif kind == "LayerNorm":
        _agree(where, shapes.get("norm.weight"), (settings("config.json").get("dimension"),))
    elif kind == "WordEmbeddings":
        told, words = settings("wordembedding_config.json"), settings("whitespacetokenizer_config.json")
        if told.get("tokenizer_class") not in _TOKENIZERS or not set(words) <= {"vocab", "stop_words", "do_lower_case"}:
            kind_of_tokenizer = str(told.get("tokenizer_class"))[:100]
            raise BundleError(
                f"{where / 'wordembedding_config.json'} has the tokenizer {kind_of_tokenizer!r}, which a bundle does not have; write the bundle again."
            )
        vocabulary = words.get("vocab")
        if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
            raise BundleError(f"{where / 'whitespacetokenizer_config.json'} does not hold a list of words; write the bundle again.")
        shape = shapes.get("emb_layer.weight", ())
        _agree(where, shape[:1], (len(vocabulary),))
    elif kind == "StaticEmbedding":
        if set(shapes) != {"embedding.weight"} or len(shapes["embedding.weight"]) != 2:
            raise BundleError(f"{where / 'model.safetensors'} holds other tensors than those of a static encoder; write the bundle again.")
    elif kind == "Transformer" and not isinstance(settings("config.json").get("model_type"), str):
        raise BundleError(f"{where / 'config.json'} does not say what kind of transformer it is; write the bundle again.")


def _agree(where: Path, weights: tuple[int, ...] | None, told: tuple[Any, ...]) -> None:
    if weights is None or tuple(weights) != told:
        shape = "missing" if weights is None else f"of shape {tuple(weights)}"
        raise BundleError(f"The weights in {where} are {shape}, and the settings beside them say {told}; write the bundle again.")


def reason_of(error: Exception) -> str:
    """An error of a library in one line, for a sentence of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
