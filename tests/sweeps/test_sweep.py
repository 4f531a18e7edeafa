"""A whole sweep with the real Ray Tune: table, report and MLflow; the same again; and what an interrupted one has left to do."""

from __future__ import annotations

import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from selftrain.config import Experiment
from selftrain.data.texts import no_texts
from selftrain.sweeps.plan import folder_of, prepare_sweep
from selftrain.sweeps.runner import run_trials, trial_needs, workers
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.sweep import run_sweep
from selftrain.sweeps.trial import SharedInputs, train_cell

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """All sweeps of this process share it."""
    with workers(Experiment(), trial_needs(3, 0.0, None)):
        yield


def children(uri: str, run_id: str) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    return client.search_runs([run.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_sweep_ends_with_a_table_a_second_one_has_nothing_to_do_and_one_that_was_cut_short_what_is_missing(document, tmp_path, capfd, monkeypatch):
    document["paper"] = {"source": "a paper", "figures": {0.1: {document["base"]["data"]["source"]: "88.0 ± 0.1"}}}
    space = parse_space(document)
    prepared = prepare_sweep(space)
    cut_short = folder_of(prepared) / "checkpoints" / f"{prepared.cells[0].fingerprint}.pt"  # of a trial that an earlier start was in the middle of
    cut_short.parent.mkdir(parents=True)
    cut_short.write_bytes(b"damaged")
    result = run_sweep(space, command="selftrain sweep toy.yaml", at_once=2)
    assert result.trained == 4 and result.table is not None and result.table.complete
    assert {line["seed"] for line in lines(result.folder)} == {0, 1} and len(lines(result.folder)) == 4
    assert result.folder == cut_short.parents[1] and not cut_short.exists()
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "checkpoints",
        "cost.json",
        "events.jsonl",
        "figure.png",
        "report.html",
        "results.jsonl",
        "space.yaml",
        "table.csv",
        "table.md",
    ]
    page = (result.folder / "report.html").read_text()
    cost = json.loads((result.folder / "cost.json").read_text())
    assert not cost["predicted"]["at_most"] and cost["real"]["texts"] == 0
    assert cost["real"]["hours"] == pytest.approx(result.seconds / 3600, abs=1e-4)
    assert f"<dd>0 texts, 0 tokens of prompts and 0 of texts; {cost['real']['hours']:.2f} hours" in page
    assert "88.0 ± 0.1" in page and "selftrain sweep toy.yaml" in page and page.count("<svg") == 1 and "http" not in page.split("<main>")[0]
    text = (result.folder / "table.md").read_text()
    assert (
        "    selftrain sweep toy.yaml\n" in text
        and "seeds 0, 1" in text
        and "4 trainings in" in text
        and "![the same as a picture](figure.png)" in text
    )
    found = children(document["base"]["tracking"]["uri"], result.mlflow_run_id)
    assert len(found) == 4 and {run.info.status for run in found} == {"FINISHED"}
    assert {run.data.params["method.learning_rate"] for run in found} == {"0.0001", "0.1"}
    assert all({"accuracy", "macro_f1", "ece", "ce"} <= set(run.data.metrics) for run in found)

    capfd.readouterr()
    for work in ("workers", "run_trials", "open_shared_encoder"):
        monkeypatch.setattr(f"selftrain.sweeps.sweep.{work}", lambda *_, **__: pytest.fail("a sweep with nothing to do starts nothing"))
    again = run_sweep(space, at_once=2)
    assert again.folder == result.folder and again.trained == 0 and again.text == result.text
    assert "all 4 results are there" in capfd.readouterr().err
    assert len(lines(result.folder)) == 4
    assert again.mlflow_run_id == result.mlflow_run_id and len(children(document["base"]["tracking"]["uri"], result.mlflow_run_id)) == 4

    # As a kill leaves it; the kill itself: test_address.py.
    monkeypatch.undo()
    kept = (result.folder / "results.jsonl").read_text().splitlines()[:2]
    (result.folder / "results.jsonl").write_text("\n".join([*kept, '{"cell": "cut sho']))
    for name in ("table.md", "table.csv", "report.html"):
        (result.folder / name).unlink()
    done = run_sweep(space, folder=result.folder, at_once=2)
    after = (done.folder / "results.jsonl").read_text().splitlines()
    assert done.trained == 2 and done.table is not None and done.table.complete and done.text == result.text
    assert after[:2] == kept and len({json.loads(line)["cell"] for line in after if line != '{"cell": "cut sho'}) == 4
    events = [json.loads(line) for line in (done.folder / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "trial done" for event in events) == 6


def test_a_trial_whose_process_is_killed_goes_on_after_its_last_round_to_the_same_result(document, tmp_path):
    """SIGKILL, as a preempted node or the kernel gives it: Tune starts another process, which finds the last round."""
    document["base"]["method"] |= {"rounds": 4, "steps_per_round": 5}
    prepared = prepare_sweep(parse_space(document))
    cell, log, kill = prepared.cells[1], tmp_path / "log", signal.SIGKILL
    undisturbed = train_cell(cell, *prepared.corpora[cell.data], no_texts)
    (tmp_path / "checkpoints").mkdir()

    def work(config, shared, report):  # a closure: what a test's module defines cannot be imported by a worker
        from selftrain.sweeps.trial import run_cell
        from selftrain.training import checkpoints

        checkpoints.EVERY_SECONDS, checkpoints._SHARE = -1.0, 0  # every round
        write = checkpoints.RoundCheckpoint.write

        def told(self, state):
            write(self, state)
            with log.open("a") as file:
                file.write(f"{os.getpid()} {len(state['rounds'])}\n")
            if log.read_text().count("\n") == 2:
                os.kill(os.getpid(), kill)

        checkpoints.RoundCheckpoint.write = told
        try:
            return run_cell(config, shared, report)
        finally:
            checkpoints.RoundCheckpoint.write = write

    found = []
    shared = SharedInputs([cell], prepared.corpora, no_texts, checkpoints=tmp_path / "checkpoints")
    run_trials(work, shared, lambda config, result: found.append(result), configs=[{"cell": 0}], at_once=1)
    written = [line.split() for line in log.read_text().splitlines()]
    assert [int(rounds) for _, rounds in written] == [1, 2, 3, 4]  # none of them twice
    assert written[0][0] == written[1][0] != written[2][0] == written[3][0]
    times = {"seconds", "train_seconds"}
    (result,) = found
    assert {name: value for name, value in result.items() if name not in times} == {
        name: value for name, value in json.loads(json.dumps(undisturbed)).items() if name not in times
    }


def test_a_cell_that_cannot_be_trained_is_in_the_table_with_its_reason(document, tmp_path, monkeypatch):
    # The driver, whose embedding is left out, finds nothing wrong; a trial finds its cache folder taken by a file.
    document["seeds"] = [0]
    (tmp_path / "taken").write_text("a file, where a folder should be")
    monkeypatch.setattr("selftrain.sweeps.sweep._Sweep._embed", lambda self, cells: None)
    document["axes"] = {
        "where": {
            "good": {"model": {"cache": str(tmp_path / "embeddings")}},
            "bad": {"model": {"cache": str(tmp_path / "taken"), "max_tokens": 15}},
        }
    }
    result = run_sweep(parse_space(document), at_once=1)
    assert result.table is not None and not result.table.complete and "Failed: bad on" in result.text
    good, bad = (result.table.entries[(row,), result.table.columns[0]] for row in ("good", "bad"))
    assert len(good.values) == 1 and list(bad.failed) == [0] and ("FileExistsError" in bad.failed[0] or "NotADirectory" in bad.failed[0])
    missing: list = []
    monkeypatch.setattr("selftrain.sweeps.sweep.workers", lambda *_: nullcontext())
    monkeypatch.setattr("selftrain.sweeps.sweep.run_trials", lambda work, shared, on_result, **_: missing.extend(shared.cells))
    run_sweep(parse_space(document), at_once=1)
    assert [cell.setting for cell in missing] == ["bad"]  # the failed one is tried again, the other is there
