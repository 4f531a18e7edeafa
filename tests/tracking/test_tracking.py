"""Runs, the registry and its champion, on a real MLflow with a SQLite file of the test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.config import TrackingConfig
from selftrain.errors import SelfTrainError
from selftrain.tracking import Tracker, champion_bundle, check_tracking, finished_metrics, registered_bundle, tracking_uri, ui_command


@pytest.fixture(autouse=True)
def _no_server(monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Path:
    """A folder with a database that has its tables already: making them takes seconds."""
    folder = tmp_path_factory.mktemp("blank")
    Tracker(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"), folder, "blank")
    return folder


@pytest.fixture
def uri(blank: Path, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes((blank / "mlflow.db").read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def tracker(uri: str, tmp_path: Path, name: str = "run-1", **changes) -> Tracker:
    # An experiment of the test's own: the copied database's says that its artifacts belong beside the original.
    made = Tracker(TrackingConfig(uri=uri, experiment="mine", **changes), tmp_path / "runs" / name, name)
    made.start(name, {"method": {"name": "genco"}})
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    backbone = tiny_backbone(folder / "tiny")
    prototypes = backbone.encode(["about sport", "about tech"], convert_to_tensor=True)
    return write_bundle(
        folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="x", labels=("sport", "tech"), method="genco")
    )


def test_the_address(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://host/path")
    assert tracking_uri() == "https://host/path"
    assert tracking_uri("sqlite:////x.db") == "sqlite:////x.db"
    assert tracking_uri("postgresql+psycopg2://me@host/db") == "postgresql+psycopg2://me@host/db"
    for wrong in ("./mlruns", "file:///tmp/mlruns", "ftp://host"):
        with pytest.raises(SelfTrainError, match="neither a server"):
            tracking_uri(wrong)


def test_a_run_holds_what_was_logged(uri: str, tmp_path: Path) -> None:
    made = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path / "runs" / "r", "r")
    params = {
        "method": {"name": "genco", "tau": 0.1},
        "long": "x" * 7000,
        "empty": {},
        "odd+name?": 1,
        **{f"p{index}": index for index in range(150)},
    }
    run_id = made.start("r-1", params, {"git": "abc"})
    made.log_metrics({"accuracy": 0.9, "macro_f1": None})
    (tmp_path / "report.html").write_text("<p>")
    made.log_artifact(tmp_path / "report.html", "reports")
    below = made.child("full-0", {"seed": 0}, {"variant": "full"})
    below.log_rounds([{"round": index, "figures": {"loss": index / 10, "share": 1.0, "per class/tech": 0.5}} for index in range(400)])
    below.finish()
    made.finish()

    run = client(uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "r"
    assert run.data.params["method.tau"] == "0.1" and run.data.params["odd_name_"] == "1" and run.data.params["p149"] == "149"
    assert len(run.data.params["long"]) == 6000 and run.data.params["long"].endswith("…")
    assert run.data.metrics == {"accuracy": 0.9}
    assert run.data.tags["git"] == "abc" and run.data.tags["selftrain.run"] == "r-1" and run.data.tags["selftrain.run_folder"].endswith("runs/r")
    assert [file.path for file in client(uri).list_artifacts(run_id, "reports")] == ["reports/report.html"]
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    child = client(uri).get_run(below.run_id)
    assert child.data.tags["mlflow.parentRunId"] == run_id and child.info.run_name == "full-0" and child.data.params == {"seed": "0"}
    history = client(uri).get_metric_history(below.run_id, "loss")
    assert {metric.step: metric.value for metric in history} == {index: index / 10 for index in range(400)}
    assert child.data.metrics["per class/tech"] == 0.5

    # A driver that was restarted goes on in the same run.
    again = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path / "runs" / "r", "r")
    assert again.start("r-1", params) == run_id
    assert client(uri).get_run(run_id).info.status == "RUNNING"
    assert again.start("r-2", {}) != run_id


def test_nothing_is_logged_before_the_start(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Tracker\.start"):
        Tracker(TrackingConfig(uri=uri), tmp_path, "r").log_metrics({"accuracy": 1.0})


OPEN = (
    "import sys; from pathlib import Path; from selftrain.config import TrackingConfig; from selftrain.tracking import Tracker; "
    "Tracker(TrackingConfig(experiment='together'), Path('runs/r'), 'r').start(sys.argv[1], {})"
)


def driver(number: int, folder: Path) -> subprocess.Popen:
    """A process that opens the database in `folder` and starts a run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", OPEN, f"r-{number}"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_four_processes_may_open_a_fresh_database_at_once_and_say_nothing(tmp_path: Path) -> None:
    drivers = [driver(number, tmp_path) for number in range(4)]
    try:
        assert [process.communicate(timeout=400)[0] for process in drivers] == [""] * 4
    finally:
        for process in drivers:
            process.kill()
    assert [process.returncode for process in drivers] == [0, 0, 0, 0]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = client(uri).get_experiment_by_name("together")
    assert {run.data.tags["selftrain.run"] for run in client(uri).search_runs([experiment.experiment_id])} == {"r-0", "r-1", "r-2", "r-3"}


