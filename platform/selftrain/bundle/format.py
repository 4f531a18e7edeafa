"""A bundle: the folder that holds a trained classifier.

    model.safetensors, modules.json, ...   the encoder, as sentence-transformers writes it
    prototypes.safetensors                 tensor "prototypes" [classes, dimensions]: what an embedded text is compared with; "bias" [classes], if any
    selftrain.json                         `BundleCard`: labels, how and on what it was trained, and how good it is
    README.md                              the same facts as a model card
    backend.json, onnx/                    added by selftrain export: the fastest backend of one kind of machine, and its graphs (bundle/backends.py)
    MLmodel                                added by selftrain.tracking where the bundle goes to a registry

It holds no pickle, so opening a bundle from a stranger runs none of the stranger's code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from selftrain.bundle.checking import CARD, PROTOTYPES, check_bundle, hashes_of, read_header
from selftrain.errors import BundleError, OutputError
from selftrain.files.durable import reason, sync, sync_tree
from selftrain.files.parsing import json_of
from selftrain.models.allowlist import read_document, without_code
from selftrain.models.windows import DOCUMENT_TOKENS

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer

FORMAT = 2  # the newest that is read; it is written where a reader of format 1, which knows no windows, would give other answers
_CARD_CHARACTERS = 16 << 20


def installed_versions(packages: Sequence[str] = ("selftrain", "torch", "transformers", "sentence-transformers", "safetensors")) -> dict[str, str]:
    """Versions of packages, as far as they are installed; default: those that decide what a bundle computes."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class BundleMetrics(BaseModel):
    """How good the classifier is on its test documents; None where they have no labels."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    accuracy: float | None = Field(default=None, description="share of test documents whose most probable class is the true one, 0 to 1")
    macro_f1: float | None = Field(default=None, description="mean of the classes' F1, 0 to 1")
    ece: float | None = Field(default=None, description="expected calibration error, 0 to 1; smaller is better")
    documents: int = Field(default=0, description="labeled test documents that were measured on")


class BundleCard(BaseModel):
    """What a bundle states about itself. Unknown keys are ignored, so that a bundle of a newer minor version opens here."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: int = Field(default=1, description="1; 2: a text may have several windows")
    name: str = Field(description="name of the experiment or model")
    labels: tuple[str, ...] = Field(min_length=2, description="class names, in the order of the prototypes")
    label_prompts: tuple[tuple[str, ...], ...] = Field(default=(), description="[class][prompt]: the texts that the prototypes stand for")
    similarity: Literal["cosine", "dot"] = "cosine"
    scale: float = Field(default=1.0, gt=0, description="factor on the similarity")
    max_tokens: int = Field(default=64, ge=1, le=1 << 20, description="tokens of a document that the encoder reads")
    windows: int = Field(default=1, ge=1, le=64, description="parts of a longer text that are read at most, of max_tokens each (models/windows.py)")
    longest: int | None = Field(default=None, ge=1, description="tokens of a text that the encoder can read at most; None: not known")
    method: str = Field(description="how it was trained, e.g. genco")
    supervision: str = Field(default="none", description="labels that the learner saw: none, all, or in words, e.g. 10 a class")
    experiment: dict[str, Any] = Field(default_factory=dict, description="the resolved experiment document")
    data: str = Field(default="", description="name of the data set")
    data_fingerprint: str = ""
    llm: str | None = Field(default=None, description="language model that helped in training; None: none did")
    llm_fingerprint: str | None = None
    encoder: str = Field(default="", description="the encoder that training started from")
    encoder_fingerprint: str = ""
    metrics: BundleMetrics = BundleMetrics()
    versions: dict[str, str] = Field(default_factory=installed_versions)
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of the files that it was written with; older bundles have none")
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"), description="UTC, ISO 8601")


