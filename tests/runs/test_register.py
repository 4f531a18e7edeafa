"""`selftrain register`: versions of bundles that no run of an experiment made, and which of them becomes champion."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from endpoint import make_bundle
from mlflow import MlflowClient

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card
from selftrain.cli import main
from selftrain.errors import SelfTrainError
from selftrain.runs.register import register
from selftrain.tracking import champion_bundle

TEXTS = [
    f"{one} {two}" for one in ("match", "team", "phone", "software", "vote", "minister") for two in ("won", "the goal", "said today", "of the year")
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two bundles of the same classes, a registry, and a file whose labels are the answers of the second."""
    folder = tmp_path_factory.mktemp("registering")
    first, second = make_bundle(folder / "first", seed=1), make_bundle(folder / "second", seed=2)
    answers = [Classifier.load(bundle).predict(TEXTS) for bundle in (first, second)]
    assert (answers[0] != answers[1]).any()
    file = folder / "labeled.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("text", "topic"), *zip(TEXTS, answers[1], strict=True)])
    return folder, first, second, str(file)


@pytest.fixture
def uri(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)  # where MLflow puts its artifacts
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_the_more_accurate_bundle_becomes_champion_and_the_other_one_does_not(places, uri) -> None:
    _, first, second, file = places
    found = [register(bundle, "news", documents=file, label_column="topic", uri=uri) for bundle in (first, second, first)]
    assert [(one.version, one.champion) for one in found] == [("1", True), ("2", True), ("3", False)]
    assert "1.0000 against" in found[1].reason and "against 1.0000 of champion version 2" in found[2].reason
    served = champion_bundle("news", uri)
    assert served.version == "2"
    assert (Classifier.load(served.folder).predict_proba(TEXTS) == Classifier.load(second).predict_proba(TEXTS)).all()
    client = MlflowClient(uri, uri)
    version = client.get_model_version("news", "2")
    assert float(version.tags["accuracy"]) == 1 and version.tags["method"] == "genco"
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["accuracy"] == 1


def test_promote_compares_nothing(places, uri) -> None:
    _, first, second, file = places
    register(second, "news", documents=file, label_column="topic", uri=uri)
    found = register(first, "news", promote=True, uri=uri)
    assert found.champion and champion_bundle("news", uri).version == "2"


def test_without_labels_nothing_is_promoted(places, uri) -> None:
    _, first, _, file = places
    found = register(first, documents=file, uri=uri)
    assert (found.model, found.champion) == (read_card(first).name, False) and "set promote" in found.reason


def test_the_command_says_what_became_of_it(places, uri, capsys) -> None:
    _, first, _, file = places
    assert main(["register", str(first), "--model", "news", "--documents", file, "--label-column", "topic", "--tracking-uri", uri]) == 0
    assert "news version 1, champion: the first champion, accuracy" in capsys.readouterr().out


def damaged(folder: Path) -> str:
    (folder / "prototypes.safetensors").write_bytes(b"nothing")
    return "prototypes.safetensors"


def poisoned(folder: Path) -> str:
    poison = make_bundle(folder.parent / "poison", poison="the")
    shutil.rmtree(folder)
    poison.rename(folder)
    return "not finite"


@pytest.mark.parametrize("harm", [damaged, poisoned])
def test_a_bundle_that_does_not_work_leaves_no_version(places, uri, tmp_path, harm) -> None:
    _, first, _, file = places
    folder = Path(shutil.copytree(first, tmp_path / "copy"))
    words = harm(folder)
    with pytest.raises(SelfTrainError, match=words):
        register(folder, "news", documents=file, label_column="topic", uri=uri)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["BUNDLE", "--model", "a name"], "128 letters, digits"),
        (["nothing-here"], "nothing-here"),
        (["BUNDLE"], "--documents must be passed"),  # the bundle names no experiment whose documents could be taken
        (["BUNDLE", "--documents", "FILE"], "--label-column"),
        (["BUNDLE", "--documents", "FILE", "--label-column", "topic", "--promote"], "--promote compares nothing"),
        (["BUNDLE", "--label-column", "topic"], "--documents FILE"),
        (["BUNDLE", "--documents", "FILE", "--label-column", "nothing"], "nothing"),
        (["BUNDLE", "--promote", "--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_bad_input_is_one_sentence(places, uri, tmp_path, capsys, arguments, words) -> None:
    _, first, _, file = places
    given = [{"BUNDLE": str(first), "FILE": file}.get(one, one) for one in arguments]
    assert main(["register", *given]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert not (tmp_path / "mlflow.db").exists()


def test_a_bundle_of_other_classes_is_not_compared(places, uri) -> None:
    folder, first, _, file = places
    other = make_bundle(folder / "other", labels=("sport", "tech"))
    register(other, "news", promote=True, uri=uri)
    found = register(first, "news", documents=file, label_column="topic", uri=uri)
    assert not found.champion and "are sport, tech, not sport, tech, politics" in found.reason
