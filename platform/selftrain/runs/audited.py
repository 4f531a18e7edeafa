"""The documents of an audit, as what two bundles are compared on: `selftrain register --audit`. The statistics are in evaluation/audit/paired.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.errors import BundleError, DataError
from selftrain.evaluation.audit.figures import SKIPPED, Figure
from selftrain.evaluation.audit.paired import Sample, accuracy, lead
from selftrain.runs.audit_design import asked_in
from selftrain.runs.audit_files import audited_corpus
from selftrain.runs.questions import read_answers
from selftrain.tracking import Lead


@dataclass(frozen=True)
class AuditedDocuments:
    """What an audit asked about, with its answers; of `audited_documents`."""

    source: str  # where the documents are from
    classes: tuple[str, ...]
    texts: tuple[str, ...]  # in the order of the questions
    sample: Sample

    def accuracy(self, predicted: np.ndarray) -> Figure:
        """The accuracy of a classifier with these classes of the questions, `[n]`."""
        return accuracy(self.sample, predicted)

    def lead(self, predicted: np.ndarray, other: Path) -> Lead:
        """How much more accurate a classifier is than another bundle.

        Args:
            predicted: its classes of the questions, `[n]`.
            other: the folder of the other one.

        Raises:
            BundleError: there is no bundle, or it has other classes.
        """
        classifier = Classifier.load(other)
        if tuple(classifier.classes_) != self.classes:
            raise BundleError(f"the classes of {other} are {', '.join(map(str, classifier.classes_))}, not {', '.join(self.classes)}")
        found = lead(self.sample, predicted, classifier.predict_proba(self.texts).argmax(axis=1))
        assert found.estimate is not None  # of `audited_documents`
        return Lead(found.estimate, found.low, found.high, self.sample.answered)


def audited_documents(card: BundleCard, documents: str, audit: Path, answers: Path, *, text_column: str = "text") -> AuditedDocuments:
    """Read what an audit asked about, and the answers. Which bundle it was planned for does not matter.

    Args:
        card: of the bundle that is to be compared.
        documents: the documents of the audit.
        audit: its folder.
        answers: its questions, with labels.
        text_column: column of the texts in the file of documents.

    Raises:
        DataError: there is no such audit, the documents are others, the answers are not those of this audit, or too few.
        BundleError: the bundle has other classes than the audit.
    """
    design, keys = asked_in(audit, "audit")
    if design.classes != tuple(card.labels):
        raise BundleError(
            f"audit {str(audit)!r} asks about the classes {', '.join(design.classes)}, and the bundle has {', '.join(card.labels)}; "
            "pass an audit of the same classes, in the same order.",
            parameter="audit",
        )
    corpus = audited_corpus(design, card, documents, text_column, audit)
    given = read_answers(answers, keys, design.classes, "this audit")
    asked = design.answered(given)
    contents = dict(zip(corpus.unlabeled.ids, corpus.unlabeled.contents, strict=True))
    sample = Sample(asked.documents.astype(np.float64), asked.strata, asked.answers, design.planned)
    if missing := int((sample.counted(sample.answers != SKIPPED) == 0).sum()):
        raise DataError(
            f"{answers} answers no question about {missing} of the {len(sample.documents)} groups of documents that the audit was drawn from; "
            "answer more of them, from the top.",
            parameter="answers",
        )
    return AuditedDocuments(
        corpus.name, design.classes, tuple(str(contents[question.id]) for question in design.questions[: len(asked.answers)]), sample
    )
