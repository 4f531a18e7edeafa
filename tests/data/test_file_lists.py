"""Several files as one source: folders, wildcards and addresses of object stores."""

import errno
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import BUCKETS, new_bucket, s3_server

from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
from selftrain.data.sources import find_source
from selftrain.errors import ConfigError, DataError, MissingExtraError, ResourceError, ServiceError

PARTS = {"part-2.parquet": range(20, 30), "part-1.parquet": range(10, 20), "part-10.parquet": range(0, 10)}
IN_ORDER = [*range(10, 20), *range(0, 10), *range(20, 30)]  # part-1, part-10, part-2


def table(numbers):
    return pa.table({"text": [f"text {number}" for number in numbers], "label": ["cat" if number % 2 else "dog" for number in numbers]})


def texts(source, **options):
    return [row.text for row in find_source(DataConfig(source=source, **options)).train]


EXPECTED = [f"text {number}" for number in IN_ORDER]


@pytest.fixture
def folder(tmp_path):
    for name, numbers in PARTS.items():
        (tmp_path / "pets").mkdir(exist_ok=True)
        pq.write_table(table(numbers), tmp_path / "pets" / name)
    for name in ("_metadata.parquet", ".part-0.parquet", "notes.txt"):
        (tmp_path / "pets" / name).write_text("not read")
    pq.write_table(table(()), tmp_path / "pets" / "part-0.parquet")  # other programs leave such
    return tmp_path / "pets"


def test_a_folder_of_parquet_files_is_one_source(folder, monkeypatch):
    assert texts(str(folder)) == texts(f"{folder}/") == texts(f"{folder}/part-*.parquet") == EXPECTED
    monkeypatch.chdir(folder.parent)
    for name in ("pets", "./pets", "pets/part-*.parquet", "*/part-*.parquet"):
        assert texts(name) == EXPECTED
    source = find_source(DataConfig(source="pets/part-*.parquet", label_column="label"))
    assert source.name == "pets" and [row.place for row in source.train][9:11] == ["part-1.parquet row 10", "part-10.parquet row 1"]
    assert list(source.train) == list(source.train)
    corpus, truth = load_corpus(DataConfig(source="pets", label_column="label", test_documents=6, min_documents=2))
    assert corpus.class_names == ("cat", "dog") and len(corpus.test) == 6 and len(corpus.unlabeled) == len(truth.unlabeled) == 24


def test_a_wildcard_takes_text_files_too(tmp_path):
    (tmp_path / "b.csv").write_text("text\ntwo\n")
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "c.csv").write_text("text\n")
    assert texts(f"{tmp_path}/[abc].csv") == ["one", "two"]
    assert texts(f"{tmp_path}/**/?.csv") == ["one", "two"]
    (tmp_path / "[b].csv").write_text("text\na file of this name\n")
    assert texts(f"{tmp_path}/[b].csv") == ["a file of this name"]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("{}/none-*.parquet", {}, r"No file matches '.*none-\*.parquet'; correct data.source"),
        ("{}/part-0*.parquet", {}, r"The files of .*part-0\*.parquet hold no rows"),
        ("{}/n*", {}, r"data.source must be a .csv, .*notes.txt"),
        ("{}", {"text_column": "texts"}, r"part-0.parquet has no column 'texts'; did you mean 'text'"),
        ("{}", {"train_split": "part-1"}, r"data.train_split is 'part-1', but the files of .* are no splits"),
    ],
)
def test_what_is_wrong_with_a_list_of_files(folder, source, options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        texts(source.format(folder), **options)


def test_a_torn_file_of_several_is_named(folder):
    (folder / "part-10.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"part-10.parquet is not a readable Parquet file"):
        texts(str(folder))


@pytest.fixture
def store(folder):
    """The same files in fsspec's memory."""
    import fsspec

    files, bucket = fsspec.filesystem("memory"), f"pets-{next(BUCKETS)}"
    for file in folder.iterdir():
        files.pipe_file(f"/{bucket}/texts/{file.name}", file.read_bytes())
    return files, f"memory://{bucket}/texts"


def test_an_address_gives_what_the_folder_gives(store, folder):
    _, address = store
    for source in (address, f"{address}/", f"{address}/part-*.parquet"):
        assert texts(source) == EXPECTED
    assert texts(f"{address}/part-1.parquet") == EXPECTED[:10]
    mine, its = (load_corpus(DataConfig(source=source, label_column="label", test_documents=6, min_documents=2)) for source in (address, str(folder)))
    assert mine[0].name == "texts" and mine[0].unlabeled == its[0].unlabeled and mine[0].fingerprint == its[0].fingerprint and mine[1] == its[1]


def test_what_is_wrong_with_an_address(store):
    files, address = store
    for source, message in (
        (f"{address}/none-*.parquet", "No file matches memory://"),
        (f"{address}-none/", "No file with the suffix .parquet is in memory://"),
        (f"{address}/none.parquet", "No file with the suffix .parquet is in memory://"),
        (f"{address}/n*", r"data.source must be .csv, .* files .got memory://.*/notes.txt"),
    ):
        with pytest.raises(DataError, match=message):
            texts(source)
    with pytest.raises(ConfigError, match=r"an address that begins with s3:// or gs:// .got 'ftp://x/y.parquet'"):
        texts("ftp://x/y.parquet")
    where = files._strip_protocol(f"{address}/part-1.parquet")
    files.pipe_file(where, b"PAR1 torn")
    with pytest.raises(DataError, match=rf"^{address}/part-1.parquet is not a readable Parquet file"):  # not the copy's name
        texts(address)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [b"x"]}), sink)
    files.pipe_file(where, sink.getvalue().to_pybytes())
    with pytest.raises(DataError, match=rf"^{address}/part-1.parquet holds images, which are read from files of this machine alone"):
        texts(address)


