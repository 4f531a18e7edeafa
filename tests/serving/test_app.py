"""The Serve application: its config files, its arguments, and one run of `selftrain serve`'s function in a process of its own."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import yaml
from completions import completions
from endpoint import LABELS, VERSION, free_port, make_bundle
from processes import end_all, sockets_of, started_by
from ray.serve.schema import ServeDeploySchema
from selftrain_serve.app import build, by_requests, run

from selftrain import Client
from selftrain.bundle.format import PROTOTYPES
from selftrain.config import TrackingConfig
from selftrain.errors import SelfTrainError
from selftrain.runs.labelling.folder import Choice
from selftrain.runtime.ports import require_free_port
from selftrain.serving.arguments import Arguments
from selftrain.serving.models import ModelSource
from selftrain.tracking import Champions, Tracker, registered_bundle

CONFIGS = sorted((Path(__file__).parents[2] / "serve").glob("*.yaml"))
OTHER_LABELS = ("bank", "music")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_config_file_is_one_that_serve_takes(file: Path) -> None:
    config = ServeDeploySchema(**yaml.safe_load(file.read_text()))
    (application,) = config.applications
    assert application.import_path == "selftrain_serve.app:build"
    built = build(application.args)
    (deployment,) = application.deployments
    assert deployment.name == built._bound_deployment.name
    assert deployment.autoscaling_config["max_replicas"] > deployment.autoscaling_config["min_replicas"] == 1
    arguments = Arguments.model_validate(application.args)
    assert arguments.host == ("127.0.0.1" if file.name == "config.yaml" else None) and not arguments.no_token


def test_there_is_a_config_file_for_a_machine_and_one_for_a_cluster() -> None:
    assert [file.name for file in CONFIGS] == ["cluster.yaml", "config.yaml"]


@pytest.mark.parametrize(("busy", "replicas"), [({}, 0), ({"a": 5.0}, 1), ({"a": 16.0, "b": 17.0}, 3)])
def test_replicas_follow_the_requests_under_way(busy, replicas) -> None:
    context = SimpleNamespace(aggregated_metrics={"busy": busy}, config=SimpleNamespace(target_ongoing_requests=16))
    assert by_requests(context) == (replicas, {})


def test_arguments() -> None:
    for args, words in (
        ({}, "args.models"),
        ({"models": []}, "args.models"),
        ({"models": [{}]}, "either"),
        ({"models": [{"bundle": "a", "model": "b"}]}, "either"),
        ({"models": [{"modle": "a"}]}, "'model'"),
        ({"models": [{"bundle": "a"}], "modles": 1}, "'models'"),
        ({"models": [{"bundle": "a"}], "threads": 0}, "threads"),
        ({"models": [{"bundle": "a"}], "seen": {"folder": "b", "dais": 1}}, "'days'"),
        ({"models": [{"bundle": "a"}], "seen": {"folder": "b", "days": 0}}, r"args\.seen\.days"),
        ({"models": [{"bundle": "a"}], "augmentation": {"url": "a"}}, r"args\.augmentation\.url .* a key goes into a file"),
        ({"models": [{"bundle": "a"}], "augmentation": {"url": "http://a/v1", "modle": "b"}}, "'model'"),
    ):
        with pytest.raises(SelfTrainError, match=words):
            build(args)


def test_a_registered_model_is_a_name_or_a_name_with_a_version() -> None:
    assert ModelSource.registered("mail") == ModelSource(model="mail") and ModelSource.registered("mail").followed
    assert ModelSource.registered("mail@3") == ModelSource(model="mail", version="3")
    for wrong in ("", "@3", "mail@", "mail@champion", "a/b", "mail@3@4"):
        with pytest.raises(SelfTrainError, match="models must be NAME or NAME@VERSION") as caught:
            ModelSource.registered(wrong)
        assert caught.value.parameter == "models"


def test_what_cannot_be_served_is_said_before_ray_starts(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.delenv("SELFTRAIN_SERVE_TOKEN", raising=False)
    source = ModelSource(bundle=str(bundle))
    with pytest.raises(SelfTrainError, match=r"it has no selftrain\.json"):
        run([ModelSource(bundle=str(tmp_path))])
    with pytest.raises(SelfTrainError, match="There is no MLflow database"):
        run([ModelSource(model="news")], tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(SelfTrainError, match="Set no_token if anybody may ask"):
        run([source], host="0.0.0.0", port=free_port())
    with pytest.raises(SelfTrainError, match="token file"):
        run([source], token_file=tmp_path / "none")
    with pytest.raises(SelfTrainError, match=r"^replicas must be at least 1 \(got 0\)"):
        run([source], replicas=0)
    with pytest.raises(SelfTrainError, match=r"^threads must be at least 1 \(got 0\)"):
        run([source], threads=0)
    with pytest.raises(SelfTrainError, match=r"cannot be reached .* or leave out language_model"):
        run([source], port=free_port(), language_model=f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(SelfTrainError, match="language_model_name needs a language_model"):
        run([source], language_model_name="writer")
    with pytest.raises(SelfTrainError, match="holds no questions"):
        run([source], port=free_port(), labelling=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SelfTrainError, match=rf"port {port} of 127\.0\.0\.1 cannot be used"):
            run([source], port=port)
    require_free_port("127.0.0.1", port)
    with pytest.raises(SelfTrainError, match="cannot be used"):
        require_free_port("no.such.host.invalid", 8000)
    for wrong in (0, 70_000):
        with pytest.raises(SelfTrainError, match="from 1 to 65535"):
            require_free_port("127.0.0.1", wrong)


class Registry:
    """A real registry with two versions of the model `mail` that have different classes, and a third that is damaged."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = f"sqlite:///{folder}/mlflow.db"
        for version, labels in ((1, LABELS), (2, OTHER_LABELS), (3, LABELS)):
            bundle = make_bundle(folder / f"mail-{version}", seed=version, name="mail", labels=labels)
            tracker = Tracker(TrackingConfig(uri=self.uri), folder, f"run-{version}")
            tracker.start(f"run-{version}", {})
            registered = tracker.log_bundle_and_register(bundle, "mail", {}, labeled=False, promote=version == 1)
            assert registered.version == str(version)
        (registered_bundle("models:/mail/3", self.uri).folder / PROTOTYPES).write_bytes(b"damaged")
        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def promote(self, version: int) -> None:
        self._client.set_registered_model_alias("mail", "champion", str(version))


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