WRITE = """
import sys
from pathlib import Path
from selftrain.config import TrackingConfig
from selftrain.tracking import Tracker
number = int(sys.argv[1])
tracker = Tracker(TrackingConfig(experiment='together'), Path('runs/r'), 'r')
tracker.start(f'r-{number % 2}', {'number': number % 2})
for child in range(3):
    run = tracker.child(f'{number}-{child}', {'seed': child}, {'selftrain.cell': f'{number}-{child}'})
    for start in range(0, 500, 25):
        run.log_rounds([{'round': step, 'figures': {'loss': number + step / 1000, 'share': 0.5}} for step in range(start, start + 25)])
    run.log_metrics({'accuracy': number / 10})
    run.finish()
"""


def test_eight_processes_write_thousands_of_points_at_once_and_none_is_lost(tmp_path: Path, blank: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes((blank / "mlflow.db").read_bytes())
    for parent in (0, 1):  # a parent is the driver's to make; the writers find it
        Tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="together"), tmp_path, "r").start(f"r-{parent}", {"number": parent})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(number)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for number in range(8)
    ]
    try:
        assert [process.communicate(timeout=600)[0] for process in writers] == [""] * 8
    finally:
        for process in writers:
            process.kill()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = client(uri).get_experiment_by_name("together")
    parents = client(uri).search_runs([experiment.experiment_id], filter_string="tags.`selftrain.run` != ''")
    assert len(parents) == 2
    found = {run.data.tags["selftrain.cell"]: run for run in client(uri).search_runs([experiment.experiment_id]) if "selftrain.cell" in run.data.tags}
    assert set(found) == {f"{number}-{child}" for number in range(8) for child in range(3)}
    for cell, run in found.items():
        number = int(cell[0])
        assert run.info.status == "FINISHED" and run.data.metrics["accuracy"] == number / 10
        losses = client(uri).get_metric_history(run.info.run_id, "loss")
        assert {metric.step: metric.value for metric in losses} == {step: number + step / 1000 for step in range(500)}
    again = Tracker(TrackingConfig(uri=uri, experiment="together"), tmp_path, "r")
    again.start("r-0", {})
    assert again.tags_of_children("selftrain.cell") == {cell for cell in found if int(cell[0]) % 2 == 0}


def test_finished_runs_are_found_with_their_metrics(uri: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"run": {"id": "r-1"}}')
    for name, tags, finished in (("r-1", {}, True), ("s-1", {"selftrain.kind": "sweep"}, True), ("r-2", {}, False)):
        made = Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path, name)
        made.start(name, {}, tags)
        made.child("seed 0").finish()
        made.log_artifact(tmp_path / "metrics.json")
        if finished:
            made.finish()
    assert finished_metrics(uri, "mine") == [{"run": {"id": "r-1"}}]
    with pytest.raises(SelfTrainError, match=r"no MLflow experiment 'other' .*mine"):
        finished_metrics(uri, "other")
    with pytest.raises(SelfTrainError, match="There is no MLflow database"):
        finished_metrics(f"sqlite:///{tmp_path}/absent.db")


