"""What a job takes along, where its folders lie, and what is refused: with real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selftrain.config import Experiment
from selftrain.errors import ConfigError, OutputError
from selftrain.runtime.upload import KEPT, LIMIT, Upload, keep_files, storage_of

STORAGE = Path("/mnt/shared")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFTRAIN_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def upload():
    return Upload(STORAGE, here=False)


def uploaded(upload: Upload, folder: Path) -> dict[str, bytes]:
    upload.write(folder)
    return {str(file.relative_to(folder / KEPT)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_storage_is_what_is_said_or_the_variable_or_on_one_machine_the_working_folder(here, monkeypatch):
    assert storage_of("/mnt/shared/", here=False) == STORAGE
    assert storage_of(None, here=True) == here
    monkeypatch.setenv("SELFTRAIN_STORAGE", "/mnt/other")
    assert storage_of(None, here=True) == Path("/mnt/other")
    assert storage_of("/mnt/shared", here=True) == STORAGE


@pytest.mark.parametrize("given", ["shared", "s3://bucket/shared"])
def test_a_storage_that_is_none_is_refused(here, given):
    with pytest.raises(ConfigError, match=rf"storage must be the absolute path of a folder that all nodes share, .* \(got '{given}'\)"):
        storage_of(given, here=True)
    with pytest.raises(ConfigError, match="storage must be set to a folder that all nodes share"):
        storage_of(None, here=False)


def test_a_small_file_travels_and_has_the_same_path_whenever_its_content_is_the_same(here, upload, tmp_path_factory):
    (here / "news.csv").write_text("text\na\n")
    (here / "copy.csv").write_text("text\na\n")
    for name in ("news.csv", str(here / "news.csv"), "./news.csv"):
        place = upload.source(name, "data.source")
        assert place == upload.source("news.csv", "data.source") and Path(place).parents[1] == STORAGE / KEPT and Path(place).name == "news.csv"
    other = upload.source("copy.csv", "data.test_source")
    assert Path(other).name == "copy.csv" and Path(other).parent != Path(place).parent
    files = uploaded(upload, tmp_path_factory.mktemp("upload"))
    assert files == {str(Path(one).relative_to(STORAGE / KEPT)): b"text\na\n" for one in (place, other)}
    (here / "news.csv").write_text("text\nb\n")
    assert Upload(STORAGE, here=False).source("news.csv", "data.source") != place


def test_a_file_that_is_too_large_is_refused_before_it_is_read_and_the_sentence_says_which(here, upload):
    with (here / "large.csv").open("wb") as file:
        file.truncate(50 * LIMIT)
    with pytest.raises(
        ConfigError, match=r"data.source 'large.csv' has 100.0 MiB, and the files that a job takes along may have 2 MiB together; put it on the"
    ):
        upload.source("large.csv", "data.source")


def test_files_that_are_too_large_together_are_refused_by_the_largest(here, upload):
    for name, size in (("a.csv", LIMIT // 2), ("b.csv", LIMIT // 4), ("c.csv", LIMIT // 4 + 1)):
        (here / name).write_bytes(b"x" * size)
    upload.source("a.csv", "data.source")
    upload.source("b.csv", "data.test_source")
    with pytest.raises(ConfigError, match=r"data.source 'a.csv' has 1.0 MiB") as refused:
        upload.source("c.csv", "documents")
    assert refused.value.parameter == "data.source"


def test_what_nodes_see_does_not_travel(here, tmp_path_factory):
    (here / "data").mkdir()
    with (here / "data" / "large.csv").open("wb") as file:
        file.truncate(2 * LIMIT)
    shared = Upload(here, here=False)
    assert shared.source("data/large.csv", "data.source") == str(here / "data" / "large.csv")
    assert shared.model("data", "model.encoder") == str(here / "data")
    alone = Upload(STORAGE, here=True)
    assert alone.source("data/large.csv", "data.source") == str(here / "data" / "large.csv")
    assert alone.model("data", "model.encoder") == alone.bundle("data", "bundle") == str(here / "data")
    assert not shared.write(here) and not alone.write(here)


@pytest.mark.parametrize("name", ["bbc_news", "owner/name", "/nodes/have/it.csv", "s3://bucket/news.parquet"])
def test_names_addresses_and_absolute_paths_stay(here, upload, name):
    assert upload.source(name, "data.source") == name
    assert upload.model(name, "model.encoder") == name


def test_what_is_not_here_is_looked_for_on_the_storage(here, upload):
    assert upload.source("news.csv", "data.source") == "/mnt/shared/news.csv"
    assert upload.source("./reviews", "data.source") == "/mnt/shared/reviews"
    assert upload.model("./encoder", "model.encoder") == "/mnt/shared/encoder"
    assert upload.bundle("runs/x/bundle", "bundle") == "/mnt/shared/runs/x/bundle"


def test_a_folder_of_this_machine_is_refused_and_one_that_is_only_called_like_a_set_is_none(here, upload):
    (here / "reviews").mkdir()
    (here / "bbc_news").mkdir()
    (here / "reviews" / "dataset.json").write_text("{}")
    said = (
        r"'reviews' is a folder of this machine, which the nodes do not have; copy it to the storage and pass its path there \(/mnt/shared/reviews\)"
    )
    for asked, parameter in ((upload.source, "data.source"), (upload.model, "model.encoder"), (upload.bundle, "bundle")):
        with pytest.raises(ConfigError, match=f"{parameter} {said}"):
            asked("reviews", parameter)
        assert asked(str(here / "reviews"), parameter) == str(here / "reviews"), "an absolute path is one of the nodes"
    assert upload.source("bbc_news", "data.source") == "bbc_news"


def test_a_document_gets_the_paths_of_the_nodes_everywhere(here, upload):
    (here / "news.csv").write_text("text\n")
    document = {
        "data": {"source": "news.csv", "text_column": "news.csv", "classes": ["a", "b"]},
        "model": {"encoder": "./encoder", "cache": ".selftrain/embeddings"},
        "augment": {"cache": "s3://bucket/texts", "model": None, "teachers": [{"model": "./gemma"}, {"model": "gpt", "server": "http://s/v1"}]},
        "training": {"storage": None, "workers": 2},
        "tracking": {"uri": "sqlite:///mlflow.db"},
        "method": {"name": "genco"},
        "variants": {"other": {"data": {"source": "news.csv"}}},
        "output": "runs",
    }
    news = upload.source("news.csv", "data.source")
    assert upload.document(document) == {
        "data": {"source": news, "text_column": "news.csv", "classes": ["a", "b"]},
        "model": {"encoder": "/mnt/shared/encoder", "cache": "/mnt/shared/.selftrain/embeddings"},
        "augment": {
            "cache": "s3://bucket/texts",
            "model": None,
            "teachers": [{"model": "/mnt/shared/gemma"}, {"model": "gpt", "server": "http://s/v1"}],
        },
        "training": {"storage": None, "workers": 2},
        "tracking": {"uri": "sqlite:////mnt/shared/mlflow.db"},
        "method": {"name": "genco"},
        "variants": {"other": {"data": {"source": news}}},
        "output": "/mnt/shared/runs",
    }
    assert upload.tracking_uri == "sqlite:////mnt/shared/mlflow.db"
    assert upload.value("tracking.uri", "http://mlflow:5000") == upload.tracking_uri == "http://mlflow:5000"
    assert upload.value("tracking.uri", "sqlite:////nodes/mlflow.db") == "sqlite:////nodes/mlflow.db"
    assert upload.value("data.source", ["news.csv", "bbc_news"]) == [news, "bbc_news"]
    assert upload.value("output", "s3://bucket/runs/") == "s3://bucket/runs"
    with pytest.raises(ConfigError, match=r"model\.cache must be a folder below the storage, or an absolute path \(got 's3://bucket/cache'\)"):
        upload.value("model.cache", "s3://bucket/cache")
    with pytest.raises(ConfigError, match=r"output must be a folder, or an address that begins with s3:// or gs:// \(got 'ftp://a/b'\)"):
        upload.value("output", "ftp://a/b")


def test_where_results_go_to_an_address_no_storage_is_needed_and_nothing_is_left_on_a_node(here):
    assert storage_of(None, here=False, results="s3://bucket/runs") is None
    assert storage_of("/mnt/shared", here=False, results="s3://bucket/runs") == STORAGE
    with pytest.raises(ConfigError, match=r"storage must be set to a folder .*, or output to an address, e\.g\. s3://bucket/runs: runs and caches"):
        storage_of(None, here=False, results="runs")
    alone = Upload(None, here=False, results="s3://bucket/runs/")
    document = alone.document(Experiment(output="s3://bucket/runs/").model_dump(mode="json"))
    assert (document["output"], document["augment"]["cache"]) == ("s3://bucket/runs", "s3://bucket/runs/.selftrain/texts")
    assert document["model"]["cache"] == ".selftrain/embeddings", "a cache of each node"
    assert document["data"]["source"] == "bbc_news" and document["training"]["storage"] is None
    assert (
        alone.folder("/nodes/have/it", "training.storage") == "/nodes/have/it"
        and alone.source("s3://bucket/a.parquet", "data.source") == "s3://bucket/a.parquet"
    )
    assert alone.value("tracking.uri", "http://mlflow:5000") == "http://mlflow:5000"
    assert not os.path.isabs(alone.keep("x.yaml", b"name: x", "experiment")), "below the job's own working folder"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source", "news.csv"),
        ("data.source", "missing.csv"),
        ("data.source", "reviews"),
        ("model.encoder", "./encoder"),
        ("model.encoder", "reviews"),
        ("tracking.uri", "sqlite:///mlflow.db"),
    ],
)
def test_without_a_storage_what_only_this_machine_has_is_refused(here, key, value):
    (here / "news.csv").write_text("text\n")
    (here / "reviews").mkdir()
    (here / "reviews" / "dataset.json").write_text("{}")
    said = (
        rf"{key} '{value}' is a path of this machine, and without a storage a job has none of its files where it is resumed; pass a name, an address"
    )
    with pytest.raises(ConfigError, match=said):
        Upload(None, here=False, results="s3://bucket/runs").value(key, value)


def test_no_path_of_the_default_experiment_is_relative_on_the_nodes(here, upload):
    """A key that is added to the document and holds a path by default is seen here."""
    document = upload.document(Experiment().model_dump(mode="json"))
    held = {"output": document["output"], "model": document["model"]["cache"], "augment": document["augment"]["cache"]}
    assert all(path.startswith("/mnt/shared/") for path in held.values())
    loose = [
        f"{name}.{key}" for name, part in document.items() if isinstance(part, dict) for key, value in part.items() if str(value).startswith(".")
    ]
    assert loose == []


def test_a_job_keeps_its_files_on_the_storage_once(here, upload, tmp_path_factory):
    storage, working = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("working")
    (here / "news.csv").write_text("text\na\n")
    upload = Upload(storage, here=False)
    place = Path(upload.source("news.csv", "data.source"))
    assert upload.write(working)
    (working / "other").write_text("x")
    keep_files(working, storage)
    assert place.read_text() == "text\na\n"
    assert {str(file.relative_to(storage)) for file in storage.rglob("*") if file.is_file()} == {str(place.relative_to(storage))}
    first = place.stat().st_mtime_ns
    keep_files(working, storage)
    assert place.stat().st_mtime_ns == first, "a file that is there is not written again, while another job reads it"


def test_a_node_without_the_storage_says_so_and_makes_no_folder(here, tmp_path_factory):
    missing = here / "missing"
    with pytest.raises(ConfigError, match=r"storage '.*missing' is not a folder on the node \S+, where the job runs; mount it on all nodes"):
        keep_files(here, missing)
    assert not missing.exists()
    with pytest.raises(OutputError, match="the storage must be a folder that can be written to"):
        keep_files(here, Path("/proc"))
