"""The registry and its champion, on a real MLflow with a SQLite file of the test."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import tiny_backbone
from tracking_store import client, tracker

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.errors import BundleError, ConfigError, SelfTrainError, ServiceError
from selftrain.tracking import champion_bundle, registered_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    backbone = tiny_backbone(folder / "tiny")
    prototypes = backbone.encode(["about sport", "about tech"], convert_to_tensor=True)
    return write_bundle(
        folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="x", labels=("sport", "tech"), method="genco")
    )


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
    assert not unlike.champion and "other classes" in unlike.reason and "set promote" in unlike.reason
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
    assert not first.champion and "set promote" in first.reason
    with pytest.raises(ConfigError, match=r"has no champion: none of its 1 versions .* with promote"):
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
    with pytest.raises(ConfigError, match=r"has no model 'news' \(it has: none\); train one"):
        champion_bundle("news", uri)
    tracker(uri, tmp_path).log_bundle_and_register(bundle, "news", {"accuracy": 0.9}, labeled=True)
    with pytest.raises(ConfigError, match=r"has no model 'new' \(it has: news\)"):
        champion_bundle("new", uri)
    with pytest.raises(ConfigError, match="has no version 7; it has 1"):
        registered_bundle("models:/news/7", uri)
    with pytest.raises(ConfigError, match="model_uri must be"):
        registered_bundle("models:/news", uri)
    with pytest.raises(ServiceError, match="There is no MLflow database"):
        champion_bundle("news", f"sqlite:///{tmp_path}/absent.db")
    assert not (tmp_path / "absent.db").exists()
    folder = champion_bundle("news", uri).folder
    folder.rename(folder.with_name("gone"))
    with pytest.raises(BundleError, match=r"its files .* are gone"):
        champion_bundle("news", uri)


def test_mlmodel_names_no_path_of_this_machine(uri: str, tmp_path: Path, bundle: Path) -> None:
    tracker(uri, tmp_path).log_bundle_and_register(bundle, "news", {}, labeled=False)
    text = (bundle / "MLmodel").read_text() + json.dumps(sorted(path.name for path in bundle.iterdir()))
    assert str(tmp_path) not in text and os.path.expanduser("~") + "/" not in text
