"""Jobs of a Ray cluster: submitted, listed, followed, stopped and resumed, through Ray's own job server.

What a job is lies in Ray's metadata of it (`_METADATA`), which everybody with the cluster's token can read, as well as its command and its log: no secret goes
there. Passwords and keys stand in the environment of the nodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selftrain.errors import ConfigError, MissingExtraError, SelfTrainError, ServiceError
from selftrain.passwords import has_password, without_passwords
from selftrain.runtime.ray_start import use_token
from selftrain.runtime.upload import Upload

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # where `ray dashboard cluster.yaml` forwards to
ENTRYPOINT = ("python", "-m", "selftrain.cli.entrypoint")
STOPPED = 130  # the exit code of a command that was told to stop
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_COMMAND, _ARGUMENTS, _STORAGE = _METADATA = "selftrain.command", "selftrain.arguments", "selftrain.storage"
_STOP_SECONDS = 60  # that a job has to end in order before it is killed; Ray gives three, and a tracking server may take longer
_ENDED = ("succeeded", "failed", "stopped")
_NODE_SECONDS = 20  # that a head which has just begun to answer takes to be a node itself
_LOST = 5  # questions in a row without an answer, after which a job is followed no longer
_FOLDER = {  # of a run or a sweep, as runs.stages.Events prints it
    "run": re.compile(r"^\[[\d:]{8}\] run (?:started|resumed) folder=(.+) config=[0-9a-f]+$", re.MULTILINE),
    "sweep": re.compile(r"^\[[\d:]{8}\] (?:sweep|search) started (?:\w+=\d+ )+folder=(.+)$", re.MULTILINE),
}


@dataclass(frozen=True)
class Job:
    """A job, as the cluster knows it."""

    id: str
    status: str  # pending, running, succeeded, failed or stopped
    command: str  # as the submitter typed it; of a job that was not submitted here, its entry point
    started: datetime | None
    arguments: tuple[str, ...] | None  # of the command line on the cluster; None where the job was not submitted here
    storage: Path | None  # None where it needs none
    exit_code: int | None  # 0 to 255; None while it runs, and where its process never started
    message: str  # why it has failed, where it has no exit code

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in _ENDED


class Jobs:
    """The jobs of a cluster.

    Args:
        address: of the cluster's dashboard (http://HOST:8265), or of the cluster; default: RAY_ADDRESS, else http://127.0.0.1:8265.

    Raises:
        ConfigError: there is no token for the cluster on this machine.
        MissingExtraError: Ray is not installed.
        ServiceError: no cluster answers, or it wants another token.
    """

    def __init__(self, address: str | None = None) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError("Jobs need the package ray, which is not installed; pip install 'selftrain[train]'.")
        self.address = address or next(filter(None, map(os.environ.get, _ADDRESSES)), DEFAULT_ADDRESS)
        use_token(self.address)
        _require_answer(self.address)
        from ray.job_submission import JobSubmissionClient

        for module in ("modules.job.sdk", "modules.dashboard_sdk"):  # they say what they upload and which connections they close
            logging.getLogger(f"ray.dashboard.{module}").setLevel(logging.WARNING)
        with self._answering(), _without_variables():
            self._client = JobSubmissionClient(self.address)

    def here(self) -> bool:
        """Whether the cluster is this machine alone, so that the nodes see its folders: one node, whose processes share our mounts, and no autoscaler."""
        from ray.util.state import list_nodes

        with self._answering(), _without_variables():
            deadline = time.monotonic() + _NODE_SECONDS
            # Ray counts a lost node, which the filter leaves out, as an answer that was cut, and would raise.
            alive = partial(list_nodes, self._client.get_address(), filters=[("state", "=", "ALIVE")], raise_on_missing_output=False)
            while not (nodes := alive()) and time.monotonic() < deadline:
                time.sleep(0.5)
            session = self._client._do_request("GET", "/api/version").json()["session_name"]  # no public call gives it
        return len(nodes) == 1 and _runs_here(session)

    def submit(self, arguments: Sequence[str], upload: Upload, *, command: str) -> str:
        """Start a job.

        Args:
            arguments: of `selftrain` on the cluster, with the paths that `upload` gave.
            upload: what the job takes along.
            command: as it was asked for, for `list`.

        Returns:
            The job's id.

        Raises:
            ConfigError: an argument holds a password.
            ServiceError: the cluster does not take the job.
        """
        for word in (command, *arguments):
            if has_password(word):
                raise ConfigError(
                    f"command holds a password ({without_passwords(word)[:200]}), which everybody who may list the jobs of the cluster would see; set it in the "
                    "environment of the nodes."
                )
        id_ = f"{arguments[0]}-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        storage = str(upload.storage or "")
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}}
        with tempfile.TemporaryDirectory(prefix="selftrain-job-") as folder, self._answering():
            if upload.write(Path(folder)):
                environment["working_dir"] = folder
            return str(
                self._client.submit_job(
                    entrypoint=shlex.join([*ENTRYPOINT, storage, *arguments]),
                    submission_id=id_,
                    runtime_env=environment,
                    metadata={_COMMAND: command, _ARGUMENTS: json.dumps(list(arguments)), _STORAGE: storage},
                )
            )

    def list(self) -> list[Job]:
        """All jobs of the cluster, the latest last."""
        with self._answering():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id is not None]
        return sorted(found, key=lambda job: job.started.timestamp() if job.started else 0.0)

    def job(self, id_: str) -> Job:
        """One job.

        Raises:
            ConfigError: the cluster has none with this id.
            ServiceError: the cluster does not answer.
        """
        with self._answering(id_):
            return _job(self._client.get_job_info(id_))

    def logs(self, id_: str) -> str:
        """What a job has printed so far; raises what `job` raises."""
        with self._answering(id_):
            return str(self._client.get_job_logs(id_))

    def follow(self, id_: str, write: Callable[[str], object]) -> Job:
        """Hand on what a job prints, from its first line on, until it has ended. A connection that breaks is made again.

        Args:
            id_: of the job.
            write: gets text, part by part.

        Raises:
            ConfigError: the cluster has no such job.
            ServiceError: the cluster does not answer any more; the job itself goes on.
        """
        import aiohttp

        log = _Log(self._client, id_, write)
        lost = 0
        while True:
            problem: Exception | None = None
            try:
                asyncio.run(log.read())
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                problem = error
            try:
                if (job := self.job(id_)).ended:
                    return job
            except ServiceError as error:
                problem = error
            lost = lost + 1 if problem is not None else 0
            if lost == _LOST:
                raise ServiceError(f"The job {id_} cannot be followed any longer, though it goes on ({problem}); follow it again by its id.")
            time.sleep(1)

    def stop(self, id_: str) -> Job:
        """Tell a job to end in order, and wait until it has; one that has ended stays as it is. Raises what `job` raises."""
        job = self.job(id_)
        if not job.ended:
            with self._answering(id_):
                self._client.stop_job(id_)
        deadline = time.monotonic() + _STOP_SECONDS + 30
        while not job.ended and time.monotonic() < deadline:
            time.sleep(0.5)
            job = self.job(id_)
        return job

    def resume(self, id_: str) -> str:
        """Continue a job that was stopped or has failed, as another job: a run or a sweep in its folder, any other command by its repetition.

        Returns:
            The id of the new job.

        Raises:
            ConfigError: the cluster has no such job, it runs or has succeeded, or it was not submitted here.
            ServiceError: the cluster does not answer.
        """
        job = self.job(id_)
        if job.arguments is None:
            raise ConfigError(f"id {id_!r} is a job that selftrain did not submit; submit it again as it was.", parameter="id")
        if not job.ended:
            raise ConfigError(f"id {id_!r} is a job that is {job.status}; follow it, or stop it first.", parameter="id")
        if job.status == "succeeded":
            raise ConfigError(f"id {id_!r} is a job that has succeeded; there is nothing to resume.", parameter="id")
        arguments = list(job.arguments)
        if (kind := arguments[0]) in _FOLDER and (folders := _FOLDER[kind].findall(self.logs(id_))):
            at_once = [word for word in arguments if word.startswith("--at-once=")]
            arguments = [kind, f"--resume={folders[-1]}", *at_once, "--address=auto"]
        elif job.storage is None:
            raise ConfigError(
                f"id {id_!r} is a job that had not begun, and what it took along is gone with it; submit it again as it was.", parameter="id"
            )
        return self.submit(arguments, Upload(job.storage, here=False), command=job.command)

    @contextmanager
    def _answering(self, id_: str | None = None) -> Iterator[None]:
        """Inside, what goes wrong between us and the cluster becomes one sentence."""
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except SelfTrainError:
            raise
        except AuthenticationError:
            raise ServiceError(
                f"The Ray cluster at {self.address!r} wants another token than this machine has; copy ~/.ray/auth_token from its head node."
            ) from None
        except (RuntimeError, ValueError, OSError, RayStateApiException) as error:  # OSErrors: also those of the package requests
            if id_ is not None and "status code 404" in str(error):
                raise ConfigError(f"id must be that of a job of the cluster (got {id_!r}); list them.", parameter="id") from None
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            if "status code" in str(error):
                raise ServiceError(f"The Ray cluster at {without_passwords(self.address)!r} refuses: {last}") from None
            raise _no_cluster(self.address, last) from None


class _Log:
    """The log of a job, read from the start each time, and handed on once."""

    def __init__(self, client: Any, id_: str, write: Callable[[str], object]) -> None:
        self.client = client
        self.id = id_
        self.write = write
        self.written = 0  # characters

    async def read(self) -> None:
        """Until the job has ended, or the connection breaks."""
        position = 0
        async for text in self.client.tail_job_logs(self.id):
            new = text[max(0, self.written - position) :]
            position += len(text)
            if new:
                self.write(new)
                self.written += len(new)


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    status = details.status.value.lower()
    code = details.driver_exit_code
    if status in ("succeeded", "stopped"):
        code = 0 if status == "succeeded" else STOPPED
    elif code is not None and code < 0:  # a signal's number, as a shell says it
        code = 128 - code
    return Job(
        id=details.submission_id,
        status=status,
        command=metadata.get(_COMMAND) or without_passwords(details.entrypoint),
        started=datetime.fromtimestamp(details.start_time / 1000) if details.start_time else None,
        arguments=tuple(json.loads(metadata[_ARGUMENTS])) if _ARGUMENTS in metadata else None,
        storage=Path(metadata[_STORAGE]) if metadata.get(_STORAGE) else None,
        exit_code=code,
        message=(details.message or "") if code is None else "",
    )


def _require_answer(address: str) -> None:
    """The client itself would wait for minutes for a machine that is not there."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, problem: object) -> ServiceError:
    return ServiceError(
        f"address {without_passwords(address)!r}: no job server of a Ray cluster answers there ({problem}); forward its port with "
        "`ray dashboard cluster.yaml`, or pass another.",
        parameter="address",
    )


@contextmanager
def _without_variables() -> Iterator[None]:
    """Inside, the address that is passed counts: Ray would prefer those of the environment, which `Jobs` has read already."""
    kept = {name: value for name in _ADDRESSES if (value := os.environ.pop(name, None)) is not None}
    try:
        yield
    finally:
        os.environ.update(kept)


def _runs_here(session: str) -> bool:
    """Whether processes of the Ray session `session` run on this machine and see its folders as we do, and nothing adds nodes to it."""
    import psutil

    found = False
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if not any(session in word for word in words):
            continue
        if any(word.startswith("--autoscaling-config=") for word in words):
            return False
        with suppress(OSError):  # of another user, or gone
            found = found or os.readlink(f"/proc/{process.info['pid']}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    return found
