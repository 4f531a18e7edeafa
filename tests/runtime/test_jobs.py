"""Jobs as the cluster tells of them, followed over connections that break, stopped and resumed: by a job server of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from selftrain.errors import ConfigError, ServiceError
from selftrain.runtime import jobs as room
from selftrain.runtime.jobs import Jobs
from selftrain.runtime.upload import Upload

pytest.importorskip("ray")
KNOWN = {
    "selftrain.command": "selftrain submit run x.yaml",
    "selftrain.arguments": '["run", "/s/x.yaml", "--address=auto"]',
    "selftrain.storage": "/s",
}


def details(status: str = "RUNNING", **changes: object) -> SimpleNamespace:
    """As ray.job_submission.JobDetails."""
    found = {"submission_id": "run-1", "entrypoint": "python x.py", "start_time": 1_000, "metadata": KNOWN, "driver_exit_code": None, "message": None}
    return SimpleNamespace(**(found | {"status": SimpleNamespace(value=status)} | changes))


class Server:
    """Answers as `JobSubmissionClient` does, from lists."""

    def __init__(self, jobs: list[object], tails: list[list[object]] = (), logs: str = "") -> None:  # type: ignore[assignment]
        self.jobs = jobs
        self.tails = list(tails)
        self.logs = logs
        self.submitted: list[dict] = []
        self.uploaded: list[Path] = []
        self.stopped: list[str] = []

    def get_job_info(self, id_):
        found = self.jobs[0] if len(self.jobs) == 1 else self.jobs.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def list_jobs(self):
        return self.jobs

    def get_job_logs(self, id_):
        return self.logs

    def stop_job(self, id_):
        self.stopped.append(id_)

    def submit_job(self, **asked):
        if folder := asked["runtime_env"].get("working_dir"):
            self.uploaded = [file.relative_to(folder) for file in Path(folder).rglob("*") if file.is_file()]
        self.submitted.append(asked)
        return asked["submission_id"]

    async def tail_job_logs(self, id_):
        for part in self.tails.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)


def jobs_of(server: Server) -> Jobs:
    jobs = Jobs.__new__(Jobs)
    jobs.address, jobs._client = "http://head:8265", server
    return jobs


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "ended"),
    [
        ("PENDING", None, None, False),
        ("RUNNING", None, None, False),
        ("SUCCEEDED", 0, 0, True),
        ("STOPPED", None, 130, True),
        ("FAILED", 2, 2, True),
        ("FAILED", -9, 137, True),
        ("FAILED", None, None, True),
    ],
)
def test_a_job_has_the_exit_code_that_a_shell_would_give(status, code, exit_code, ended):
    job = jobs_of(Server([details(status, driver_exit_code=code, message="why")])).job("run-1")
    assert (job.status, job.exit_code, job.ended) == (status.lower(), exit_code, ended)
    assert job.message == ("why" if exit_code is None else "")


def test_a_job_is_what_its_submitter_typed_and_one_of_others_shows_no_password():
    ours, others = details(), details(metadata=None, entrypoint="run --to postgresql://me:word@host/db", start_time=None, submission_id="raysubmit_1")
    first, second = jobs_of(Server([ours, details(submission_id=None), others])).list()
    assert (first.id, first.command, first.arguments, first.started) == ("raysubmit_1", "run --to postgresql://me:***@host/db", None, None)
    assert (second.command, second.arguments) == ("selftrain submit run x.yaml", ("run", "/s/x.yaml", "--address=auto"))
    assert second.storage == Path("/s") and second.started == datetime.fromtimestamp(1)


def test_a_log_is_handed_on_once_however_often_the_connection_breaks():
    tails = [["one\n", RuntimeError("closed")], ["one\ntw", "o\n", OSError("reset")], ["one\n", "two\nthree\n"]]
    server = Server([details(), details(), details("SUCCEEDED")], tails)
    shown: list[str] = []
    assert jobs_of(server).follow("run-1", shown.append).status == "succeeded"
    assert "".join(shown) == "one\ntwo\nthree\n" and "" not in shown


def test_a_job_whose_cluster_is_gone_is_not_followed_for_ever_and_one_that_is_gone_is_none():
    with pytest.raises(
        ServiceError, match=r"The job run-1 cannot be followed any longer, though it goes on \(.*refused.*\); follow it again by its id"
    ):
        jobs_of(Server([ConnectionError("refused")], [[OSError("reset")]] * 9)).follow("run-1", print)
    with pytest.raises(ConfigError, match=r"id must be that of a job of the cluster \(got 'run-1'\)"):
        jobs_of(Server([RuntimeError("Request failed with status code 404: no job")], [[]])).follow("run-1", print)


def test_a_job_that_has_ended_is_not_stopped_again():
    server = Server([details(), details(), details("STOPPED")])
    assert jobs_of(server).stop("run-1").status == "stopped" and server.stopped == ["run-1"]
    done = Server([details("SUCCEEDED")])
    assert jobs_of(done).stop("run-1").status == "succeeded" and done.stopped == []


LOG = "[10:00:00] data ...\n[10:00:01] run started folder=/s/runs/my runs/job-1 config=0a1b2c3d4e5f\n[10:00:02] training ...\n"


@pytest.mark.parametrize(
    ("arguments", "log", "resumed"),
    [
        (["run", "/s/x.yaml", "--address=auto"], LOG, ["run", "--resume=/s/runs/my runs/job-1", "--address=auto"]),
        (["run", "/s/x.yaml", "--address=auto"], "killed before its folder was there\n", ["run", "/s/x.yaml", "--address=auto"]),
        (["run", "--resume=/s/a", "--address=auto"], LOG.replace("started", "resumed"), ["run", "--resume=/s/runs/my runs/job-1", "--address=auto"]),
        (["sweep", "/s/genco_tau.yaml", "--address=auto"], LOG, ["sweep", "/s/genco_tau.yaml", "--address=auto"]),
        (
            ["sweep", "--at-once=3", "/s/genco_tau.yaml", "--address=auto"],
            "[10:00:00] sweep started trainings=6 there=0 at_once=3 folder=s3://b/runs/sweeps/x-1\n[10:00:01] trial done setting=a\n",
            ["sweep", "--resume=s3://b/runs/sweeps/x-1", "--at-once=3", "--address=auto"],
        ),
        (["generate", "--out=/s/a"], LOG, ["generate", "--out=/s/a"]),
    ],
)
def test_a_run_or_a_sweep_is_resumed_in_its_folder_and_another_command_is_repeated(arguments, log, resumed):
    server = Server([details("FAILED", metadata=KNOWN | {"selftrain.arguments": json.dumps(arguments)})], logs=log)
    id_ = jobs_of(server).resume("run-1")
    (asked,) = server.submitted
    assert asked["submission_id"] == id_ != "run-1" and id_.startswith(f"{arguments[0]}-")
    assert json.loads(asked["metadata"]["selftrain.arguments"]) == resumed
    assert asked["metadata"]["selftrain.command"] == KNOWN["selftrain.command"]
    assert "working_dir" not in asked["runtime_env"], "its files are on the storage"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (details("RUNNING"), "is a job that is running; follow it, or stop it first"),
        (details("SUCCEEDED"), "is a job that has succeeded; there is nothing to resume"),
        (details("FAILED", metadata=None), "is a job that selftrain did not submit"),
        (details("FAILED", metadata=KNOWN | {"selftrain.storage": ""}), "is a job that had not begun, and what it took along is gone with it"),
    ],
)
def test_what_cannot_be_resumed_is_said(job, said):
    server = Server([job])
    with pytest.raises(ConfigError, match=f"id 'run-1' {said}"):
        jobs_of(server).resume("run-1")
    assert server.submitted == []


def test_a_job_takes_along_its_files_alone_and_has_time_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my news.csv").write_text("text\n")
    upload = Upload(Path("/s"), here=False)
    place = upload.source("my news.csv", "documents")
    server = Server([])
    jobs_of(server).submit(["distill", f"--documents={place}", "/s/bundle"], upload, command="selftrain submit distill bundle")
    (asked,) = server.submitted
    assert asked["entrypoint"] == f"python -m selftrain.cli.entrypoint /s distill '--documents={place}' /s/bundle"
    assert server.uploaded == [Path(place).relative_to("/s")]
    assert int(asked["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 30
    assert set(asked["runtime_env"]) == {"env_vars", "working_dir"} and not Path(asked["runtime_env"]["working_dir"]).exists()


def test_a_job_without_a_storage_is_resumed_by_its_address():
    known = KNOWN | {"selftrain.storage": ""}
    server = Server([details("FAILED", metadata=known)], logs=LOG.replace("/s/runs/my runs/job-1", "s3://b/runs/job-1"))
    jobs_of(server).resume("run-1")
    (asked,) = server.submitted
    assert asked["entrypoint"] == "python -m selftrain.cli.entrypoint '' run --resume=s3://b/runs/job-1 --address=auto"
    assert asked["metadata"]["selftrain.storage"] == ""


def test_no_password_gets_into_a_job(tmp_path):
    server = Server([])
    for arguments, command in (
        (["run", "--set=tracking.uri=postgresql://me:word@host/db"], "x"),
        (["run"], "selftrain submit run http://me:word@host"),
    ):
        with pytest.raises(ConfigError, match=r"command holds a password \(.*me:\*\*\*@host.*\), which everybody") as refused:
            jobs_of(server).submit(arguments, Upload(Path("/s"), here=False), command=command)
        assert "word@" not in str(refused.value)
    assert server.submitted == []


def test_what_a_cluster_refuses_is_one_sentence():
    class Refusing(Server):
        def submit_job(self, **asked):
            raise RuntimeError("Request failed with status code 500: Traceback\n  File x\nValueError: no room.")

    with pytest.raises(ServiceError, match=r"^The Ray cluster at 'http://head:8265' refuses: ValueError: no room.$"):
        jobs_of(Refusing([])).submit(["run"], Upload(Path("/s"), here=False), command="x")


def test_an_address_where_nothing_listens_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"^address 'http://127.0.0.1:1': no job server of a Ray cluster answers there") as refused:
        Jobs()
    assert refused.value.parameter == "address"
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:2"):  # what is passed counts
        Jobs("http://127.0.0.1:2")


def session(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_cluster_is_here_where_its_session_runs_here_and_nothing_adds_nodes():
    name = f"session_2026-11-29_03-00-00_000000_{os.getpid()}"
    assert not room._runs_here(f"{name}x")
    with session(f"--session-name={name}") as raylet:
        raylet.stdout.readline()
        assert room._runs_here(name)
        with session(f"/tmp/ray/{name}/logs", "--autoscaling-config=/root/ray_bootstrap_config.yaml") as monitor:
            monitor.stdout.readline()
            assert not room._runs_here(name)
            monitor.stdin.close()
        raylet.stdin.close()
