"""The one typed document that describes an experiment (document.py, classes.py), how it is read (loading.py), and what a mistake is answered with (mistakes.py)."""

from selftrain.config.augment import AugmentConfig, TeacherConfig
from selftrain.config.classes import check_groups, class_tree, composed, members_of, paths_of, tree_of
from selftrain.config.document import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    RayConfig,
    Seed,
    TrackingConfig,
    TrainingConfig,
    merge,
    nested,
    parse,
)
from selftrain.config.loading import load, load_prices, overridden, read_yaml
from selftrain.config.prices import CostConfig, Prices, TeacherPrice
from selftrain.config.section import Section

__all__ = [
    "AugmentConfig",
    "CostConfig",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "ModelConfig",
    "Prices",
    "RayConfig",
    "Section",
    "Seed",
    "TeacherConfig",
    "TeacherPrice",
    "TrackingConfig",
    "TrainingConfig",
    "check_groups",
    "class_tree",
    "composed",
    "load",
    "load_prices",
    "members_of",
    "merge",
    "nested",
    "overridden",
    "parse",
    "paths_of",
    "read_yaml",
    "tree_of",
]
