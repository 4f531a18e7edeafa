"""The Serve application: its config file, its arguments, and one run of `selftrain serve`'s function, asked over HTTP and stopped by SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from selftrain_serve.app import build, require_free_port, run
from selftrain_serve.requests import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_TEXTS
from tiny import tiny_backbone

from selftrain.errors import UserError
from selftrain.export.bundle import BundleCard, write_bundle
from selftrain.export.classifier import Classifier

CONFIG = Path(__file__).parents[2] / "serve" / "config.yaml"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    backbone = tiny_backbone(folder / "tiny")
    prototypes = backbone.encode(["about sport", "about tech", "about politics"], convert_to_tensor=True)
    card = BundleCard(name="news", labels=("sport", "tech", "politics"), method="genco", created="2024-05-06T07:08:09+00:00")
    return write_bundle(folder / "bundle", backbone=backbone, prototypes=prototypes, card=card)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_config_file_is_one_that_serve_takes() -> None:
    config = ServeDeploySchema(**yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    assert application.import_path == "selftrain_serve.app:build"
    assert config.http_options.host == "127.0.0.1"
    built = build(application.args)
    assert [deployment.name for deployment in application.deployments] == [built._bound_deployment.name]


def test_arguments() -> None:
    for args, words in (
        ({}, "either"),
        ({"bundle": "a", "model": "b"}, "either"),
        ({"modle": "a"}, "'model'"),
        ({"bundle": "a", "threads": 0}, "threads"),
    ):
        with pytest.raises(UserError, match=words):
            build(args)


def test_what_cannot_be_served_is_said_before_ray_starts(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match="either"):
        run()
    with pytest.raises(UserError, match=r"it has no selftrain\.json"):
        run(bundle=tmp_path)
    with pytest.raises(UserError, match="There is no MLflow database"):
        run(model="news", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} of 127\.0\.0\.1 cannot be used .*--port"):
            run(bundle=bundle, port=port)
    require_free_port("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot be used"):
        require_free_port("no.such.host.invalid", 8000)
    for wrong in (0, 70_000):
        with pytest.raises(UserError, match="from 1 to 65535"):
            require_free_port("127.0.0.1", wrong)


@pytest.fixture(scope="module")
def server(bundle: Path):
    """The address of a server in a process of its own, whose Ray keeps its files in a folder of its own."""
    port = free_port()
    # Sockets lie below this folder, and their paths may have 107 characters: pytest's own folders are too deep.
    ray_folder = Path(tempfile.mkdtemp(prefix="st-"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_TMPDIR": str(ray_folder),
        "HOME": str(ray_folder),
    }
    environment.pop("RAY_ADDRESS", None)
    code = f"from selftrain_serve.app import run; run(bundle={str(bundle)!r}, port={port}, threads=1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert "Serving" in lines[0], (lines, process.stderr.read() if process.poll() is not None else "")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        yield f"http://127.0.0.1:{port}", lines
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and output.endswith("Stopped.\n") and "Traceback" not in errors, (output, errors)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        require_free_port("127.0.0.1", port)
    finally:
        for one in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()
        shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.mark.ray
def test_served(server, bundle: Path) -> None:
    url, lines = server
    assert url in lines[0] and f"curl -s {url}/v1/classify" in lines[1]
    classifier = Classifier.load(bundle, device="cpu")
    model = {"name": "news", "version": "2024-05-06T07:08:09+00:00"}
    with httpx.Client(base_url=url, timeout=60, headers={"content-type": "application/json"}) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready", "model": model}
        (described,) = client.get("/v1/models").json()["models"]
        assert described["labels"] == ["sport", "tech", "politics"] and described["limits"]["texts"] == MAX_TEXTS and described["name"] == "news"

        texts = ["the team won the match", "a phone", "the minister lost the vote"]
        answer = client.post("/v1/classify", json={"texts": texts}).json()
        assert answer["model"] == model
        expected = classifier.predict_proba(texts)
        assert [one["label"] for one in answer["results"]] == classifier.predict(texts).tolist()
        for found, row in zip(answer["results"], expected, strict=True):
            assert found["probability"] == pytest.approx(row.max(), abs=1e-5)
            assert [found["probabilities"][name] for name in classifier.classes_] == pytest.approx(row.tolist(), abs=1e-5)
            assert found["truncated"] is False
        single = client.post("/v1/classify", json={"text": texts[1], "top_k": 1}).json()["results"]
        assert len(single) == 1 and list(single[0]["probabilities"]) == [answer["results"][1]["label"]]

        mixed = client.post(
            "/v1/classify", content=b'{"texts": ["a phone", "", 7, null, "\\ud800", {"a": 1}, "' + b"x" * (MAX_CHARACTERS + 1) + b'"]}'
        )
        assert mixed.status_code == 200
        results = mixed.json()["results"]
        assert results[0]["label"] == answer["results"][1]["label"] and results[6]["truncated"] is True
        assert [list(one) for one in results[1:6]] == [["error"]] * 5
        assert results[1]["error"] == "the text is empty" and results[2]["error"] == "the text is not a string but int"

        for body in (
            b"nonsense",
            b"[]",
            b"{}",
            b'{"texts": []}',
            json.dumps({"texts": ["a"] * (MAX_TEXTS + 1)}).encode(),
            b'{"text": "a", "typo": 1}',
        ):
            refused = client.post("/v1/classify", content=body)
            assert refused.status_code == 422 and list(refused.json()) == ["error"], refused.text
            assert len(refused.text) < 300
        form = client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-type": "application/x-www-form-urlencoded"})
        assert form.status_code == 422 and "content-type: application/json" in form.json()["error"]
        large = b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}'
        assert client.post("/v1/classify", content=large).status_code == 413
        assert client.post("/v1/classify", content=(large[start : start + 2**20] for start in range(0, len(large), 2**20))).status_code == 413

        # Many at once share batches, and each gets its own answer.
        many = [f"text number {index} about a {word}" for index in range(40) for word in ("match", "phone")]
        expected_labels = classifier.predict(many).tolist()
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            found_labels = list(pool.map(lambda text: client.post("/v1/classify", json={"text": text}).json()["results"][0]["label"], many))
        assert found_labels == expected_labels
        assert time.monotonic() - start < 60
        assert client.get("/healthz").status_code == 200
