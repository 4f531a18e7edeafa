"""`ray job submit -- python jobs/train.py` against a running head node with token authentication: the job runs, and only with the token."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
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


@pytest.fixture
def experiment(tmp_path):
    """An experiment of seconds, without a language model: 60 documents of two classes, and an encoder of one layer."""
    with (tmp_path / "news.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(60):
            label = ("sport", "business")[number % 2]
            words = WORDS[label]
            rows.writerow([f"the {words[number % 5]} and the {words[number // 5 % 5]} of number {number}", label])
    tiny_backbone(tmp_path / "raw").save_pretrained(str(tmp_path / "encoder"))
    file = tmp_path / "tiny.yaml"
    document = {
        "name": "job",
        "data": {"source": str(tmp_path / "news.csv"), "label_column": "label", "classes": ["sport", "business"], "test_documents": 20},
        "model": {"encoder": str(tmp_path / "encoder")},
        "method": {"name": "genco", "input_augmentation": False, "conditional_augmentation": False, "rounds": 1},
        "evaluation": {"map": "none"},
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
        "output": str(tmp_path / "elsewhere"),
    }
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.ray
def test_a_job_trains_on_a_running_head_node(head, experiment, tmp_path):
    address, environment = head

    stranger = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN"} | {"RAY_AUTH_MODE": "disabled"}
    assert ray("job", "list", "--address", address, environment=stranger).returncode != 0

    submit = ["job", "submit", "--address", address, "--submission-id", "tiny", "--working-dir", "."]
    submit += ["--", "python", "jobs/train.py", str(experiment)]
    submitted = ray(*submit, "--set", f"output={tmp_path / 'runs'}", environment=environment, timeout=400)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "Job 'tiny' succeeded" in ray("job", "status", "--address", address, "tiny", environment=environment).stdout

    (folder,) = (tmp_path / "runs").iterdir()
    for name in ("config.yaml", "metrics.json", "events.jsonl", "report.html", "bundle"):
        assert (folder / name).exists(), name
    assert json.loads((folder / "metrics.json").read_text())["data"]["unlabeled"] == 40
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.ray
def test_a_job_that_is_asked_for_the_impossible_fails_with_the_sentence(head, experiment):
    address, environment = head
    submit = ["job", "submit", "--address", address, "--working-dir", ".", "--", "python", "jobs/train.py", str(experiment)]
    failed = ray(*submit, "--set", "training.workers=99", environment=environment, timeout=200)
    assert failed.returncode != 0
    assert "needs 100 CPUs and the Ray cluster has 4" in failed.stdout + failed.stderr


def test_the_entry_point_hands_everything_on_and_takes_the_jobs_cluster():
    import runpy

    command = runpy.run_path(str(ROOT / "jobs" / "train.py"))["command"]
    assert command(["a.yaml", "--set", "seeds=[1]", "--resume", "runs/x"]) == [
        "run",
        "a.yaml",
        "--set",
        "seeds=[1]",
        "--resume",
        "runs/x",
        "--address",
        "auto",
    ]
