"""A pass that reads from and writes to an object store: an imitation of S3 that speaks its protocol. Without Ray, as in test_prediction.py."""

from __future__ import annotations

import gc
import json
import shutil

import pytest
import s3fs
from fsspec.registry import known_implementations
from many_files import check_result, files_of, write_parquet
from object_store import new_bucket, s3_server

from selftrain.data import parquet
from selftrain.errors import ConfigError, DataError, MissingExtraError, OutputError, ServiceError
from selftrain.files import remote
from selftrain.files.scratch import own_folder
from selftrain.passes import parts
from selftrain.passes.prediction import predict_files

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server, monkeypatch):
    """The address of an empty bucket."""
    return new_bucket(server, monkeypatch)


def uploaded(docs, address: str) -> None:
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    for file in docs.rglob("*.*"):
        files.put_file(str(file), f"{address}/{file.relative_to(docs)}")
    files.pipe_file(f"{address}/_SUCCESS", b"")


def downloaded(address: str, folder):
    """The folder at `address`, with paths of this machine in place of addresses."""
    s3fs.S3FileSystem(skip_instance_cache=True).get(f"{address}/", f"{folder}/", recursive=True)
    return folder


def test_files_and_labels_in_a_bucket(docs, bundle, here, bucket, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 40)
    uploaded(docs, f"{bucket}/in")
    here.stop_after = 4  # one process describes the text files, and the other one classifies
    with pytest.raises(KeyboardInterrupt):
        predict_files(bundle, f"{bucket}/in/", f"{bucket}/out/")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    assert len(files.glob(f"{bucket}/out/part-*")) == 4 and not files.exists(f"{bucket}/out/_manifest.json")
    here.stop_after, here.classified = None, []
    made = predict_files(bundle, f"{bucket}/in", f"{bucket}/out")
    assert made.out == f"{bucket}/out" and len(here.classified) == made.parts - 4 == 2 and made.rows == 201
    assert "1 other files" in capsys.readouterr().err
    found = downloaded(f"{bucket}/out", tmp_path / "found")
    check_result(found, bundle, files_of(docs), tmp_path / "one by one", named=lambda file: f"{bucket}/in/{file.relative_to(docs)}")
    assert predict_files(bundle, f"{bucket}/in", f"{bucket}/out").found
    gc.collect()  # the traceback of the first one holds what it worked with
    assert not [path for path in own_folder("passes").rglob("*") if path.is_file()]  # copies are gone with their process

    assert predict_files(bundle, f"{bucket}/in/*.parquet", tmp_path / "here").rows == 45
    assert predict_files(bundle, f"{bucket}/in/more/large.parquet", tmp_path / "one").rows == 100
    files.pipe_file(f"{bucket}/in/a.parquet", (docs / "more" / "large.parquet").read_bytes())
    with pytest.raises(OutputError, match=rf"out {bucket}/out holds the labels of other files"):
        predict_files(bundle, f"{bucket}/in", f"{bucket}/out")


def test_errors_name_the_address_and_not_the_copy(docs, bundle, here, bucket, tmp_path, monkeypatch):
    bad = write_parquet(docs / "bad.parquet", [{"id": "x", "text": "goal " * 5000}] * 24, use_dictionary=False)
    uploaded(docs, bucket)
    monkeypatch.setattr(parquet, "PAGE_BYTES", bad.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"^{bucket}/bad\.parquet, column 'text' has a page of"):
        predict_files(bundle, f"{bucket}/*.parquet", tmp_path / "labeled")
    shutil.rmtree(docs)
    docs.mkdir()
    (docs / "x.jsonl").write_text("nonsense\n")
    uploaded(docs, f"{bucket}/other")
    with pytest.raises(DataError, match=rf"^{bucket}/other/x\.jsonl is not valid JSON"):
        predict_files(bundle, f"{bucket}/other", tmp_path / "nothing")


def test_what_is_not_there_is_one_sentence(docs, bundle, here, bucket, tmp_path):
    with pytest.raises(DataError, match="No such file or folder: s3://nowhere/in; correct source"):
        predict_files(bundle, "s3://nowhere/in", tmp_path / "labeled")
    with pytest.raises(OutputError, match="out s3://nowhere/out cannot be written: there is no such bucket"):
        predict_files(bundle, docs, "s3://nowhere/out")
    with pytest.raises(OutputError, match="out must not lie in the folder that is read"):
        predict_files(bundle, bucket, f"{bucket}/out")
    with pytest.raises(ConfigError, match=r"source must be a path, or an address that begins with s3:// or gs:// \(got 'ftp://host/in'\)"):
        predict_files(bundle, "ftp://host/in", tmp_path / "labeled")
    assert json.dumps(here.classified) == "[]" and not (tmp_path / "labeled").exists()


def test_a_store_that_cannot_be_reached(bundle, here, tmp_path, monkeypatch):
    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    try:
        with pytest.raises(ServiceError, match=r"s3://nowhere/in cannot be reached \(.*127\.0\.0\.1:9.*\); check the address, the credentials"):
            predict_files(bundle, "s3://nowhere/in", tmp_path / "labeled")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_whose_package_is_missing(docs, bundle, here, tmp_path, monkeypatch):
    monkeypatch.setitem(remote.PACKAGES, "none", ("nones3", "'selftrain[none]'"))
    monkeypatch.setitem(known_implementations, "none", {"class": "nones3.Files"})
    with pytest.raises(MissingExtraError, match=r"source none://x needs the package nones3; pip install 'selftrain\[none\]'"):
        predict_files(bundle, "none://x", tmp_path / "labeled")
