"""A cell is what a run is: the same numbers, in any process and in any order."""

from __future__ import annotations

import pytest

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.runs import run as story
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.trial import train_cell


@pytest.fixture
def prepared(document):
    return prepare_sweep(parse_space(document))


def scores(prepared, place):
    cell = prepared.cells[place]
    return train_cell(cell, *prepared.corpora[cell.data], no_texts)


def test_a_cell_gives_what_a_run_gives(document, prepared):
    for place in (0, 3):
        cell = prepared.cells[place]
        evaluation = {"map": "none"}
        run = story.run(parse({**cell.experiment.model_dump(), "seeds": [cell.seed], "evaluation": evaluation, "name": f"r{place}"}))
        row = run.metrics["rows"][0]
        own = scores(prepared, place)
        assert {name: row["scores"][name] for name in own["scores"]} == own["scores"]
        assert own["supervision"] == row["supervision"] == "5 a class" and own["documents"] == 20


def test_order_and_repetition_change_nothing(prepared):
    first = [scores(prepared, place) for place in range(4)]
    again = [scores(prepared, place) for place in reversed(range(4))][::-1]
    for one, other in zip(first, again, strict=True):
        assert one["scores"] == other["scores"] and one["rounds"] == other["rounds"]
    assert first[0]["rounds"] != first[1]["rounds"] and first[0]["rounds"] != first[2]["rounds"]  # seeds differ, and so do rates


def test_rounds_are_told(document):
    document["base"]["data"]["validation_documents"] = 20
    prepared = prepare_sweep(parse_space(document))
    cell, heard = prepared.cells[0], []
    result = train_cell(cell, *prepared.corpora[cell.data], no_texts, heard.append)
    assert [round_["round"] for round_ in heard] == [1.0, 2.0]
    assert result["validation"] == pytest.approx(heard[-1]["validation_accuracy"])
