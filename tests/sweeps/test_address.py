"""A sweep whose folder lies in an object store: killed, and gone on with from another folder to the scores that nobody disturbed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
import yaml
from commands import selftrain
from object_store import new_bucket, s3_server
from processes import end_all, started_by

from selftrain.config import Experiment
from selftrain.data.texts import no_texts
from selftrain.files import lease as leasing
from selftrain.files.remote import ObjectStore
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.runner import trial_needs, workers
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.trial import train_cell

pytestmark = pytest.mark.ray
SWEEP = "import sys; from selftrain.files import mirror; mirror._EVERY_SECONDS = 0.1; from selftrain.cli import main; sys.exit(main())"
FILES = {
    "checkpoints/tracking.jsonl",
    "cost.json",
    "events.jsonl",
    "figure.png",
    "report.html",
    "results.jsonl",
    "space.yaml",
    "table.csv",
    "table.md",
}


@pytest.fixture
def address(monkeypatch):
    with s3_server() as server:
        yield f"{new_bucket(server, monkeypatch)}/runs"


def lines(content: bytes) -> list[dict]:
    return [json.loads(line) for line in content.splitlines()]


def scores(results: list[dict]) -> dict:
    return {line["cell"]: [line["result"][part] for part in ("scores", "rounds")] for line in results}


def test_a_killed_sweep_goes_on_from_its_address_in_another_folder(document, tmp_path, address, monkeypatch):
    document["base"]["method"] |= {"rounds": 10, "steps_per_round": 100}  # a second or more, so that the kill comes before the fourth training ends
    remote = {**document, "base": {**document["base"], "output": address}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(remote))
    store = ObjectStore(address, "output")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", SWEEP, "sweep", "toy.yaml", "--at-once", "1"], cwd=tmp_path, stdout=log, stderr=log)
    family: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 300
    results: list[str] = []
    while not results:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        family.update({child.pid: child for child in started_by(process.pid)})
        results = [name for name in store.all_names() if name.endswith("/results.jsonl")]
        time.sleep(0.2)
    process.kill()
    process.wait()
    end_all(family.values())
    folder = f"{address}/{results[0].removesuffix('/results.jsonl')}"
    before = lines(store.read(results[0]))
    assert 0 < len(before) < 4

    (tmp_path / "other" / "scratch").mkdir(parents=True)
    monkeypatch.setattr(leasing, "STALE_SECONDS", 8.0)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with workers(Experiment(), trial_needs(1, 0.0, None)):  # for the sweeps of this process
        done = selftrain(
            tmp_path / "other", "sweep", "--resume", folder, "--at-once", "1", environment={"TMPDIR": str(tmp_path / "other" / "scratch")}
        )
    assert done.returncode == 0, done.stderr
    # What the killed sweep was sending arrives after it: the one that goes on may find a line more.
    said = re.search(rf"trainings=(\d) there=(\d) at_once=1 folder={re.escape(folder)}\n", done.stderr)
    missing, there = int(said[1]), int(said[2])
    assert missing + there == 4 and len(before) <= there < 4 and done.stderr.count("trial done") == missing
    assert f"report      {folder}/report.html\ntable       {folder}/table.md" in done.stdout
    after = lines(store.read(results[0]))
    assert after[: len(before)] == before and len(after) == 4
    prepared = prepare_sweep(parse_space(document))
    undisturbed = [{"cell": cell.fingerprint, "result": train_cell(cell, *prepared.corpora[cell.data], no_texts)} for cell in prepared.cells]
    assert scores(after) == scores(json.loads(json.dumps(undisturbed)))
    assert set(ObjectStore(folder, "output").all_names()) == FILES | {".writer/00000002.json"}
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file() and "ray" not in path.parts] == []

    again = selftrain(tmp_path, "sweep", "toy.yaml", environment=dict(os.environ))
    assert again.returncode == 0 and "all 4 results are there" in again.stderr
    described = selftrain(tmp_path, "sweep", "toy.yaml", "--dry-run", environment={})
    assert f"# folder: {folder}" in described.stdout and "4 trainings, 0 of them still to do" in described.stdout
