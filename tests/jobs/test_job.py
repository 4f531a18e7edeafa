"""`selftrain submit` and `selftrain jobs` against a running head node with token authentication: one head for all tests of the file."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from processes import end_all, started_by
from tiny import tiny_backbone

from selftrain.cli import main
from selftrain.config import merge
from selftrain.runtime.jobs import Jobs

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
WORDS = {"sport": ("match", "goal", "team", "player", "coach"), "business": ("bank", "profit", "market", "shares", "economy")}


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to connections: one of them may be taken before the head listens there, and a node whose agent cannot listen ends."""
    found: list[int] = []
    for port in random.sample(range(20000, 32000), 200):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def end(process: subprocess.Popen) -> None:
    """Stop a process and what it started, each by its id: `ray stop` would end every Ray of the machine."""
    family = list(started_by(process.pid)) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    end_all(family)


@pytest.fixture(scope="module")
def head():
    """A head node of the test's own, with ports, temporary folder, home and token of its own: (address of its dashboard, environment of its clients)."""
    folder = Path(tempfile.mkdtemp(prefix="st-job-", dir="/tmp"))  # short: Ray makes Unix sockets below it, whose paths may have 107 bytes
    port, dashboard, client, agent, metrics = free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SELFTRAIN_"))} | {
        "HOME": str(folder / "home"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",  # of the nodes, and made once
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "platform"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    (folder / "home").mkdir()
    command = [str(PROGRAMS / "ray"), "start", "--head", "--block", "--num-cpus=4", "--object-store-memory=100000000", f"--temp-dir={folder / 'ray'}"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", "--node-ip-address=127.0.0.1"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 120
        while not answers(address, environment):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield address, environment
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str, environment: dict[str, str]) -> bool:
    """Whether the head takes jobs; asked by HTTP, since each call of `ray job list` takes seconds for its imports."""
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/api/jobs/", headers={"authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}, timeout=10).status_code == 200
    return False


