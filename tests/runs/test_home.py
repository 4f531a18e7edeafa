"""Runs whose folder lies in an object store (an imitation of S3 that speaks its protocol): the same files, continued elsewhere, and what a store can do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import s3fs
from commands import selftrain
from light_runs import described
from object_store import new_bucket, s3_server

from selftrain.errors import ResourceError, SelfTrainError, ServiceError
from selftrain.files import lease as leasing
from selftrain.files import mirror as mirroring
from selftrain.files.durable import write_whole
from selftrain.files.lease import Lease
from selftrain.files.remote import ObjectStore
from selftrain.runs import home as room
from selftrain.runs import run as story
from selftrain.runs.home import Home, opened
from selftrain.runs.resume import resumed_experiment
from selftrain.training import checkpoints
from selftrain.training import fit as fitting
from selftrain.training.checkpoints import RoundCheckpoint

KILLED = """
import os, signal, sys, time
from selftrain.config import load
from selftrain.files import mirror
from selftrain.runs.run import run
from selftrain.training import checkpoints

mirror._EVERY_SECONDS = 0.1
checkpoints.EVERY_SECONDS = checkpoints._SHARE = 0.0
write = checkpoints.RoundCheckpoint.__call__
trained = []

def killed(self, figures, state):
    trained.append(figures["round"])
    if len(trained) == 10:  # the fourth round of the second seed is over and not yet written
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, figures, state)