def test_the_champion_is_asked_for_by_one_client(registry: Registry) -> None:
    champions = Champions(registry.uri)
    assert champions.version("mail") == "1"
    registry.promote(2)
    assert champions.version("mail") == "2"
    with pytest.raises(SelfTrainError, match="has no model 'male'"):
        champions.version("male")
    registry.promote(1)


@pytest.fixture(scope="module")
def writer():
    """A server of a language model."""
    with completions() as server:
        yield server


@pytest.fixture(scope="module")
def server(bundle: Path, registry: Registry, writer, tmp_path_factory):
    """A server in a process of its own, whose Ray keeps its files in a folder of its own; it serves `mail` of a registry, and a bundle, and asks a question."""
    port = free_port()
    labelling = tmp_path_factory.mktemp("labelling")
    (labelling / "questions.csv").write_text("id,text,label\nt1-x,the team won,\n", encoding="utf-8")
    (labelling / "training.json").write_text(Choice(classes=("sport", "tech"), questions=("t1-x",)).model_dump_json(), encoding="utf-8")
    # Sockets lie below this folder, and their paths may have 107 characters: pytest's own folders are too deep.
    ray_folder = Path(tempfile.mkdtemp(prefix="st-"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_TMPDIR": str(ray_folder),
        "HOME": str(ray_folder),
        "SELFTRAIN_LANGUAGE_MODEL_KEY": "a-key-of-the-environment",
    }
    for name in ("RAY_ADDRESS", "SELFTRAIN_SERVE_TOKEN"):
        environment.pop(name, None)
    code = (
        "from selftrain_serve.app import run; from selftrain.serving.models import ModelSource; "
        f"run([ModelSource(model='mail'), ModelSource(bundle={str(bundle)!r})], tracking_uri={registry.uri!r}, port={port}, threads=1, poll_seconds=0.5, "
        f"language_model={writer.url!r}, labelling={str(labelling)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert "Serving" in lines[0], (lines, process.stderr.read() if process.poll() is not None else "")
        children = list(started_by(process.pid))
        assert children
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, lines=lines, registry=registry, process=psutil.Process(process.pid))
        children = list(started_by(process.pid))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and output.endswith("Stopped.\n") and "Traceback" not in errors, (output, errors)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        require_free_port("127.0.0.1", port)
    finally:
        end_all(children)
        process.kill()
        process.wait()
        shutil.rmtree(ray_folder, ignore_errors=True)


def loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def replica(server) -> psutil.Process:
    (found,) = started_by(server.process.pid, "ServeReplica")
    return found


def live(url: str) -> dict:
    return httpx.get(f"{url}/v1/models", timeout=60).json()["models"][0]


def wait_until(url: str, condition) -> dict:
    end = time.monotonic() + 60
    while not condition(found := live(url)):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


@pytest.mark.ray
def test_served(server) -> None:
    assert f"mail, news at {server.url}" in server.lines[0] and f"curl -s {server.url}/v1/classify" in server.lines[1]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}
        answer = client.post("/v1/classify", json={"texts": ["the team won", ""]}).json()
        assert answer["model"] == {"name": "mail", "version": "1"} and answer["results"][0]["label"] in LABELS
        assert answer["results"][1] == {"error": "the text is empty"}
        assert client.post("/v1/classify", json={"text": "a", "model": "news"}).json()["model"] == {"name": "news", "version": VERSION}
        assert "selftrain_model_info" in client.get("/metrics").text
    everything = sockets_of([server.process, *started_by(server.process.pid)])
    assert [one.laddr for one in everything if not one.raddr and not loopback(one.laddr.ip)] == []
    listening = [one.laddr.ip for one in replica(server).net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr.port == server.port]
    assert listening == ["127.0.0.1"]


