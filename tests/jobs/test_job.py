"""`selftrain submit` and `selftrain jobs` against a running head node with token authentication: one head for all tests of the file."""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from tiny import tiny_backbone

from selftrain.config import merge
from selftrain.runtime.jobs import Jobs

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
WORDS = {"sport": ("match", "goal", "team", "player", "coach"), "business": ("bank", "profit", "market", "shares", "economy")}


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def end(process: subprocess.Popen) -> None:
    """Stop a process and what it started, each by its id: `ray stop` would end every Ray of the machine."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    for child in family:
        if child.is_running():
            child.kill()
    psutil.wait_procs(family, timeout=10)


@pytest.fixture(scope="module")
def head():
    """A head node of the test's own, with ports, temporary folder, home and token of its own: (address of its dashboard, environment of its clients)."""
    folder = Path(tempfile.mkdtemp(prefix="st-job-", dir="/tmp"))  # short: Ray makes Unix sockets below it, whose paths may have 107 bytes
    port, dashboard, client, agent, metrics = free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SELFTRAIN_"))} | {
        "HOME": str(folder / "home"),
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
        while ray("job", "list", "--address", address, environment=environment).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(1)
        yield address, environment
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def ray(*arguments: str, environment: dict[str, str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAMS / "ray"), *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def selftrain(*arguments: str, head: tuple[str, dict[str, str]], folder: Path, elsewhere: bool = False, timeout: float = 400) -> tuple[int, str]:
    """Exit code and output of a command that speaks to the head, in `folder`."""
    with started(*arguments, head=head, folder=folder, elsewhere=elsewhere) as process:
        output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def started(*arguments: str, head: tuple[str, dict[str, str]], folder: Path, elsewhere: bool = False) -> subprocess.Popen[str]:
    """The same command, while it runs. `elsewhere`: it takes the head for another machine's, so that files travel and a storage is needed."""
    address, environment = head
    program = f"from selftrain.runtime.jobs import Jobs; Jobs.here = lambda jobs: {not elsewhere}\n" if elsewhere else ""
    program += "import sys; from selftrain.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment | {"RAY_ADDRESS": address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
def test_a_submitted_run_trains_on_the_cluster_of_this_machine_and_leaves_all_in_the_working_folder(head, tmp_path):
    write_experiment(tmp_path)
    code, output = selftrain("submit", "run", "tiny.yaml", "--set", "seeds=[3]", head=head, folder=tmp_path)
    assert code == 0, output
    assert "run started" in output and "has succeeded" in output and "MLflow      " not in output
    (id_,) = re.findall(r"^job +(\S+)$", output, re.MULTILINE)

    (folder,) = (tmp_path / "runs").iterdir()
    for name in ("config.yaml", "metrics.json", "events.jsonl", "report.html", "bundle"):
        assert (folder / name).exists(), name
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["unlabeled"] == 40 and metrics["asked"]["seeds"] == [3]
    assert (tmp_path / "mlflow.db").exists()

    code, listed = selftrain("jobs", "list", head=head, folder=tmp_path)
    (line,) = [line for line in listed.splitlines() if line.startswith(id_)]
    assert line.split()[1] == "succeeded" and line.endswith("selftrain submit run tiny.yaml --set 'seeds=[3]'")
    assert selftrain("jobs", "logs", id_, "--no-follow", head=head, folder=tmp_path) == (0, output_of_job(output))
    code, refused = selftrain("jobs", "resume", id_, head=head, folder=tmp_path)
    assert code == 2 and "is a job that has succeeded; there is nothing to resume." in refused


def output_of_job(output: str) -> str:
    """What the job printed, of what `submit` printed."""
    return output[output.index("\n") + 1 : output.rindex("selftrain: the job ")]


@pytest.mark.ray
def test_a_stopped_job_is_resumed_to_its_end_with_the_files_that_it_took_along(head, tmp_path, monkeypatch):
    here, storage, seeds = tmp_path / "here", tmp_path / "storage", list(range(16))
    here.mkdir()
    storage.mkdir()
    write_experiment(here, model={"train": "head"}, seeds=seeds)
    code, output = selftrain("submit", "run", "tiny.yaml", head=head, folder=here, elsewhere=True)
    assert code == 2 and "--storage must be set to a folder that all nodes share" in output
    there = set(here.iterdir())

    follower = started("submit", "run", "tiny.yaml", "--storage", str(storage), head=head, folder=here, elsewhere=True)
    jobs = jobs_of(head, monkeypatch)
    rows = wait_for(lambda: next((file for file in storage.glob("runs/*/checkpoints/rows.jsonl") if file.read_text()), None), follower)
    (job,) = [job for job in jobs.list() if job.status == "running"]
    assert jobs.stop(job.id).status == "stopped"  # at once: the command takes seconds to start
    output, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130 and f"the job {job.id} was stopped; `selftrain jobs resume {job.id}` continues it." in output
    folder, before = rows.parents[1], rows.read_text()
    assert before.count("\n") < len(seeds), "it was stopped in the middle"
    assert "run stopped" in (folder / "events.jsonl").read_text(), "in order"

    (here / "news.csv").unlink()
    follower = started("jobs", "resume", job.id, head=head, folder=here)
    wait_for(lambda: rows.read_text() != before or None, follower)
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=60)
    (id_,) = re.findall(r"^job +(\S+)$", output, re.MULTILINE)
    assert follower.returncode == 130
    assert f"the job {id_} goes on; `selftrain jobs logs {id_}` follows it again, `selftrain jobs stop {id_}` stops it." in output

    code, output = selftrain("jobs", "logs", id_, head=head, folder=here)
    assert code == 0 and f"run resumed folder={folder}" in output, output
    assert list((storage / "runs").iterdir()) == [folder]
    assert rows.read_text().startswith(before) and json.loads((folder / "metrics.json").read_text())["asked"]["seeds"] == seeds
    assert (storage / "mlflow.db").exists() and set(here.iterdir()) == there - {here / "news.csv"}


def jobs_of(head: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """The jobs, for this process."""
    address, environment = head
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")  # `Jobs` removes it; afterwards it is as before
    return Jobs(address)


def wait_for(found, process):
    deadline = time.monotonic() + 200
    while (result := found()) is None:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)
    return result


@pytest.mark.ray
def test_a_job_that_is_asked_for_the_impossible_ends_with_its_sentence_and_exit_code(head, tmp_path):
    write_experiment(tmp_path)
    code, output = selftrain("submit", "run", "tiny.yaml", "--set", "training.workers=99", head=head, folder=tmp_path)
    assert code == 2 and "needs 100 CPUs and the Ray cluster has 4" in output and "has failed (exit code 2); " in output
    code, output = selftrain("jobs", "stop", "nowhere", head=head, folder=tmp_path)
    assert code == 2 and "ID must be that of a job of the cluster (got 'nowhere')" in output
    missing = tmp_path / "nowhere"
    code, output = selftrain("submit", "generate", "--per-class=1", "--out=x", "--storage", str(missing), head=head, folder=tmp_path)
    assert code == 2 and f"storage '{missing}' is not a folder on the node" in output and not missing.exists()


@pytest.mark.ray
def test_a_stranger_is_refused(head, tmp_path):
    address, environment = head
    stranger = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN"}
    code, output = selftrain("jobs", "list", head=(address, stranger), folder=tmp_path)
    assert code == 2 and "There is no token for the Ray cluster at" in output
    code, output = selftrain("jobs", "list", head=(address, environment | {"RAY_AUTH_TOKEN": "0" * 64}), folder=tmp_path)
    assert code == 2 and "wants another token than this machine has" in output
