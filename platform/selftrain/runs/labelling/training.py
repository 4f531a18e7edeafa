"""A folder of documents that are worth a label: chosen for a bundle, to train its successor.

The bundle's encoder says which documents are like each other, and those are asked about that stand for many others (`selection`). None of them is one that an
audit asks about: what says how good a classifier is must not be what it has learned.

    training.json   what is asked, and what a successor takes over (`folder.Choice`)
    questions.csv   all documents
    documents.npz   embeddings of the documents that were looked at (`stopping.Looked`)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import BundleCard, checked_card
from selftrain.bundle.pytorch import open_backbone
from selftrain.errors import ConfigError, OutputError
from selftrain.files.durable import check_folder, replacing_folder
from selftrain.runs.audit_files import QUESTIONS
from selftrain.runs.labelling.folder import CHOICE, Choice, open_folder
from selftrain.runs.labelling.selection import choose
from selftrain.runs.labelling.stopping import LOOKED, Looked
from selftrain.runs.questions import COLUMNS

TAKEN_OVER = ("encoder", "max_tokens", "windows")  # keys of `model` that a successor has from its bundle
POOL = 5000  # documents that are looked at, a random part of more; similarities of all pairs take 4 bytes each


@dataclass(frozen=True)
class Chosen:
    """A new folder."""

    questions: int
    documents: int
    labeled: int  # that had a label before
    apart: int  # that an audit asks about


def plan_training(
    bundle: Path,
    documents: str,
    out: Path,
    *,
    budget: int = 100,
    text_column: str = "text",
    label_column: str | None = None,
    apart_from: Path | None = None,
) -> Chosen:
    """Choose which documents to ask about, and write questions.csv, with all documents, and training.json; both or neither.

    Args:
        bundle: its folder.
        documents: a file with documents, or a name of the catalogue.
        out: a new or empty folder.
        budget: questions.
        text_column: column of the texts in the file.
        label_column: column of labels that some of the documents have already (those of an earlier folder).
        apart_from: folder of an audit; the documents that it asks about are not asked about here, and lose the label that they have.

    Raises:
        ConfigError: the budget is too small, or larger than the number of documents that may be asked about.
        DataError, BundleError: as `load_documents`, `open_folder` and `open_backbone`.
        OutputError: `out` holds something already, or cannot be written.
    """
    if budget < 1:
        raise ConfigError(f"budget must be at least 1 (got {budget}).", parameter="budget")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"folder {str(out)!r} is not empty; set a new one, so that nothing of yours is overwritten.", parameter="folder")
    check_folder(out, "folder")
    card = checked_card(bundle)
    card.check_one_label("training answers")
    corpus, truth = load_documents(card, documents, text_column=text_column, label_column=label_column, test_documents=0)
    ids, texts = corpus.unlabeled.ids, corpus.unlabeled.contents
    apart = _asked(apart_from)
    labels = {place: truth.unlabeled[id_] for place, id_ in enumerate(ids) if id_ in truth.unlabeled and id_ not in apart}
    labeled = list(labels)
    free = [place for place, id_ in enumerate(ids) if place not in labels and id_ not in apart]
    pool = free[:POOL]  # documents come in the order of a hash
    if budget > len(pool):
        raise ConfigError(f"budget must be at most {len(pool)}, the number of documents that may be asked about (got {budget}).", parameter="budget")
    rows = _embeddings(bundle, [texts[place] for place in [*pool, *labeled[:POOL]]], card)
    order = choose(rows[: len(pool)], budget, labeled=rows[len(pool) :])
    chosen = [pool[index] for index in order]
    first = set(chosen)
    keys = {
        place: f"t{number}-{ids[place]}" for number, place in enumerate([*chosen, *(place for place in range(len(ids)) if place not in first)], 1)
    }
    choice = Choice(
        classes=card.labels,
        parents=card.parents,
        questions=tuple(keys[place] for place in chosen),
        model=_taken_over(card),
        audit=str(apart_from.absolute()) if apart_from is not None else "",
    )
    looked = Looked(rows[: len(pool)], order, rows[len(pool) :], np.array([labels[place] for place in labeled[:POOL]], dtype=np.int64))
    try:
        with replacing_folder(out) as scratch:
            with (scratch / QUESTIONS).open("w", encoding="utf-8", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(COLUMNS)
                for place, key in keys.items():  # texts as they are: a run reads them again, and must find the same documents
                    label = labels.get(place)
                    writer.writerow([key, texts[place], "" if label is None else card.labels[label]])
            (scratch / CHOICE).write_text(choice.model_dump_json(indent=1) + "\n", encoding="utf-8")
            looked.write(scratch / LOOKED)
    except OSError as problem:
        raise OutputError(f"folder cannot be written (got {str(out)!r}): {problem.strerror}; set another folder.", parameter="folder") from None
    return Chosen(budget, len(ids), len(labeled), len(apart))


def _taken_over(card: BundleCard) -> dict[str, Any]:
    before = card.experiment.get("model")
    if not isinstance(before, dict) or before.get("encoder") == "bilstm":  # a BiLSTM has no frozen embeddings to train a head on
        return {}
    return {name: before[name] for name in TAKEN_OVER if name in before}


def _asked(audit: Path | None) -> frozenset[str]:
    """Ids of the documents that an audit asks about."""
    if audit is None:
        return frozenset()
    folder = open_folder(audit)
    if folder.design is None:
        raise ConfigError(f"apart_from must be the folder of an audit (got {str(audit)!r}).", parameter="apart_from")
    return frozenset(question.id for question in folder.design.questions[: len(folder.questions)])


def _embeddings(bundle: Path, texts: list[str], card: BundleCard) -> np.ndarray:
    """`[texts, dimensions]`, by the bundle's encoder, without the head that was trained on it: the head draws documents of a class together, and what it is wrong
    about is then not asked (docs/howto/labelling.md has what that costs)."""
    from sentence_transformers.sentence_transformer.modules import Dense

    backbone = open_backbone(bundle, "cuda" if torch.cuda.is_available() else "cpu")
    model = card.experiment.get("model")
    if isinstance(model, dict) and model.get("train") == "head":
        heads = [place for place, module in enumerate(backbone) if isinstance(module, Dense)]
        del backbone[heads[-1] if heads else len(backbone) :]  # models/head.py puts it behind all others
    found: np.ndarray = backbone.encode(texts, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
    return found
