"""Rows of a run: what marks one as a bound."""

from types import SimpleNamespace

import numpy as np
import pytest

from selftrain.config import parse
from selftrain.evaluation.summary import summarise
from selftrain.experiment import _Run


@pytest.mark.parametrize(("supervision", "bound"), [("few", False), ("all", False), ("oracle", True)])
def test_a_row_with_an_oracle_is_a_bound_also_where_the_whole_experiment_has_one(supervision, bound):
    run = SimpleNamespace(labels=None, corpus=SimpleNamespace(class_names=("a", "b")))
    variant = parse({"data": {"supervision": supervision, "labels_per_class": 4}})
    row = _Run._row(run, "ns3l", 0, variant, 1.0, np.array([[0.9, 0.1]]))
    assert summarise([row])[0]["bound"] is bound