def write_bundle(
    folder: Path, *, backbone: SentenceTransformer, prototypes: torch.Tensor, card: BundleCard, bias: torch.Tensor | None = None
) -> Path:
    """Write a bundle; a kill at any moment leaves the whole bundle or none.

    Args:
        folder: where to write it; a bundle that is there already is replaced.
        backbone: the trained encoder.
        prototypes: `[classes, dimensions]`, in the order of `card.labels`.
        card: the facts.
        bias: `[classes]`, added to the scaled similarities.

    Returns:
        `folder`.

    Raises:
        OutputError: `folder` holds something else than a bundle, or cannot be written.
        ValueError: the prototypes do not fit the card's labels or the encoder.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    dimensions = backbone.get_embedding_dimension()
    if tuple(prototypes.shape) != (len(card.labels), dimensions):
        raise ValueError(f"prototypes are {tuple(prototypes.shape)}, not {(len(card.labels), dimensions)}: one row a class, one column a dimension")
    folder = Path(folder)
    if folder.exists() and not (folder / CARD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not a bundle; pass an empty or new folder, so that nothing of yours is overwritten.")
    # Not `replacing_folder`, which takes a new folder: a bundle that is there makes room, and comes back where the new one cannot take its place.
    partial, old = (folder.parent / f".{folder.name}.{word}-{os.getpid()}" for word in ("partial", "old"))
    longest = backbone.max_seq_length
    cuts = not isinstance(backbone[0], StaticEmbedding)  # whose tokenizer holds the cut
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        # Whoever opens the folder without selftrain has to read as much of a text as the classifier does.
        if cuts:
            backbone.max_seq_length = min(card.max_tokens, longest or card.max_tokens)
        backbone.save_pretrained(str(partial), create_model_card=False, safe_serialization=True)
        for name in ("config.json", "tokenizer_config.json"):
            _without_code(partial / name)
        tensors = {"prototypes": prototypes} | ({"bias": bias} if bias is not None else {})
        save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}, str(partial / PROTOTYPES))
        card = card.model_copy(update={"files": hashes_of(partial), "format": 1 if card.windows == 1 else FORMAT})
        (partial / CARD).write_text(json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(model_card(card), encoding="utf-8")
        sync_tree(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        why = reason(error) if isinstance(error, OSError) else f"{' '.join(str(error).split())[:200]}; free some space, or choose another disk"
        raise OutputError(f"The bundle {folder} cannot be written: {why}.") from None
    finally:
        if cuts:
            backbone.max_seq_length = longest
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and folder.exists():
            shutil.rmtree(old)
        elif old.exists():
            old.rename(folder)
    return folder


def _without_code(file: Path) -> None:
    """Take code out of an encoder's settings: the encoder was opened without it, and a bundle that names code is refused."""
    if file.is_file() and (plain := without_code(document := read_document(file))) != document:
        file.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_card(folder: str | Path) -> BundleCard:
    """What the bundle in `folder` states about itself.

    Raises:
        BundleError: there is no such folder, it is not a bundle, it is damaged, or it has a newer format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"There is no folder {str(folder)!r}; pass the bundle/ folder of a run.")
    file = folder / CARD
    if not file.is_file():
        raise BundleError(f"{folder} is not a selftrain bundle, it has no {CARD}; pass the bundle/ folder of a run.")
    try:
        with file.open(encoding="utf-8") as stream:
            document = json_of(stream.read(_CARD_CHARACTERS + 1), characters=_CARD_CHARACTERS)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is not a character, and could be neither printed nor sent
        newer = document["format"] if isinstance(document, dict) and isinstance(document.get("format"), int) and document["format"] > FORMAT else None
        card = None if newer is not None else BundleCard.model_validate(document)
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is damaged ({' '.join(str(error).split())[:200]}); write the bundle again.") from None
    if card is None:
        raise BundleError(f"{folder} has bundle format {newer}, this selftrain reads up to {FORMAT}; upgrade selftrain.")
    return card


def checked_card(folder: str | Path) -> BundleCard:
    """The card of a bundle that passes the checks of bundle/checking.py; to be called before any of its files is opened.

    Raises:
        BundleError: as `read_card`, or a check fails.
    """
    card = read_card(folder)
    check_bundle(Path(folder), card.files)
    return card


def read_prototypes(folder: Path, card: BundleCard) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The prototypes of the bundle in `folder`, `[classes, dimensions]`, and its bias, `[classes]` or None, on the CPU.

    Raises:
        BundleError: the file is missing, damaged, or has another number of classes than the card.
    """
    file = folder / PROTOTYPES
    read_header(file)
    try:
        tensors = load_file(str(file))
        prototypes, bias = tensors["prototypes"], tensors.get("bias")
    except Exception as error:  # safetensors raises a class of its own for a damaged header and OSError for a missing file
        raise BundleError(f"{file} cannot be read ({error}); write the bundle again.") from None
    if prototypes.ndim != 2 or prototypes.shape[0] != len(card.labels):
        raise BundleError(f"{file} has shape {tuple(prototypes.shape)}, but {CARD} lists {len(card.labels)} classes; write the bundle again.")
    if not all(tensor.is_floating_point() and torch.isfinite(tensor).all() for tensor in (prototypes, bias) if tensor is not None):
        raise BundleError(f"{file} holds numbers that are not finite, or not of a floating-point type; train the bundle again.")
    if bias is not None and tuple(bias.shape) != (len(card.labels),):
        raise BundleError(f"{file} has a bias of shape {tuple(bias.shape)}, but {CARD} lists {len(card.labels)} classes; write the bundle again.")
    return prototypes, bias


