"""Defaults and ranges of the options of the methods with few labels and of self-distillation: published numbers were made with these, so none moves unseen."""

from __future__ import annotations

import pytest

from selftrain import methods
from selftrain.errors import SelfTrainError

FAMILY = {
    "rounds": 10,
    "steps_per_round": 30,
    "batch_size": 32,
    "unlabeled_ratio": 3,
    "learning_rate": None,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "decayed": None,
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "linear",
    "milestones": (0.5, 0.75),
    "drop": 0.1,
    "average": 0.0,
    "ramp": 0.25,
    "views": "edits",
    "view_pool": None,
    "ns3l_weight": 0.0,
    "ns3l_threshold": 0.04,
    "ns3l_negatives": "threshold",
    "ns3l_count": 1,
}
OWN = {
    "cross_entropy": {"label_smoothing": 0.0},
    "ns3l": {"ns3l_weight": 1.0},
    "pseudo_label": {"threshold": 0.95, "weight": 1.0},
    "pi_model": {"weight": 20.0},
    "mean_teacher": {"decay": 0.95, "weight": 8.0},
    "vat": {
        "weight": 0.3,
        "radius": 0.5,
        "probe": 0.01,
        "iterations": 1,
        "entropy_weight": 0.0,
        "pseudo_weight": 0.0,
        "pseudo_threshold": 0.95,
    },
    "mixmatch": {"temperature": 0.5, "alpha": 0.75, "weight": 75.0, "unlabeled_ratio": 1},
    "fixmatch": {"ramp": 0.0, "threshold": 0.95, "weight": 1.0, "simclr_weight": 0.0, "temperature": 0.1},
    "multimatch": {"ramp": 0.0, "weight": 1.0, "difficult_weight": 3.0, "percentile": 0.05, "smoothing": 0.997, "threshold_momentum": 0.999},
    "ssc": {
        "threshold": 0.95,
        "temperature": 0.1,
        "confidence_temperature": 0.08,
        "unconfident": True,
        "unconfident_weight": 0.2,
        "projection": None,
    },
    "tf_kd": {"variant": "self", "alpha": 0.5, "temperature": None, "correct": 0.99},
    "cs_kd": {"weight": 1.0, "temperature": 4.0},
    "ps_kd": {"alpha": 0.8},
    "dlb": {"batch_size": 32, "weight": 1.0, "temperature": 3.0},
    "uskd": {"alpha": 1.0, "beta": 0.1},
}
SHARE, ABOVE, BELOW_ONE = (0.0, 1.0, -1e-9, 1 + 1e-9), (1e-9, 1e9, 0.0), (0.0, 1 - 1e-9, 1.0, -1e-9)
FROM_ZERO, WHOLE = (0.0, 1e9, -1e-9), (1, 10**6, 0)
# Of every option what is taken (the first two), and what is refused.
RANGES = {
    "rounds": WHOLE,
    "steps_per_round": WHOLE,
    "batch_size": WHOLE,
    "unlabeled_ratio": WHOLE,
    "learning_rate": ABOVE,
    "weight_decay": FROM_ZERO,
    "ramp": SHARE,
    "views": ("edits", "continuations", "others"),
    "view_pool": WHOLE,
    "optimizer": ("adamw", "sgd", "adam"),
    "decayed": ("weights", "all", "biases"),
    "momentum": BELOW_ONE,
    "nesterov": (True, False),
    "schedule": ("cosine", "constant", "exponential"),
    "milestones": ((), (0.65,), (1.5,), (-0.1,)),
    "drop": (1e-9, 1.0, 0.0, 1 + 1e-9),
    "average": BELOW_ONE,
    "projection": (0, 10**6, -1),
    "ns3l_weight": FROM_ZERO,
    "ns3l_threshold": (1e-9, 1 - 1e-9, 0.0, 1.0),
    "ns3l_negatives": ("uniform", "oracle", "nearest"),
    "ns3l_count": WHOLE,
    "label_smoothing": BELOW_ONE,
    "threshold": SHARE,
    "pseudo_threshold": SHARE,
    "weight": FROM_ZERO,
    "decay": BELOW_ONE,
    "radius": ABOVE,
    "probe": ABOVE,
    "iterations": WHOLE,
    "entropy_weight": FROM_ZERO,
    "pseudo_weight": FROM_ZERO,
    "simclr_weight": FROM_ZERO,
    "temperature": ABOVE,
    ("mixmatch", "temperature"): (1e-9, 1.0, 0.0, 1 + 1e-9),
    "difficult_weight": FROM_ZERO,
    "percentile": SHARE,
    "smoothing": (1e-9, 1.0, 0.0, 1 + 1e-9),
    "threshold_momentum": BELOW_ONE,
    "confidence_temperature": ABOVE,
    "unconfident": (True, False),
    "unconfident_weight": FROM_ZERO,
    "alpha": SHARE,
    ("mixmatch", "alpha"): ABOVE,
    ("uskd", "alpha"): FROM_ZERO,
    "beta": FROM_ZERO,
    "variant": ("self", "reg", "other"),
    "correct": (1e-9, 1 - 1e-9, 0.0, 1.0),
    ("dlb", "batch_size"): (2, 10**6, 1),
}


def options(name, **given):
    return methods.options_of({"name": name, **given})


@pytest.mark.parametrize("name", OWN)
def test_defaults(name):
    assert options(name).model_dump() == {"name": name} | FAMILY | OWN[name]


@pytest.mark.parametrize("name", OWN)
def test_ranges(name):
    for option in FAMILY | OWN[name]:
        first, last, *refused = RANGES.get((name, option), RANGES[option])
        for value in (first, last):
            assert getattr(options(name, **{option: value}), option) == value
        for value in refused:
            with pytest.raises(SelfTrainError, match=rf"method\.{option}(\.0)? of {name}"):
                options(name, **{option: value})
    with pytest.raises(SelfTrainError, match=r"Unknown option method\.weigth"):
        options(name, weigth=1)


def test_what_a_method_says_of_itself():
    classes = {name: methods.method_class(name) for name in OWN}
    assert all(cls.name == name and cls.kinds == ("text", "image") and cls.supervision == "labels" for name, cls in classes.items())
    assert {name: cls.strong_views for name, cls in classes.items() if cls.strong_views} == {
        "pi_model": 1,
        "mean_teacher": 1,
        "mixmatch": 2,
        "fixmatch": 2,
        "multimatch": 1,
        "ssc": 2,
    }
    assert {name for name, cls in classes.items() if cls.image_views == "weak"} == {"pi_model", "mean_teacher", "mixmatch"}
    assert {name for name, cls in classes.items() if cls.one_pass} == {"fixmatch", "multimatch", "ssc"}