@pytest.fixture
def selftrain(head, monkeypatch, capfd):
    """Runs a command that speaks to the head, in this process, which has the imports of all: returns its exit code and what it printed."""
    address, environment = head
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")  # `Jobs` removes it; afterwards it is as before
    for name in ("MLFLOW_TRACKING_URI", "SELFTRAIN_STORAGE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(arguments)
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def write_experiment(folder: Path, **sections: dict) -> None:
    """tiny.yaml, an experiment of seconds, without a language model: 60 documents of two classes, and an encoder of one layer."""
    with (folder / "news.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(60):
            label = ("sport", "business")[number % 2]
            words = WORDS[label]
            rows.writerow([f"the {words[number % 5]} and the {words[number // 5 % 5]} of number {number}", label])
    tiny_backbone(folder / "raw").save_pretrained(str(folder / "encoder"))
    document = {
        "name": "job",
        "data": {"source": "news.csv", "label_column": "label", "classes": ["sport", "business"], "test_documents": 20},
        "model": {"encoder": str(folder / "encoder")},
        "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "rounds": 1},
        "evaluation": {"map": "none"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(merge(document, sections)))


@pytest.mark.ray
def test_a_submitted_run_trains_on_the_cluster_of_this_machine_and_leaves_all_in_the_working_folder(selftrain, tmp_path, monkeypatch):
    """A head, which trains in the job's own process; tests/cluster submits a job with Ray Train."""
    write_experiment(tmp_path, model={"train": "head"})
    monkeypatch.chdir(tmp_path)
    code, output = selftrain("submit", "run", "tiny.yaml", "--set", "seeds=[3]")
    assert code == 0 and "run started" in output and "has succeeded" in output, output
    (folder,) = (tmp_path / "runs").iterdir()
    for name in ("config.yaml", "metrics.json", "events.jsonl", "report.html", "bundle"):
        assert (folder / name).exists(), name
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["unlabeled"] == 40 and metrics["asked"]["seeds"] == [3]
    assert not (tmp_path / "mlflow.db").exists(), "the nodes have an address of their own"


@pytest.mark.ray
def test_a_stopped_job_is_resumed_to_its_end_with_the_files_that_it_took_along(selftrain, head, tmp_path, monkeypatch):
    here, storage, seeds = tmp_path / "here", tmp_path / "storage", list(range(10))
    here.mkdir()
    storage.mkdir()
    write_experiment(here, model={"train": "head"}, seeds=seeds)
    there = set(here.iterdir())
    monkeypatch.chdir(here)
    monkeypatch.setattr(Jobs, "here", lambda jobs: False)  # as from another machine
    code, output = selftrain("submit", "run", "tiny.yaml", "--storage", str(storage), "--detach")
    (id_,) = re.findall(r"^job +(\S+)$", output, re.MULTILINE)
    assert code == 0 and f"selftrain jobs logs {id_}" in output
    (here / "news.csv").unlink()

    jobs = Jobs()
    rows = wait_for(lambda: next((file for file in storage.glob("runs/*/checkpoints/rows.jsonl") if file.read_text()), None), jobs, id_)
    code, output = selftrain("jobs", "stop", id_)
    assert code == 0 and f"the job {id_} was stopped; `selftrain jobs resume {id_}` continues it." in output
    folder, before = rows.parents[1], rows.read_text()
    assert before.count("\n") < len(seeds), "it was stopped in the middle"
    assert "run stopped" in (folder / "events.jsonl").read_text(), "in order"

    program = "import sys; from selftrain.cli import main; sys.exit(main())"
    environment = head[1] | {"RAY_ADDRESS": head[0]}
    command = [sys.executable, "-c", program, "jobs", "resume", id_]
    with subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as follower:
        resumed = next(line.split()[1] for line in follower.stdout if line.startswith("job "))
        follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        output = follower.stdout.read()
    assert follower.returncode == 130
    assert f"the job {resumed} goes on; `selftrain jobs logs {resumed}` follows it again, `selftrain jobs stop {resumed}` stops it." in output

    code, output = selftrain("jobs", "logs", resumed)
    assert code == 0 and f"run resumed folder={folder}" in output and f"the job {resumed} has succeeded" in output, output
    assert list((storage / "runs").iterdir()) == [folder]
    assert rows.read_text().startswith(before) and json.loads((folder / "metrics.json").read_text())["asked"]["seeds"] == seeds
    assert set(here.iterdir()) == there - {here / "news.csv"}, "all that is made lies on the storage"
    assert selftrain("jobs", "logs", resumed, "--no-follow") == (0, output[: output.rindex("selftrain: the job ")])
    _, listed = selftrain("jobs", "list")
    shown = {line.split()[0]: line.split(maxsplit=4) for line in listed.splitlines()}
    assert [shown[id_][1], shown[resumed][1]] == ["stopped", "succeeded"]
    assert shown[id_][4] == shown[resumed][4] == f"selftrain submit run tiny.yaml --storage {storage} --detach"


def wait_for(found, jobs, id_):
    deadline = time.monotonic() + 200
    while (result := found()) is None:
        assert time.monotonic() < deadline and not jobs.job(id_).ended, jobs.logs(id_)
        time.sleep(0.1)
    return result


@pytest.mark.ray
def test_a_job_that_is_asked_for_the_impossible_ends_with_its_sentence_and_exit_code(selftrain, tmp_path, monkeypatch):
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, output = selftrain("submit", "run", "tiny.yaml", "--set", "training.workers=99")
    assert code == 2 and "needs 100 CPUs and the Ray cluster has 4" in output and "has failed (exit code 2); " in output
    missing = tmp_path / "nowhere"
    code, output = selftrain("submit", "generate", "--per-class=1", "--out=x", "--storage", str(missing))
    assert code == 2 and f"storage '{missing}' is not a folder on the node" in output and not missing.exists()
    code, output = selftrain("jobs", "stop", "nowhere")
    assert code == 2 and "ID must be that of a job of the cluster (got 'nowhere')" in output


@pytest.mark.ray
def test_a_job_of_the_checkout_finds_its_experiment_and_the_library_that_was_sent(selftrain, head):
    """What `.rayignore` leaves of the working directory suffices, and the library comes as docs/howto/jobs.md says."""
    from ray.job_submission import JobSubmissionClient

    environment = {"working_dir": str(ROOT), "py_modules": [str(ROOT / "platform" / "selftrain")], "excludes": ["__pycache__"]}
    entry = "python jobs/train.py jobs/experiments/bbc_news.yaml --set method.taau=1"  # ends when it has read the file
    selftrain("jobs", "list")  # has the token read
    id_ = JobSubmissionClient(head[0]).submit_job(
        entrypoint=f"python -c 'import selftrain; print(selftrain.__file__)' && {entry}", runtime_env=environment
    )
    code, output = selftrain("jobs", "logs", id_)
    assert code == 2 and "Unknown option method.taau of genco" in output, output
    (library,) = (line for line in output.splitlines() if line.endswith("selftrain/__init__.py"))
    assert "/py_modules_files/" in library and str(ROOT) not in library, output


@pytest.mark.ray
def test_a_stranger_is_refused(selftrain, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    code, output = selftrain("jobs", "list")
    assert code == 2 and "wants another token than this machine has" in output
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, output = selftrain("jobs", "list")
    assert code == 2 and "There is no token for the Ray cluster at" in output
