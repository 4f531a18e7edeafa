"""`selftrain check`: the class names before anything is trained, without a label and with about ten answers.

Nothing is kept between questions and answers: which documents are asked about follows from documents, names, encoder and seed, and the ids in the file say whether
these are still the same. The statistics are in evaluation/naming/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selftrain.config import Experiment
from selftrain.data.corpus import Corpus
from selftrain.data.loading import load_corpus
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.naming.answers import Verdict, questions, verdicts
from selftrain.evaluation.naming.report import NamesFound, describe, describe_answers
from selftrain.files.durable import whole_file
from selftrain.methods.recipe import resolve
from selftrain.models.locate import BILSTM
from selftrain.models.names import MOST_DOCUMENTS, NameScores
from selftrain.models.open import located
from selftrain.runs.naming import names_found
from selftrain.runs.questions import check_new, question_key, read_answers, write_questions
from selftrain.runtime.devices import device_here

DOCUMENTS = 500  # that are embedded: seconds on two cores
QUESTIONS = 10
FEWEST = 20  # documents


@dataclass(frozen=True)
class Answered:
    """What the answers say."""

    verdicts: tuple[Verdict, ...]  # of each class
    text: str


@dataclass(frozen=True)
class Checked:
    """The class names of a corpus, seen without a label."""

    corpus: Corpus
    read: NameScores
    found: NamesFound

    @property
    def text(self) -> str:
        """For a terminal."""
        total, seen = len(self.corpus.unlabeled), self.found.documents
        sample = f"{seen:,} of {total:,} documents, drawn at random" if seen < total else f"{seen:,} documents"
        return f"{self.corpus.name}: {sample}; nothing was trained, and no label was used\n\n{describe(self.found)}"

    def ask(self, file: Path, *, count: int = QUESTIONS, seed: int = 0) -> int:
        """Write questions into a CSV file; returns how many.

        Args:
            file: a new one.
            count: of questions.
            seed: another one asks about other documents.

        Raises:
            ConfigError: `count` is below 1.
            OutputError: the file is there already, or cannot be written.
        """
        check_new(file)
        keys, texts, _ = self._questions(count, seed)
        with whole_file(file, "questions") as partial:
            write_questions(partial, zip(keys, texts, [""] * len(keys), strict=True))
        return len(keys)

    def answered(self, file: Path, *, count: int = QUESTIONS, seed: int = 0) -> Answered:
        """What the answers to these questions say.

        Args:
            file: of `ask`, with its column `label` filled in.
            count, seed: those of `ask`.

        Raises:
            ConfigError: `count` is below 1.
            DataError: the file holds other questions, no answer, or a label that is no class.
        """
        keys, _, names = self._questions(count, seed)
        classes = self.corpus.class_names
        try:
            given = read_answers(file, keys, classes, "this check")
        except DataError as error:
            if "none of this check" not in str(error):
                raise
            must = "documents, classes, encoder, number of questions and seed must be those that it was written for"
            raise DataError(f"{str(error).rpartition(';')[0]}; {must}.") from None
        places = sorted(given)
        found = verdicts(names[places], np.array([given[place] for place in places]), len(classes))
        return Answered(tuple(found), "\n".join(describe_answers(found, classes)))

    def _questions(self, count: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
        """(keys, texts, names that they are nearest to)."""
        if count < 1:
            raise ConfigError(f"count must be at least 1 (got {count}).", parameter="count")
        documents, names = questions(self.read.scores.numpy(), count, seed)
        places = [self.read.documents[index] for index in documents.tolist()]
        ids = [self.corpus.unlabeled.ids[place] for place in places]
        return [question_key(number, id_) for number, id_ in enumerate(ids)], [self.corpus.unlabeled.contents[place] for place in places], names


def check(experiment: Experiment, *, documents: int = DOCUMENTS) -> Checked:
    """Look at the class names of an experiment before training.

    Args:
        experiment: its data and encoder are read; the method plays no part.
        documents: that are embedded, at most; they are a random sample.

    Raises:
        ConfigError: too few documents are asked for, or the encoder is not pre-trained.
        DataError: the documents are images, or as `load_corpus`.
    """
    if not FEWEST <= documents <= MOST_DOCUMENTS:
        raise ConfigError(f"documents must be from {FEWEST} to {MOST_DOCUMENTS} (got {documents}).", parameter="documents")
    if experiment.model.encoder == BILSTM:
        raise ConfigError(
            "model.encoder must be a pre-trained sentence encoder: bilstm knows no names before training (got 'bilstm').", parameter="model.encoder"
        )
    corpus, _ = load_corpus(experiment.data)
    if corpus.kind != "text":
        raise DataError(f"{corpus.name} holds images, and names are compared with texts.", parameter="data.source")
    model = located(experiment.model).model_copy(update={"train": "full"})  # as the encoder is: what a head caches is left to runs
    asked = experiment.model_copy(update={"model": model, "method": {"name": "genco", "rounds": 0}, "variants": {}})
    method = resolve(asked).untrained(corpus, seed=0, device=device_here(experiment.training.gpu))
    contents = list(corpus.unlabeled.contents[:documents])
    read = NameScores.of(method.encoder.encode(contents), method.prototypes(), range(len(contents)))
    return Checked(corpus, read, names_found(corpus, read))