def test_the_champion_is_the_best_on_the_same_documents(uri: str, tmp_path: Path, bundle: Path) -> None:
    asked: list[Path] = []

    def champion_gets(accuracy: float):
        def evaluate(folder: Path) -> float:
            asked.append(folder)
            assert Classifier.load(folder, device="cpu").classes_.tolist() == ["sport", "tech"]
            return accuracy

        return evaluate

    def register(name: str, accuracy: float, evaluate):
        facts = {"data_fingerprint": "abc"}
        made = tracker(uri, tmp_path, name)
        return made.log_bundle_and_register(bundle, "news", {"accuracy": accuracy, "documents": 100}, labeled=True, evaluate=evaluate, tags=facts)

    first = register("one", 0.5, champion_gets(0.0))
    assert (first.version, first.champion, asked) == ("1", True, [])
    # What counts is the champion's accuracy on these documents (0.7), not the one that it was registered with (0.5).
    worse = register("two", 0.6, champion_gets(0.7))
    assert (worse.version, worse.champion, len(asked)) == ("2", False, 1)
    assert "0.6000 against 0.7000 of champion version 1" in worse.reason
    equal = register("three", 0.7, champion_gets(0.7))
    assert not equal.champion
    better = register("four", 0.71, champion_gets(0.7))
    assert (better.version, better.champion) == ("4", True)
    folder, version = champion_bundle("news", uri)
    assert version == "4" and Classifier.load(folder, device="cpu").predict(["a phone"]).shape == (1,)
    stored = client(uri).get_model_version("news", "4")
    assert stored.tags["accuracy"] == "0.71" and stored.tags["documents"] == "100" and stored.tags["data_fingerprint"] == "abc"
    assert stored.tags["champion_decision"] == better.reason

    def other_classes(folder: Path) -> float:
        raise SelfTrainError("the champion has other classes")

    unlike = register("five", 0.99, other_classes)
    assert not unlike.champion and "other classes" in unlike.reason and "--promote" in unlike.reason
    assert champion_bundle("news", uri).version == "4"


def test_registering_again_in_the_same_run_leaves_the_first_version_alone(uri: str, tmp_path: Path, bundle: Path) -> None:
    made = tracker(uri, tmp_path)
    first, second = (
        made.log_bundle_and_register(bundle, "news", {"accuracy": accuracy}, labeled=True, evaluate=lambda _: 0.5) for accuracy in (0.5, 0.6)
    )
    folders = [registered_bundle(f"models:/news/{one.version}", uri).folder for one in (first, second)]
    assert folders[0] != folders[1] and all((folder / "selftrain.json").is_file() for folder in folders)


def test_without_labels_only_when_asked(uri: str, tmp_path: Path, bundle: Path) -> None:
    # An accuracy that came from nowhere does not count where there are no labels.
    first = tracker(uri, tmp_path, "one").log_bundle_and_register(bundle, "news", {"accuracy": 0.9}, labeled=False)
    assert not first.champion and "--promote" in first.reason
    with pytest.raises(SelfTrainError, match=r"has no champion: none of its 1 versions .* --promote"):
        champion_bundle("news", uri)
    second = tracker(uri, tmp_path, "two").log_bundle_and_register(bundle, "news", {}, labeled=False, promote=True)
    assert second.champion and "as asked" in second.reason
    assert champion_bundle("news", uri).version == "2"


def test_mlflow_opens_a_registered_bundle(uri: str, tmp_path: Path, bundle: Path, monkeypatch) -> None:
    import mlflow
    import pandas as pd

    texts = ["the team won", "a phone"]
    classifier = Classifier.load(bundle, device="cpu")
    tracker(uri, tmp_path).log_bundle_and_register(bundle, "news", {"accuracy": 0.9}, labeled=True)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    mlflow.set_tracking_uri(uri)
    try:
        for source in (str(bundle), "models:/news@champion"):
            model = mlflow.pyfunc.load_model(source)
            for given in (texts, pd.DataFrame({"text": texts}), pd.DataFrame({"only": texts})):
                found = model.predict(given)
                assert found["label"].tolist() == classifier.predict(texts).tolist()
                assert found["probability"].tolist() == pytest.approx(classifier.predict_proba(texts).max(axis=1).tolist())
            with pytest.raises(SelfTrainError, match="none of them is 'text'"):
                model.predict(pd.DataFrame({"a": texts, "b": texts}))
    finally:
        mlflow.set_tracking_uri(None)
    # The folder is still a bundle that sentence-transformers opens, and still holds no pickle.
    opened = Classifier.load("models:/news/1", device="cpu", tracking_uri=uri)
    assert opened.predict_proba(texts).tolist() == classifier.predict_proba(texts).tolist()
    assert {path.suffix for path in bundle.rglob("*") if path.is_file()} <= {"", ".json", ".safetensors", ".md"}
    assert "selftrain.bundle.pyfunc" in (bundle / "MLmodel").read_text()


