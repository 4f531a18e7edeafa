"""A bundle: the folder that holds a trained classifier.

    model.safetensors, modules.json, ...   the encoder, as sentence-transformers writes it
    prototypes.safetensors                 tensor "prototypes" [classes, dimensions]: what an embedded text is compared with; "bias" [classes], if any
    reference.safetensors                  what the texts that it was made with look like to it, if it was kept (bundle/reference.py)
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
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator
from safetensors import SafetensorError

from selftrain.bundle.checking import CARD, PROTOTYPES, REFERENCE, check_bundle, hashes_of, read_header
from selftrain.bundle.groups import Grouped
from selftrain.bundle.model_card import model_card
from selftrain.bundle.promise import FoundLabels, NoneOfThese, PredictionSets, Promise
from selftrain.bundle.reference import Reference, ReferenceFacts
from selftrain.errors import BundleError, ConfigError, OutputError
from selftrain.files.durable import explained, reason, sync, sync_tree
from selftrain.files.packages import version_of
from selftrain.files.parsing import json_of
from selftrain.models.allowlist import read_document, without_code

if TYPE_CHECKING:  # the imports take seconds, and a process that only names what is here, or classifies by a graph, does not need them
    import torch
    from sentence_transformers import SentenceTransformer

# The newest that is read. A bundle has the oldest whose readers give the same answers: format 1 knows no windows, and format 2 one label a text.
FORMAT = 3
_CARD_CHARACTERS = 16 << 20


def installed_versions(packages: Sequence[str] = ("selftrain", "torch", "transformers", "sentence-transformers", "safetensors")) -> dict[str, str]:
    """Versions of packages, as far as they are installed; default: those that decide what a bundle computes."""
    return {package: found for package in packages if (found := version_of(package)) is not None}


class BundleMetrics(BaseModel, frozen=True, allow_inf_nan=False):
    """How good the classifier is on its test documents; None where they have no labels."""

    accuracy: float | None = Field(
        default=None, description="share of test documents whose most probable class is the true one, or of several labels all labels are, 0 to 1"
    )
    micro_f1: float | None = Field(default=None, description="of several labels: F1 over all of them together, 0 to 1")
    macro_f1: float | None = Field(default=None, description="mean of the classes' F1, 0 to 1")
    ece: float | None = Field(default=None, description="expected calibration error, 0 to 1; smaller is better")
    documents: int = Field(default=0, description="labeled test documents that were measured on")
    group_accuracy: tuple[float, ...] = Field(
        default=(),
        description="of a tree: share whose most probable class is in the right group, on each level above the classes, the outermost first",
    )

    @classmethod
    def figures(cls, scores: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `scores` that are one number each; None for a figure that was not measured."""
        return {name: scores.get(name) for name in cls.model_fields if name not in ("group_accuracy", "micro_f1")}


