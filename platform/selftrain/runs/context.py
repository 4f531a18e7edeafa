"""What every part of a run works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from selftrain.data.corpus import Corpus, Documents
from selftrain.runs.home import Home
from selftrain.runs.plan import RunPlan
from selftrain.runs.resume import Starts
from selftrain.runs.stages import Events, Stages
from selftrain.tracking import Tracker
from selftrain.tracking.spool import Spool


@dataclass(frozen=True)
class RunContext:
    """One run in progress: its plan, its folder, and where it reports to."""

    plan: RunPlan
    home: Home
    events: Events
    stages: Stages
    starts: Starts
    tracker: Tracker
    spool: Spool
    mlflow_id: str
    llm_fingerprint: str | None = None
    broken_blocks: set[str] = field(default_factory=set)  # of the text cache, set aside during this run

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.home.folder

    @property
    def corpus(self) -> Corpus:
        """The documents of the experiment's own row."""
        return self.plan.corpus

    @property
    def documents(self) -> Documents:
        """What the report is about: the test documents, or, where there are none, those that were learned from."""
        return self.corpus.test if len(self.corpus.test) else self.corpus.unlabeled

    @property
    def multi_label(self) -> bool:
        """Whether a document may have several classes."""
        return self.plan.experiment.data.multi_label

    @cached_property
    def memberships(self) -> np.ndarray | None:
        """Of several labels: which classes the test documents have, boolean, `[documents, classes]`; None where nobody knows, and of one label."""
        truth = self.plan.truth
        if not self.multi_label or not truth.test or not len(self.corpus.test):
            return None
        return truth.memberships(self.corpus.test.ids, len(self.corpus.labels))

    @cached_property
    def labels(self) -> np.ndarray | None:
        """True classes of the test documents, `[documents]`; None where nobody knows them, and of several labels."""
        truth = self.plan.truth.test
        if not truth or not len(self.corpus.test) or self.multi_label:
            return None
        return np.array([truth[id_] for id_ in self.corpus.test.ids])

    @property
    def model_name(self) -> str:
        """The name in the registry."""
        experiment = self.plan.experiment
        return experiment.tracking.registered_model or experiment.name
