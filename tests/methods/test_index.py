"""What a reader is promised of the methods' files: the index of equations in losses.py is true, and every file says its paper and what it needs."""

from __future__ import annotations

import importlib
import inspect

import pytest
from equations import index

from selftrain import methods
from selftrain.methods import losses
from selftrain.methods.base import Method


def words(text):
    return " ".join((text or "").split())


def test_the_index_has_the_five_papers():
    assert {"GenCo", "NS3L", "SupCon", "SEAL", "SunGen"} <= {row.paper.partition(" (")[0] for row in index()}
    assert len(index()) == len(set(index())) > 20


@pytest.mark.parametrize("row", index(), ids=lambda row: f"{row.paper.partition(' (')[0]}-{row.name}")
def test_a_row_names_a_function_that_cites_the_equation(row):
    assert row.function.__module__ == row.module
    cited = words(row.function.__doc__)
    assert row.paper.partition(" (")[0] in cited
    assert row.number in cited


def test_every_public_function_of_the_file_is_in_the_index():
    public = {name for name, value in vars(losses).items() if inspect.isfunction(value) and value.__module__ == losses.__name__ and name[0] != "_"}
    assert public == {row.name for row in index() if row.module == losses.__name__}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_methods_file_opens_with_its_paper_and_needs(name):
    cls = methods.method_class(name)
    doc = importlib.import_module(cls.__module__).__doc__
    assert "\nNeeds" in doc
    assert "\nPaper: " in doc
    title = cls.paper.partition("; ")[0]
    assert title in words(doc)
    assert title.endswith(")") and ("arXiv:" in title or "ICML" in title or "ICLR" in title)


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_states_the_type_of_its_options(name):
    cls = methods.method_class(name)
    assert cls.__annotations__["options"] == cls.Options.__name__


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_temperature_called_tau_is_that_of_the_output(name):
    cls = methods.method_class(name)
    own = cls.output_temperature is not Method.output_temperature
    assert own == ("tau" in cls.Options.model_fields)