class BundleCard(Grouped, BaseModel, frozen=True, allow_inf_nan=False):
    """What a bundle states about itself. Unknown keys are ignored, so that a bundle of a newer minor version opens here."""

    format: int = Field(default=1, description="1; 2: a text may have several windows; 3: it may have several labels")
    name: str = Field(description="name of the experiment or model")
    labels: tuple[str, ...] = Field(min_length=2, description="class names, in the order of the prototypes")
    parents: tuple[tuple[str, ...], ...] = Field(default=(), description="[class]: the groups that it is in, the outermost first; empty: no tree")
    thresholds: tuple[float, ...] = Field(
        default=(), description="[class]: a text may have several labels, and has a class from this probability on; empty: it has one"
    )
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
    promise: Promise | None = Field(default=None, description="what an audit found of abstaining; None: no audit with a promise was made")
    sets: PredictionSets | None = Field(default=None, description="what an audit found of prediction sets; None: no audit for them was made")
    none_of_these: NoneOfThese | None = Field(default=None, description="what an audit found of texts of no class; None: no audit for them was made")
    found_labels: FoundLabels | None = Field(default=None, description="what answers say of the thresholds; None: they were chosen without")
    reference: ReferenceFacts | None = Field(default=None, description="what texts are compared with; None: nothing was kept")
    versions: dict[str, str] = Field(default_factory=installed_versions)
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of the files that it was written with; older bundles have none")
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"), description="UTC, ISO 8601")

    @model_validator(mode="after")
    def _classes_fit(self) -> BundleCard:
        self.check_tree()
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise ValueError(f"thresholds must be {len(self.labels)} numbers, one a class (got {len(self.thresholds)})")
        if self.thresholds and self.windows > 1:
            raise ValueError(f"windows must be 1 where a text has several labels (got {self.windows})")
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a text has none, one or several of the classes, whose probabilities then do not sum to 1."""
        return bool(self.thresholds)

    def labels_of(self, probabilities: Sequence[float] | np.ndarray, threshold: float | None = None) -> list[int]:
        """The classes of a text with several labels, the most probable first: those whose probability reaches their threshold.

        Args:
            probabilities: of the text, `[classes]`.
            threshold: of all classes; None for the card's own.
        """
        limits = self.thresholds if threshold is None else (threshold,) * len(self.labels)
        order = sorted(range(len(self.labels)), key=lambda index: -probabilities[index])
        return [index for index in order if probabilities[index] >= limits[index]]

    def check_one_label(self, what: str) -> None:
        """Raise a `ConfigError` where texts have several labels.

        Args:
            what: which cannot be done with such a bundle, in the plural, such as "distilled students".
        """
        if self.multi_label:
            raise ConfigError(
                f"{what} are for one label a text, and the bundle {self.name} gives several; use a bundle that was trained without multi_label."
            )


def write_bundle(
    folder: Path,
    *,
    backbone: SentenceTransformer,
    prototypes: torch.Tensor,
    card: BundleCard,
    bias: torch.Tensor | None = None,
    reference: Reference | None = None,
) -> Path:
    """Write a bundle; a kill at any moment leaves the whole bundle or none.

    Args:
        folder: where to write it; a bundle that is there already is replaced.
        backbone: the trained encoder.
        prototypes: `[classes, dimensions]`, in the order of `card.labels`.
        card: the facts.
        bias: `[classes]`, added to the scaled similarities.
        reference: that of `card.reference`.

    Returns:
        `folder`.

    Raises:
        OutputError: `folder` holds something else than a bundle, or cannot be written.
        ValueError: the prototypes do not fit the card's labels or the encoder.
    """
    from safetensors.torch import save_file
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
        if reference is not None:
            (partial / REFERENCE).write_bytes(reference.content())
        card = card.model_copy(update={"files": hashes_of(partial), "format": 3 if card.multi_label else 2 if card.windows > 1 else 1})
        for name, content in _stated(card).items():
            (partial / name).write_text(content, encoding="utf-8")
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


def restate(folder: Path, card: BundleCard) -> None:
    """Replace what the bundle in `folder` states about itself, each file whole; what it computes, and its fingerprint, stay.

    The files are made outside: a bundle that holds an unknown file is refused.

    Raises:
        OutputError: the folder cannot be written to.
    """
    home = folder.resolve()
    with explained(folder), tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.") as scratch:
        for name, content in _stated(card).items():
            made = Path(scratch) / name
            made.write_text(content, encoding="utf-8")
            sync(made)
            os.replace(made, home / name)
        sync(home)


def _stated(card: BundleCard) -> dict[str, str]:
    return {CARD: json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", "README.md": model_card(card)}


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
    from safetensors.torch import load_file

    file = folder / PROTOTYPES
    read_header(file)
    try:
        tensors = load_file(str(file))
        prototypes, bias = tensors["prototypes"], tensors.get("bias")
    except Exception as error:  # safetensors raises a class of its own for a damaged header and OSError for a missing file
        raise BundleError(f"{file} cannot be read ({error}); write the bundle again.") from None
    check_prototypes(folder, card, *(_array(tensor) for tensor in (prototypes, bias)))
    return prototypes, bias


def _array(tensor: torch.Tensor | None) -> Any:
    """For the checks: NumPy has no bfloat16."""
    return None if tensor is None else (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def check_prototypes(folder: Path, card: BundleCard, prototypes: np.ndarray, bias: np.ndarray | None) -> None:
    """Raise a `BundleError` unless both fit the card.

    Args:
        folder: of the bundle.
        card: its card.
        prototypes: `[classes, dimensions]`.
        bias: `[classes]` or None.
    """
    file = folder / PROTOTYPES
    if prototypes.ndim != 2 or prototypes.shape[0] != len(card.labels):
        raise BundleError(f"{file} has shape {tuple(prototypes.shape)}, but {CARD} lists {len(card.labels)} classes; write the bundle again.")
    if not all(np.issubdtype(tensor.dtype, np.floating) and np.isfinite(tensor).all() for tensor in (prototypes, bias) if tensor is not None):
        raise BundleError(f"{file} holds numbers that are not finite, or not of a floating-point type; train the bundle again.")
    if bias is not None and tuple(bias.shape) != (len(card.labels),):
        raise BundleError(f"{file} has a bias of shape {tuple(bias.shape)}, but {CARD} lists {len(card.labels)} classes; write the bundle again.")
