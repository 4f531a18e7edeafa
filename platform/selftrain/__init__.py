"""Unlabeled documents and class names in; a small, fast, served classifier out.

    from selftrain import SelfTrainer
    classifier = SelfTrainer(rounds=5).fit(texts, classes=["sport", "politics"])
    classifier.predict(["The match ended in a draw."])

Public names are imported when first used, so that `import selftrain` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selftrain.bundle.classifier import Classifier
    from selftrain.client import Client
    from selftrain.config import Experiment, load
    from selftrain.errors import SelfTrainError
    from selftrain.estimator import SelfTrainer
    from selftrain.runs.run import run

_WHERE = {
    "Classifier": "selftrain.bundle.classifier",
    "Client": "selftrain.client",
    "Experiment": "selftrain.config",
    "SelfTrainer": "selftrain.estimator",
    "SelfTrainError": "selftrain.errors",
    "load": "selftrain.config",
    "run": "selftrain.runs.run",
}

__all__ = ["Classifier", "Client", "Experiment", "SelfTrainError", "SelfTrainer", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
