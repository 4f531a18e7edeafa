"""Defaults and ranges of the zero-shot methods' options: published numbers were made with these, so none of them moves without being seen."""

from __future__ import annotations

import pytest

from selftrain import methods
from selftrain.errors import SelfTrainError
from selftrain.methods.zero_shot.ipet import AG_NEWS_PATTERNS

GROWING = {"rounds": 5, "steps_per_round": 20, "per_class": 3, "first_share": 0.2, "last_share": 0.7, "tau": 0.1, "weight_decay": 0.01}
DEFAULTS = {
    "genco": GROWING
    | {
        "input_augmentation": True,
        "conditional_augmentation": True,
        "learning_rate": None,
        "t2g_denominator": "texts",
        "target_similarity": "scores",
        "target_gradient": False,
        "label_prompt": "mean",
        "text_check": None,
        "start_check": True,
        "conditional_filter": None,
    },
    "combined": GROWING
    | {
        "generated": True,
        "weighted": None,
        "negative": True,
        "written": "nothing",
        "unconfident_ratio": 1,
        "contrastive_temperature": 0.1,
        "unconfident_weight": 0.2,
        "ns3l_weight": 1.0,
        "ns3l_threshold": 0.04,
        "outer_iterations": 50,
        "inner_learning_rate": 0.01,
        "learning_rate": None,
        "start_check": True,
    },
    "pesco": GROWING | {"sentence": "salient", "prompt_in_positive": True, "t2t_weight": 1.0, "learning_rate": None},
    "supervised": {
        "epochs": 3,
        "batch_size": 16,
        "tau": 0.1,
        "fit_scale": True,
        "scale_learning_rate": 0.01,
        "learning_rate": None,
        "weight_decay": 0.01,
    },
    "ipet": {
        "patterns": ("{mask}: {text}", "{mask} - {text}", "{text} ({mask})", "{mask} News: {text}", "[Category: {mask}] {text}"),
        "verbalizers": {},
        "repeats": 3,
        "generations": 4,
        "first_examples": 10,
        "first_candidates": 100,
        "growth": 5,
        "labelers": 0.25,
        "model_steps": 250,
        "batch_size": 4,
        "unlabeled_batch": 12,
        "mlm_weight": 1e-4,
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "classifier_steps": 5000,
        "classifier_batch": 16,
        "temperature": 2.0,
    },
    "lotclass": {
        "top_words": 50,
        "vocabulary": 100,
        "match_threshold": 20,
        "fewest_documents": 10,
        "mcp_epochs": 3,
        "mcp_learning_rate": 2e-5,
        "self_training_epochs": 1.0,
        "update_interval": 50,
        "learning_rate": 1e-6,
        "weight_decay": 0.01,
        "batch_size": 128,
    },
}
# Of every option the ends of its range: what is taken, and the nearest that is not.
TAKEN = {
    "rounds": {"genco": (0, 1000), "pesco": (1, 1000), "combined": (1, 1000)},
    "steps_per_round": (1,),
    "per_class": (1,),
    "first_share": (1e-9,),
    "last_share": (1.0,),
    "tau": (1e-9, 1.0),
    "learning_rate": (1e-12, 10.0),
    "weight_decay": (0.0,),
    "t2g_denominator": ("texts", "generated"),
    "target_similarity": ("scores", "released"),
    "target_gradient": (True,),
    "label_prompt": ("mean", "released"),
    "text_check": (0, 1, None),
    "start_check": (False,),
    "conditional_filter": (1, None),
    "input_augmentation": (False,),
    "conditional_augmentation": (False,),
    "generated": (False,),
    "weighted": (True, False),
    "negative": (False,),
    "written": ("asked", "filed"),
    "unconfident_ratio": (0,),
    "contrastive_temperature": (1e-9,),
    "unconfident_weight": (0.0,),
    "ns3l_weight": (0.0,),
    "ns3l_threshold": (1e-9, 0.999),
    "outer_iterations": (1,),
    "inner_learning_rate": (1e-12,),
    "sentence": ("salient", "first", "random"),
    "prompt_in_positive": (False,),
    "t2t_weight": (0.0,),
    "epochs": (1,),
    "fit_scale": (False,),
    "scale_learning_rate": (1e-12, 10.0),
    "batch_size": (1,),
    "patterns": (AG_NEWS_PATTERNS[:2],),
    "verbalizers": ({"a": "b"},),
    "repeats": (1,),
    "generations": (1,),
    "first_examples": (1,),
    "first_candidates": (1,),
    "growth": (1,),
    "labelers": (1e-9, 1.0),
    "model_steps": (1,),
    "unlabeled_batch": (0,),
    "mlm_weight": (0.0, 0.999),
    "classifier_steps": (1,),
    "classifier_batch": (1,),
    "temperature": (1e-9, 100.0),
    "top_words": (1,),
    "vocabulary": (1,),
    "match_threshold": (0,),
    "fewest_documents": (1,),
    "mcp_epochs": (1,),
    "mcp_learning_rate": (1e-12, 10.0),
    "self_training_epochs": (1e-9, 10.0),
    "update_interval": (1,),
}
REFUSED = {
    "rounds": {"genco": (-1, 1001), "pesco": (0, 1001), "combined": (0, 1001)},
    "steps_per_round": (0,),
    "per_class": (0,),
    "first_share": (0.0, 1.001, 0.8),  # the last is above last_share
    "last_share": (1.001, 0.1),
    "tau": (0.0, 1.001),
    "learning_rate": (0.0,),
    "weight_decay": (-1e-9,),
    "t2g_denominator": ("all",),
    "target_similarity": ("raw",),
    "target_gradient": ("maybe",),
    "label_prompt": ("all",),
    "text_check": (-0.01, 1.01),
    "start_check": ("maybe",),
    "conditional_filter": (0,),
    "input_augmentation": ("maybe",),
    "conditional_augmentation": ("maybe",),
    "generated": ("maybe",),
    "weighted": ("maybe",),
    "negative": ("maybe",),
    "written": ("maybe",),
    "unconfident_ratio": (-1,),
    "contrastive_temperature": (0.0,),
    "unconfident_weight": (-1e-9,),
    "ns3l_weight": (-1e-9,),
    "ns3l_threshold": (0.0, 1.0),
    "outer_iterations": (0,),
    "inner_learning_rate": (0.0,),
    "sentence": ("last",),
    "prompt_in_positive": ("maybe",),
    "t2t_weight": (-1e-9,),
    "epochs": (0,),
    "fit_scale": ("maybe",),
    "scale_learning_rate": (0.0,),
    "batch_size": (0,),
    "patterns": (
        AG_NEWS_PATTERNS[:1],
        ("{text}", "{mask}: {text}"),
        ("{mask}", "{mask}: {text}"),
        ("{mask} {text} {text}",) * 2,
        ("{mask} {text} {x}",) * 2,
    ),
    "verbalizers": ("a",),
    "repeats": (0,),
    "generations": (0,),
    "first_examples": (0,),
    "first_candidates": (0,),
    "growth": (0,),
    "labelers": (0.0, 1.001),
    "model_steps": (0,),
    "unlabeled_batch": (-1,),
    "mlm_weight": (-1e-9, 1.0),
    "classifier_steps": (0,),
    "classifier_batch": (0,),
    "temperature": (0.0,),
    "top_words": (0,),
    "vocabulary": (0,),
    "match_threshold": (-1,),
    "fewest_documents": (0,),
    "mcp_epochs": (0,),
    "mcp_learning_rate": (0.0,),
    "self_training_epochs": (0.0,),
    "update_interval": (0,),
}
OPTIONS = [(name, option) for name, defaults in DEFAULTS.items() for option in defaults]


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_that_numbers_were_published_with(name):
    assert methods.options_of({"name": name}).model_dump() == {"name": name, **DEFAULTS[name]}


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_is_taken_up_to_its_ends_and_refused_behind_them(name, option):
    taken, refused = (ends[option][name] if isinstance(ends[option], dict) else ends[option] for ends in (TAKEN, REFUSED))
    for value in taken:
        assert getattr(methods.options_of({"name": name, option: value}), option) == value
    for value in refused:
        with pytest.raises(SelfTrainError, match=r"^method\.(\w+)(\.\w+)* of " + name):
            methods.options_of({"name": name, option: value})


@pytest.mark.parametrize("name", ["genco", "pesco", "combined"])
def test_shares_may_stand_still_but_not_fall(name):
    assert methods.options_of({"name": name, "first_share": 0.3, "last_share": 0.3}).first_share == 0.3
    with pytest.raises(SelfTrainError, match=r"last_share must be at least first_share, 0\.3.*\(got 0\.2\)"):
        methods.options_of({"name": name, "first_share": 0.3, "last_share": 0.2})


@pytest.mark.parametrize(("pattern", "why"), [("{mask} {mask} {text}", "once each"), ("{mask}", "once each"), ("{mask} {text} {", "no other braces")])
def test_a_pattern_says_what_is_wrong_with_it(pattern, why):
    with pytest.raises(SelfTrainError, match=why):
        methods.options_of({"name": "ipet", "patterns": [pattern, "{mask}: {text}"]})
