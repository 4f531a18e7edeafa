"""A pass on the real Ray: processes that are killed, and a bundle that is sent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from many_files import check_result, files_of, rows_of, write_parquet
from processes import started_by

from selftrain.config import Experiment
from selftrain.errors import ProcessDied
from selftrain.passes import prediction
from selftrain.passes.bundles import bundle_id, send
from selftrain.passes.prediction import predict_files
from selftrain.passes.stream import answers
from selftrain.runtime.cluster import Needs, session

pytestmark = pytest.mark.ray

COMMAND = """
import sys
from selftrain.passes import parts
parts.PART_ROWS = 12
from selftrain.cli import main
sys.exit(main(["predict", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def on_ray():
    with session(Experiment(), Needs(2.0, 0.0, 1.0)):
        yield


@pytest.fixture
def long_pass(docs) -> Path:
    """A folder whose pass has a hundred parts, so that there is a middle of it."""
    write_parquet(docs / "f.parquet", rows_of("f", 1000), row_group_size=12)
    return docs


def wait_for_parts(out: Path, count: int, alive) -> None:
    end = time.monotonic() + 300
    while len(list(out.glob("part-*"))) < count:
        assert alive() and time.monotonic() < end
        time.sleep(0.01)


def kill_the_worker(out: Path, count: int, killed: list[int]) -> None:
    """Kill the process that classifies once `count` parts are written; `killed` gets the parts that are then there."""
    wait_for_parts(out, count, lambda: True)
    for child in started_by(title="MapWorker"):
        killed.append(len(list(out.glob("part-*"))))
        child.kill()


def test_a_killed_command_goes_on_where_it_was_and_a_killed_worker_is_replaced(on_ray, long_pass, bundle, small_parts, tmp_path):
    """Two in one: each start of a process that classifies takes as long as the rest."""
    out = tmp_path / "labeled"
    command = [sys.executable, "-c", COMMAND, "--bundle", str(bundle), "--file", str(long_pass), "--out", str(out), "--at-once", "1"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    try:
        wait_for_parts(out, 3, lambda: process.poll() is None)
        family = list(started_by(process.pid))
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(family, 90)
    assert len(family) > 3 and not left and not (out / "_manifest.json").exists()

    written = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_worker, args=(out, len(written) + 3, killed))
    killer.start()
    made = predict_files(bundle, long_pass, out, at_once=1)
    killer.join()
    assert len(killed) == 1 and 3 <= len(written) < killed[0] < made.parts
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written
    check_result(out, bundle, files_of(long_pass), tmp_path / "one by one")


def test_text_files_that_are_large_are_described_on_the_cluster(on_ray, docs, monkeypatch):
    monkeypatch.setattr(prediction, "_NEAR_BYTES", 0)
    sources, _ = prediction.find_sources(str(docs))
    here = prediction._described_here(sources, "text")
    assert [one is None for one in here] == [not source.parquet for source in sources]
    found = prediction._described_there(sources, here, "text", prediction.Pool(2, 1, 0.0))
    assert [sum(one.rows) for one in found] == [45, 22, 17, 9, 8, 100]
    monkeypatch.undo()
    assert found == prediction._described_here(sources, "text")


def test_a_bundle_is_sent_by_its_content(on_ray, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("selftrain.passes.bundles._PIECE", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sent = send(bundle, bundle_id(bundle), alone=False)
    assert str(bundle).encode() not in (sent.pieces or b"")
    there = sent.unpacked()
    assert there != bundle and there.name == sent.id == bundle_id(there) and there.is_relative_to(tmp_path)
    before = (there / "selftrain.json").stat().st_mtime_ns
    assert sent.unpacked() == there and (there / "selftrain.json").stat().st_mtime_ns == before
    assert send(bundle, sent.id, alone=True).unpacked() == bundle


def test_what_kills_every_process_that_gets_it_ends_the_pass(on_ray):
    class Killed:
        def __call__(self, batch):
            if batch["asked"][0] == "poison":
                os._exit(1)
            return {"asked": batch["asked"], "answer": [batch["asked"][0].upper()]}

    assert sorted(answers(["a", "b"], Killed, (), at_once=2, cpus=1)) == ["A", "B"]
    with pytest.raises(ProcessDied, match=r"^A process of the pass was killed, or crashed, and so were those that took its place\.$"):
        list(answers(["poison"], Killed, (), at_once=1, cpus=1))