def test_what_the_registry_lacks_is_said(uri: str, tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(SelfTrainError, match=r"has no model 'news' \(it has: none\); make one with `selftrain run`"):
        champion_bundle("news", uri)
    tracker(uri, tmp_path).log_bundle_and_register(bundle, "news", {"accuracy": 0.9}, labeled=True)
    with pytest.raises(SelfTrainError, match=r"has no model 'new' \(it has: news\)"):
        champion_bundle("new", uri)
    with pytest.raises(SelfTrainError, match="has no version 7; it has 1"):
        registered_bundle("models:/news/7", uri)
    with pytest.raises(SelfTrainError, match="names no registered model"):
        registered_bundle("models:/news", uri)
    with pytest.raises(SelfTrainError, match="There is no MLflow database"):
        champion_bundle("news", f"sqlite:///{tmp_path}/absent.db")
    assert not (tmp_path / "absent.db").exists()
    folder = champion_bundle("news", uri).folder
    folder.rename(folder.with_name("gone"))
    with pytest.raises(SelfTrainError, match=r"its files .* are gone"):
        champion_bundle("news", uri)


def test_a_password_in_the_address_is_not_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SelfTrainError, match="does not answer") as error:
            check_tracking(f"http://me:secret@{address}")
    assert "secret" not in str(error.value) and address in str(error.value)


def test_a_server_that_is_down_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody else gets the port, and connecting is refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(SelfTrainError, match=f"The tracking server {uri} does not answer"):
            Tracker(TrackingConfig(uri=uri), tmp_path, "r")
        assert time.monotonic() - start < 5
    with socket.socket() as silent:  # listening, and never answering
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(SelfTrainError, match="does not answer"):
            check_tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 6


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("certainly no database, but long enough to have a header " * 3)
    with pytest.raises(SelfTrainError, match="cannot be used"):
        Tracker(TrackingConfig(uri=f"sqlite:///{tmp_path}/x.db"), tmp_path, "r")
    with pytest.raises(SelfTrainError, match="cannot be written"):
        Tracker(TrackingConfig(uri="sqlite:////proc/no/mlflow.db"), tmp_path, "r")


def test_a_deleted_experiment(uri: str, tmp_path: Path) -> None:
    tracker(uri, tmp_path)
    client(uri).delete_experiment(client(uri).get_experiment_by_name("mine").experiment_id)
    with pytest.raises(SelfTrainError, match="'mine' was deleted"):
        Tracker(TrackingConfig(uri=uri, experiment="mine"), tmp_path, "r")


def test_the_page(uri: str, tmp_path: Path) -> None:
    command, environment = ui_command(uri, 5123)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5123"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == environment["MLFLOW_REGISTRY_STORE_URI"] == uri
    assert uri not in " ".join(command)  # it may hold a password
    assert command[command.index("--default-artifact-root") + 1] == (tmp_path / "mlartifacts").as_uri()
    with pytest.raises(SelfTrainError, match="open http://host"):
        ui_command("http://host")
    with pytest.raises(SelfTrainError, match="There is no MLflow database"):
        ui_command(f"sqlite:///{tmp_path}/absent.db")


def test_mlmodel_names_no_path_of_this_machine(uri: str, tmp_path: Path, bundle: Path) -> None:
    tracker(uri, tmp_path).log_bundle_and_register(bundle, "news", {}, labeled=False)
    text = (bundle / "MLmodel").read_text() + json.dumps(sorted(path.name for path in bundle.iterdir()))
    assert str(tmp_path) not in text and os.path.expanduser("~") + "/" not in text
