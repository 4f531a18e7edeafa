"""Decisions of trainings in words."""

from selftrain.evaluation.decisions import decisions

TEXTS = {"texts_checked": 1200.0, "texts_filed": 0.51, "texts_filed_needed": 0.75, "texts_used": 0.0}
START = {"neighbours_agree": 0.6, "neighbours_agree_above_chance": 0.3, "neighbours_agree_start": 0.7, "neighbours_agree_above_chance_start": 0.2}


def entry(round_, figures, seed=0):
    return {"variant": "genco", "seed": seed, "round": round_, "figures": figures}


def test_each_decision_says_its_numbers_in_the_order_of_the_rounds():
    found = decisions([entry(1, {"selected": 3.0} | TEXTS), entry(2, START | {"start_kept": 1.0}), entry(1, TEXTS | {"texts_used": 1.0}, seed=1)])
    assert [(one["seed"], one["question"], one["used"]) for one in found] == [(0, "texts", False), (0, "training", False), (1, "texts", True)]
    assert "files 0.510 of the first round's 1,200 conditional texts" in found[0]["why"] and "0.750 are needed" in found[0]["why"]
    assert "not used" in found[0]["why"] and "Training was by equation 5." in found[0]["why"]
    assert "0.600 got the same class from it (0.300 above chance), and 0.700 (0.200)" in found[1]["why"] and "was not kept" in found[1]["why"]
    assert "were used" in found[2]["why"] and "equation 5" not in found[2]["why"]


def test_what_was_kept_is_said_too():
    (found,) = decisions([entry(2, START | {"start_kept": 0.0})])
    assert found["used"] and found["why"].startswith("The trained classifier was kept: ")


def test_without_a_text_the_filter_is_the_reason():
    (found,) = decisions([entry(1, TEXTS | {"texts_checked": 0.0})])
    assert not found["used"] and "none of the first round's conditional texts passed the filter" in found["why"]


def test_a_training_that_decided_nothing_says_nothing():
    assert decisions([entry(1, {"selected": 3.0})]) == []