checkpoints.RoundCheckpoint.__call__ = killed
run(load(sys.argv[1]), command="selftrain run first")
"""


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The temporary folder of this machine, empty."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def runs(server, monkeypatch, scratch) -> str:
    """An address for run folders; the folder is looked through often, and a dead process is given up soon."""
    monkeypatch.setattr(mirroring, "_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(leasing, "STALE_SECONDS", 4.0)
    monkeypatch.setattr(leasing, "BEAT_SECONDS", 0.5)
    return f"{new_bucket(server, monkeypatch)}/runs"


@pytest.fixture
def every_round(monkeypatch) -> list[float]:
    """Every round is written; these are the rounds that were trained."""
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 0.0)
    done: list[float] = []
    report = RoundCheckpoint.__call__
    monkeypatch.setattr(RoundCheckpoint, "__call__", lambda self, figures, state: (done.append(figures["round"]), report(self, figures, state))[1])
    return done


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def names_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def only_run(address: str) -> str:
    (name,) = {name.partition("/")[0] for name in ObjectStore(address, "output").all_names()}
    return f"{address}/{name}"


def figures_of(metrics: dict) -> list[object]:
    """All of metrics.json that a seed decides."""
    rows = [[row["variant"], row["seed"], row["scores"]] for row in metrics["rows"]]
    return [rows, metrics["summary"] and [one["variant"] for one in metrics["summary"]], metrics["rounds"], metrics["data"], metrics["asked"]]


def test_a_run_at_an_address_leaves_the_files_and_the_figures_of_a_local_one_there_and_nothing_here(home, runs, scratch, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    local = story.run(described(home, "head"))
    result = story.run(described(home, "head", output=f"{runs}/"))
    assert result.folder == only_run(runs) and result.folder.startswith(f"{runs}/tiny-")
    store = ObjectStore(result.folder, "output")
    there = set(store.all_names())
    assert there - names_of(local.folder) == {".writer/00000001.json"} and names_of(local.folder) <= there
    metrics = json.loads(store.read("metrics.json"))
    assert figures_of(metrics) == figures_of(local.metrics) and metrics == result.metrics
    assert (metrics["run"]["folder"], metrics["bundle"], result.bundle) == (result.folder, f"{result.folder}/bundle", f"{result.folder}/bundle")
    assert store.read("report.html").startswith(b"<!") and result.folder.encode() in store.read("report.html")
    (weights,) = [name for name in there if name.endswith("prototypes.safetensors")]
    assert store.read(weights) == (local.folder / weights).read_bytes()
    assert left_in(scratch) == [] and left_in(tmp_path / "work") == []
    with pytest.raises(SelfTrainError, match=rf"The run '{result.folder}' is complete; its report is {result.folder}/report\.html\."):
        resumed_experiment(result.folder)


def test_a_run_that_was_killed_goes_on_from_another_folder_to_the_same_figures(home, runs, scratch, tmp_path, monkeypatch, every_round):
    experiment = described(home, "head", output=runs, seeds=[0, 1])
    write_whole(tmp_path / "experiment.yaml", experiment.to_yaml())
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "experiment.yaml")], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == -9, process.stderr[-3000:]
    address = only_run(runs)
    store = ObjectStore(address, "output")
    assert "metrics.json" not in store.all_names() and len(store.read("checkpoints/rows.jsonl").splitlines()) == 1

    other = tmp_path / "other"
    (other / "scratch").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", None)
    said = selftrain(other, "run", "--resume", address, environment={"TMPDIR": str(other / "scratch")})
    assert said.returncode == 0, said.stderr
    assert every_round == [4.0, 5.0, 6.0], "nothing is trained twice"
    assert f"report      {address}/report.html" in said.stdout and f"run resumed folder={address} " in said.stderr
    metrics = json.loads(store.read("metrics.json"))
    whole = story.run(described(home, "head", seeds=[0, 1]))
    assert figures_of(metrics) == figures_of(whole.metrics)
    assert (
        metrics["run"]["id"] == address.rpartition("/")[2] and metrics["run"]["command"] == f"selftrain run first\nselftrain run --resume {address}"
    )
    assert left_in(other) == [] and len(left_in(scratch)) > 0, "of a process that was killed"
    assert {name for name in store.all_names() if name.startswith(".writer")} == {".writer/00000002.json"}


def test_a_second_process_is_refused_before_it_trains_anything(home, runs, tmp_path, monkeypatch):
    address = f"{runs}/tiny-1"
    store = ObjectStore(address, "output")
    store.replace("config.yaml", described(home, "head", output=runs).to_yaml().encode())
    monkeypatch.setattr(fitting, "train", lambda *_, **__: pytest.fail("nothing is trained"))
    lease = Lease(store, None, lambda said: None)
    said = selftrain(tmp_path, "run", "--resume", address, environment={})
    lease.release()
    assert said.returncode == 2 and said.stdout == ""
    last = said.stderr.splitlines()[-1]
    assert last.startswith(f"selftrain: {address} is being written by another process (") and last.endswith("wait until that has ended, or stop it.")
    assert "Traceback" not in said.stderr and store.names() == [".writer", "config.yaml"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_store_that_does_not_answer_is_said_before_anything_starts(home, scratch, tmp_path, monkeypatch, resume):
    (tmp_path / "work").mkdir()
    write_whole(tmp_path / "experiment.yaml", described(home, "head", output="s3://nowhere/runs").to_yaml())
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    words = ["--resume", "s3://nowhere/runs/x"] if resume else [str(tmp_path / "experiment.yaml")]
    said = selftrain(tmp_path / "work", "run", *words, environment=environment)
    s3fs.S3FileSystem.clear_instance_cache()
    assert said.returncode == 2 and said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert line.startswith("selftrain: s3://nowhere/runs/") and "cannot be reached (" in line and "127.0.0.1:9" in line
    assert left_in(tmp_path / "work") == [] and left_in(scratch) == []


def test_a_bucket_that_is_not_there_and_an_address_of_another_kind_are_said(home, runs):
    with pytest.raises(
        SelfTrainError, match=r"s3://no-bucket/runs/tiny-\S+/\.writer/00000001\.json cannot be written: there is no such bucket; create it, or"
    ):
        story.run(described(home, "head", output="s3://no-bucket/runs"))
    with pytest.raises(SelfTrainError, match=r"output must be a folder, or an address that begins with s3:// or gs:// \(got 'ftp://a/tiny-"):
        story.run(described(home, "head", output="ftp://a"))
    with pytest.raises(SelfTrainError, match=rf"resume '{runs}/x' is not a run folder: it has no config\.yaml"):
        resumed_experiment(f"{runs}/x")


def test_a_store_that_dies_ends_the_run_with_one_sentence_and_gets_the_rest_when_it_is_back(home, runs, monkeypatch, every_round, capsys):
    monkeypatch.setattr(room, "_PATIENCE", 1.0)
    upload = ObjectStore.upload
    dead = lambda *_: (_ for _ in ()).throw(ServiceError("s3 cannot be reached"))  # noqa: E731
    score = story._Work._score

    def dying(self, *asked):
        time.sleep(0.5)
        monkeypatch.setattr(ObjectStore, "upload", dead)
        score(self, *asked)

    monkeypatch.setattr(story._Work, "_score", dying)
    said = r"The run is finished in (\S+) of \S+, but s3://\S+ does not have all of it \(s3 cannot be reached\); when it can be written again, .* --resume \1`:"
    with pytest.raises(ServiceError, match=said) as raised:
        story.run(described(home, "head", output=runs))
    assert "the address is away" in capsys.readouterr().err
    copy, address = Path(str(raised.value).split()[5]), only_run(runs)
    store = ObjectStore(address, "output")
    assert (copy / "metrics.json").is_file() and "metrics.json" not in store.all_names() and "config.yaml" in store.all_names()

    monkeypatch.setattr(ObjectStore, "upload", upload)
    trained = len(every_round)
    again = story.run(resumed_experiment(copy), resume=copy)
    assert again.folder == address and len(every_round) == trained == 6
    assert json.loads(store.read("metrics.json")) == again.metrics and not copy.exists()


def test_a_copy_that_another_process_has_gone_beyond_is_refused(home, runs, monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", lambda *_: (_ for _ in ()).throw(ServiceError("away")))
        with pytest.raises(ServiceError) as raised, opened(f"{runs}/x", "run") as there:
            write_whole(there.folder / "config.yaml", "a: 1")
    copy = Path(str(raised.value).split()[5])
    with opened(f"{runs}/x", "run") as other:
        write_whole(other.folder / "config.yaml", "b: 1")
    write_whole(copy / ".address.json", json.dumps({"address": f"{runs}/x", "number": 1}))  # as on another machine
    with pytest.raises(SelfTrainError, match="was continued by another process since this copy of it was made"), opened(copy, "run"):
        pytest.fail("nothing starts")


def test_what_a_killed_process_has_left_on_this_machine_is_newer_than_the_address_and_is_used(runs, scratch, monkeypatch):
    monkeypatch.setattr(room, "_PATIENCE", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", lambda *_: (_ for _ in ()).throw(ServiceError("away")))
        with pytest.raises(ServiceError), opened(f"{runs}/x", "run") as there:
            write_whole(there.folder / "a.txt", "a")
    older, of_another = (room.own_folder("runs") / name / "x" for name in ("older", "another"))
    write_whole(older / ".address.json", json.dumps({"address": f"{runs}/x", "number": 0}))
    write_whole(of_another / ".address.json", json.dumps({"address": f"{runs}/y", "number": 1}))
    with opened(f"{runs}/x", "run") as again:
        assert (again.folder / "a.txt").read_text() == "a" and again.folder != there.folder and not there.folder.exists()
        assert not older.exists() and of_another.exists()
    assert ObjectStore(f"{runs}/x", "output").read("a.txt") == b"a" and left_in(scratch) == [of_another / ".address.json"]


@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def test_a_process_whose_right_is_taken_stops_in_the_middle_and_writes_nothing(runs, scratch, sigint, request):
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, sigint)
    store = ObjectStore(f"{runs}/x", "output")
    started = time.monotonic()
    with (
        pytest.raises(ResourceError, match=r"was taken over by another process \(elsewhere, process 7, since then\)"),
        opened(f"{runs}/x", "run") as there,
    ):
        write_whole(there.folder / "a.txt", "first")
        while "a.txt" not in store.all_names():
            time.sleep(0.05)
        store.replace(".writer/00000002.json", json.dumps({"host": "elsewhere", "process": 7, "since": "then"}).encode())
        while time.monotonic() < started + 60:
            time.sleep(0.05)
            write_whole(there.folder / "late.txt", "late") if there.folder.exists() and time.monotonic() > started + 2 else None
        pytest.fail("it was not stopped")
    assert time.monotonic() - started < 20 and left_in(scratch) == []


def test_work_that_fails_leaves_what_it_wrote_at_the_address_and_gives_the_right_back(runs, scratch):
    with pytest.raises(ZeroDivisionError), opened(f"{runs}/x", "run", new=True) as there:
        write_whole(there.folder / "a.txt", "a")
        raise ZeroDivisionError
    store = ObjectStore(f"{runs}/x", "output")
    assert store.read("a.txt") == b"a" and json.loads(store.read(".writer/00000001.json"))["ended"] and left_in(scratch) == []
    with pytest.raises(ZeroDivisionError), opened(f"{runs}/y", "run", new=True):
        raise ZeroDivisionError
    assert ObjectStore(f"{runs}/y", "output").all_names() == []


def test_where_things_lie():
    local, remote = Home(Path("runs/x")), Home(Path("/tmp/x"), "s3://b/runs/x")
    assert (local.place, local.at("a"), local.checkpoints) == (Path("runs/x"), "runs/x/a", Path("runs/x/checkpoints"))
    assert (remote.place, remote.at("a"), remote.checkpoints) == ("s3://b/runs/x", "s3://b/runs/x/a", "s3://b/runs/x/checkpoints")
    assert room.below("s3://b/runs/", "x") == "s3://b/runs/x" and room.below("runs", "x") == Path("runs/x")
    assert room._of_ray_train("checkpoints/genco-seed0/checkpoint_1/state.pt") and not room._of_ray_train("checkpoints/rows.jsonl")


def test_checkpoints_of_ray_train_lie_with_the_run_or_in_a_folder_of_its_own_on_the_storage(home, runs, monkeypatch):
    class EnoughError(Exception):
        pass

    places = []

    def seen(*_, workgroup, **__):
        places.append(workgroup.storage_path)
        raise EnoughError

    monkeypatch.setattr(story, "fit", seen)
    shared = {"threads": 1, "storage": "s3://bucket/checkpoints"}
    for changes in ({}, {"output": runs}, {"training": shared}, {"training": shared}):
        with pytest.raises(EnoughError):
            story.run(described(home, "head", **changes))
    local, remote, first, second = places
    assert Path(local).parts[-3] == "runs" and Path(local).name == "checkpoints"
    assert remote == f"{only_run(runs)}/checkpoints"
    assert first.startswith("s3://bucket/checkpoints/tiny-") and second.startswith("s3://bucket/checkpoints/tiny-") and first != second
