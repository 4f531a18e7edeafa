"""Unlabeled documents and class names in; a small, fast, served classifier out.

    from selftrain import SelfTrainer
    trainer = SelfTrainer(options={"rounds": 5}).fit(texts, classes=["sport", "politics"])
    trainer.predict(["The match ended in a draw."])

Public names are imported when first used, so that `import selftrain` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selftrain.bundle.classifier import Classifier
    from selftrain.client import Client, Prediction
    from selftrain.compress.distill import distill
    from selftrain.compress.onnx import export_bundle as export
    from selftrain.config import Experiment, load
    from selftrain.errors import (
        BundleError,
        ConfigError,
        DataError,
        MissingExtraError,
        OutputError,
        ProcessDied,
        ResourceError,
        SelfTrainError,
        ServiceError,
    )
    from selftrain.estimator import SelfTrainer
    from selftrain.runs.check import check
    from selftrain.runs.register import register
    from selftrain.runs.run import run
    from selftrain.sweeps.sweep import run_sweep as sweep
    from selftrain.texts.dataset.generation import generate

_PLACES = {
    "Classifier": "bundle.classifier:Classifier",
    "Client": "client:Client",
    "Prediction": "client:Prediction",
    "distill": "compress.distill:distill",
    "export": "compress.onnx:export_bundle",
    "Experiment": "config:Experiment",
    "load": "config:load",
    "BundleError": "errors:BundleError",
    "ConfigError": "errors:ConfigError",
    "DataError": "errors:DataError",
    "MissingExtraError": "errors:MissingExtraError",
    "OutputError": "errors:OutputError",
    "ProcessDied": "errors:ProcessDied",
    "ResourceError": "errors:ResourceError",
    "SelfTrainError": "errors:SelfTrainError",
    "ServiceError": "errors:ServiceError",
    "SelfTrainer": "estimator:SelfTrainer",
    "check": "runs.check:check",
    "register": "runs.register:register",
    "run": "runs.run:run",
    "sweep": "sweeps.sweep:run_sweep",
    "generate": "texts.dataset.generation:generate",
}  # public name -> module:attribute

__all__ = [
    "BundleError",
    "Classifier",
    "Client",
    "ConfigError",
    "DataError",
    "Experiment",
    "MissingExtraError",
    "OutputError",
    "Prediction",
    "ProcessDied",
    "ResourceError",
    "SelfTrainError",
    "SelfTrainer",
    "ServiceError",
    "check",
    "distill",
    "export",
    "generate",
    "load",
    "register",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