def model_card(card: BundleCard) -> str:
    """The model card (README.md): the facts of `card` in Markdown."""
    seen = "no label of any document" if card.supervision == "none" else f"labels of the training documents (supervision: {card.supervision})"
    alone = "" if card.windows == 1 else f" and embeds the first {card.max_tokens} tokens of a text"
    helper = f"{card.llm} (fingerprint {card.llm_fingerprint or 'unknown'}), no longer needed" if card.llm else "none"
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: text-classification",
        "tags: [selftrain, text-classification, self-training]",
        "---",
        "",
        f"# {card.name}: a text classifier for {len(card.labels)} classes",
        "",
        f"Made by selftrain on {card.created} with the method `{card.method}`.",
        "",
        "## Classes",
        "",
        *(f"- {label}{_prompt_of(card, index)}" for index, label in enumerate(card.labels)),
        "",
        "## How it was trained",
        "",
        f"- Supervision: the learner saw {seen}.",
        f"- Data: {card.data or 'unnamed'} (fingerprint {card.data_fingerprint or 'unknown'}).",
        f"- Encoder at the start: {card.encoder or 'unknown'} (fingerprint {card.encoder_fingerprint or 'unknown'}).",
        f"- Language model that wrote texts for training: {helper}.",
        f"- Full configuration: `experiment` in {CARD}.",
        "",
        "## How good it is",
        "",
        *_metrics_lines(card.metrics),
        "",
        "## How it decides",
        "",
        _reading(card),
        f"the probability is the softmax of the similarities times {card.scale:g}, plus the bias where prototypes.safetensors holds one.",
        "",
        "## Intended use and limits",
        "",
        "- For texts like those it was trained on, and for these classes only: every text gets one of them, even a text that fits none.",
        f"- {_limit(card)}",
        "- The calibration is that of the figures above, and worse on other texts. Do not act on a single prediction without a look at the text.",
        "- It inherits the biases of its encoder and of the language model's texts; their licences and terms apply to it too.",
        "",
        "## How to load it",
        "",
        "```python",
        "from selftrain import Classifier",
        "",
        'classifier = Classifier.load("path/to/this/folder")',
        'classifier.predict(["a text"]), classifier.predict_proba(["a text"])',
        "```",
        "",
        f"The encoder alone opens with `sentence_transformers.SentenceTransformer(folder)`{alone}; a registered copy with `mlflow.pyfunc.load_model(...)`.",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in card.versions.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _reading(card: BundleCard) -> str:
    compared = f"compared with one prototype a class by {card.similarity} similarity;"
    if card.windows == 1:
        return f"A text is cut at {card.max_tokens} tokens, embedded, and {compared}"
    windows = f"Up to {card.windows} windows of a text, of {card.max_tokens} tokens each, are embedded and {compared}"
    return f"{windows} the text's similarities are the means of its windows';"


def _limit(card: BundleCard) -> str:
    if card.windows == 1:
        return f"Only the first {card.max_tokens} tokens of a text are read."
    spread = f"evenly spread over its first {DOCUMENT_TOKENS:,} tokens; what lies between them is not read."
    return f"Of a text that {card.windows} windows do not hold, {card.windows} parts are read, {spread}"


def _prompt_of(card: BundleCard, index: int) -> str:
    return f" (prompt: “{card.label_prompts[index][0]}”)" if index < len(card.label_prompts) and card.label_prompts[index] else ""


def _metrics_lines(metrics: BundleMetrics) -> list[str]:
    named: Mapping[str, float | None] = {"Accuracy": metrics.accuracy, "Macro-F1": metrics.macro_f1, "Expected calibration error": metrics.ece}
    known = {name: value for name, value in named.items() if value is not None}
    if not known:
        return ["Unknown: the test documents have no labels."]
    return [
        f"On {metrics.documents:,} labeled test documents:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in known.items()),
    ]