def test_a_page_that_stands_for_too_much_is_refused_in_a_store_too(store, monkeypatch):
    _, address = store
    monkeypatch.setattr("selftrain.data.parquet.PAGE_BYTES", 50)
    with pytest.raises(DataError, match=rf"^{address}/part-1.parquet, column 'text' has a page of"):
        texts(address)


def test_one_copy_at_a_time_is_on_this_machine(store, monkeypatch, tmp_path):
    _, address = store
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    seen = [len(set(tmp_path.iterdir()) - before) for _ in find_source(DataConfig(source=address)).train]
    assert seen == [1] * 30 and set(tmp_path.iterdir()) == before


def test_a_copy_that_cannot_be_made_is_explained(store, monkeypatch):
    files, address = store
    monkeypatch.setattr(type(files), "get_file", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(ResourceError, match=rf"has no room for a copy of {address}/part-0.parquet; free some space, or set TMPDIR"):
        texts(address)
    monkeypatch.setattr(type(files), "get_file", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "refused")))
    with pytest.raises(ServiceError, match=rf"{address}/part-0.parquet cannot be reached .*refused.*; check the address"):
        texts(address)
    monkeypatch.undo()
    rows = iter(find_source(DataConfig(source=address)).train)
    next(rows)
    files.rm(files._strip_protocol(f"{address}/part-2.parquet"))
    with pytest.raises(DataError, match=rf"{address}/part-2.parquet is gone"):
        list(rows)


@pytest.fixture
def bucket(folder, monkeypatch):
    import s3fs

    with s3_server() as server:
        address = new_bucket(server, monkeypatch)
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        for file in folder.iterdir():
            files.pipe_file(f"{address}/texts/{file.name}", file.read_bytes())
        yield address
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_bucket_of_s3(bucket, monkeypatch):
    assert texts(f"{bucket}/texts/") == texts(f"{bucket}/*/part-*.parquet") == EXPECTED
    assert find_source(DataConfig(source=f"{bucket}/texts")).name == "texts"
    with pytest.raises(DataError, match=r"No file with the suffix .parquet is in s3://"):
        texts(f"{bucket}-none/texts/")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    with pytest.raises(ServiceError, match=rf"data.source {bucket}/texts/ cannot be reached"):
        texts(f"{bucket}/texts/")


def test_the_package_for_a_store_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match=r"data.source gs://b/texts needs the package gcsfs; pip install gcsfs"):
        texts("gs://b/texts/")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # a class that was imported before
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"data.source s3://b/texts needs the package s3fs; pip install 'selftrain\[s3\]'"):
        texts("s3://b/texts/")


def test_a_folder_of_images(tmp_path):
    import io

    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for part in range(2):
        images = []
        for number in range(6):
            content = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 10 * number + 100 * part, np.uint8)).save(content, "PNG")
            images.append(content.getvalue())
        pq.write_table(pa.table({"image": images, "label": ["light" if part else "dark"] * 6}), tmp_path / "pictures" / f"{part}.parquet")
    corpus, _ = load_corpus(DataConfig(source=str(tmp_path / "pictures"), label_column="label", test_documents=2, min_documents=2))
    assert corpus.kind == "image" and corpus.unlabeled.contents.shape == (10, 3, 8, 8)
