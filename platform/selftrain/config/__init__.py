"""The one typed document that describes an experiment (document.py), how it is read (loading.py), and what a mistake in it is answered with (mistakes.py)."""

from selftrain.config.augment import AugmentConfig, TeacherConfig
from selftrain.config.document import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    RayConfig,
    Seed,
    TrackingConfig,
    TrainingConfig,
    composed,
    merge,
    nested,
    parse,
)
from selftrain.config.loading import load, overridden, read_yaml
from selftrain.config.section import Section

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "ModelConfig",
    "RayConfig",
    "Section",
    "Seed",
    "TeacherConfig",
    "TrackingConfig",
    "TrainingConfig",
    "composed",
    "load",
    "merge",
    "nested",
    "overridden",
    "parse",
    "read_yaml",
]
