"""A cell is what a run is: the same numbers, in any process and in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.runs import run as story
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.trial import SharedInputs, run_cell, train_cell
from selftrain.training import checkpoints
from selftrain.training.checkpoints import RoundCheckpoint


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


class Killed(Exception):
    """In place of a signal."""


def test_a_cell_whose_process_dies_goes_on_after_its_last_round_to_the_same_result(document, tmp_path, monkeypatch):
    document["base"]["method"] |= {"rounds": 4, "steps_per_round": 5}
    prepared = prepare_sweep(parse_space(document))
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", -1.0)  # every round
    monkeypatch.setattr(checkpoints, "_SHARE", 0)
    cell, written, write = prepared.cells[1], [], RoundCheckpoint.write
    shared = SharedInputs([cell], prepared.corpora, no_texts, checkpoints=tmp_path)
    undisturbed = run_cell({"cell": 0}, replace(shared, checkpoints=None), lambda _: None)

    def count(self, state):
        write(self, state)
        written.append(len(state["rounds"]))
        if len(written) == 2:
            raise Killed

    monkeypatch.setattr(RoundCheckpoint, "write", count)
    with pytest.raises(Killed):
        run_cell({"cell": 0}, shared, lambda _: None)
    found = run_cell({"cell": 0}, shared, lambda _: None)
    assert written == [1, 2, 3, 4]
    times = {"seconds", "train_seconds"}
    assert {name: value for name, value in found.items() if name not in times} == {
        name: value for name, value in undisturbed.items() if name not in times
    }
    assert [file.name for file in tmp_path.glob("*.pt")] == [f"{cell.fingerprint}.pt"]


def test_a_checkpoint_is_of_one_cell_and_kept_where_the_sweeps_folder_is(document, tmp_path):
    prepared = prepare_sweep(parse_space(document))
    one, other = prepared.cells[:2]
    shared = SharedInputs([one, other], prepared.corpora, no_texts, checkpoints=tmp_path)
    shared.checkpoint_of(one).write({"rounds": []})
    assert shared.checkpoint_of(one).read() == {"rounds": []} and shared.checkpoint_of(other).read() is None
    (tmp_path / f"{one.fingerprint}.pt").rename(tmp_path / f"{other.fingerprint}.pt")
    assert shared.checkpoint_of(other).read() is None  # what it is of stands in it
    assert replace(shared, checkpoints=tmp_path / "elsewhere").checkpoint_of(one) is None and not (tmp_path / "elsewhere").exists()
    assert replace(shared, search=True).checkpoint_of(one) is None