@pytest.mark.ray
def test_a_replica_asks_the_questions_of_a_folder(server) -> None:
    assert server.lines[2] == f"Label documents at {server.url}/label\n"
    with httpx.Client(base_url=server.url, timeout=60) as client:
        asked = client.post("/label/next", json={"browser": "browser-one"}).json()
        assert asked["question"] == {"id": "t1-x", "text": "the team won"} and asked["purpose"] == "training"
        told = client.post("/label/answer", json={"browser": "browser-one", "question": "t1-x", "answer": "sport"}).json()
        assert told["question"] is None and told["done"] == 1
        assert client.get("/label/answers.csv").text == "id,text,label\r\nt1-x,the team won,sport\r\n"


@pytest.mark.ray
def test_a_replica_asks_the_language_model_with_the_key(server, writer) -> None:
    answer = httpx.post(f"{server.url}/v1/classify", json={"text": "the team won", "augment": True}, timeout=60).json()
    assert answer["results"][0]["continuations"] == 1 and answer["results"][0]["label"] in LABELS
    assert [path for path, _, _ in writer.asked] == ["/v1/models", "/v1/completions"]  # before the start, and by the replica
    assert {headers["authorization"] for _, headers, _ in writer.asked} == {"Bearer a-key-of-the-environment"}


@pytest.mark.ray
def test_a_champion_takes_over_and_back_under_load_without_a_failed_request(server) -> None:
    labels = {"1": set(LABELS), "2": set(OTHER_LABELS)}
    stop, wrong, versions = threading.Event(), [], []

    def load() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/classify", json={"texts": ["the team won the match", "a phone"]})
                    found = answer.json()
                    version = found["model"]["version"]
                    if answer.status_code != 200 or {one["label"] for one in found["results"]} - labels[version]:
                        wrong.append(answer.text)
                    versions.append(version)
                except Exception as error:  # whatever it is, a request failed
                    wrong.append(repr(error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        server.registry.promote(2)
        wait_until(server.url, lambda found: found["version"] == "2")
        server.registry.promote(1)
        wait_until(server.url, lambda found: found["version"] == "1")
        server.registry.promote(3)  # damaged: version 1 goes on
        said = wait_until(server.url, lambda found: found["problem"] is not None)
        assert said["version"] == "1" and "version 3 could not be loaded, version 1 stays" in said["problem"]
        assert 'selftrain_model_problem{model="mail",version="1"} 1.0' in httpx.get(f"{server.url}/metrics", timeout=60).text
        server.registry.promote(2)
        wait_until(server.url, lambda found: found["version"] == "2" and found["problem"] is None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert versions[0] == "1" and set(versions) == {"1", "2"}
    after = httpx.post(f"{server.url}/v1/classify", json={"text": "the team won"}, timeout=60).json()
    assert after["model"]["version"] == "2"  # the last of `versions` may still be of a request that version 1 had
    figures = httpx.get(f"{server.url}/metrics", timeout=60).text
    assert 'selftrain_model_reloads_total{model="mail",outcome="swapped"} 3.0' in figures
    assert 'selftrain_model_reloads_total{model="mail",outcome="failed"} 1.0' in figures


@pytest.mark.ray
def test_a_replica_that_is_killed_comes_back_and_the_client_waits_for_it(server) -> None:
    with Client(server.url, patience_seconds=120) as client:
        before = client.classify(["the team won the match"])
        replica(server).kill()
        assert client.classify(["the team won the match"]) == before
