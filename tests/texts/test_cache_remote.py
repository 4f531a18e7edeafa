"""GenDict in an object store: an imitation of S3 that speaks its protocol, and fsspec's memory for what is the same everywhere."""

import sys

import pyarrow.parquet as pq
import pytest
import s3fs
from cache_writers import two_writers_agree
from object_store import BUCKETS, new_bucket, s3_server

from selftrain.errors import ConfigError, MissingExtraError, OutputError, ServiceError
from selftrain.texts.cache import Completion, TextCache, broken_blocks, cache_location, check_cache, merging
from selftrain.texts.cache.store import LocalStore, RemoteStore, open_store


def completion(key, text="a text"):
    return Completion(key, "doc", "input", "", 0, text, False, 10, 3)


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server, monkeypatch):
    """The address of an empty prefix."""
    return f"{new_bucket(server, monkeypatch)}/texts"


@pytest.fixture
def memory():
    return f"memory://cache-{next(BUCKETS)}"


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(merging, "LOG_BLOCKS", 4)
    monkeypatch.setattr("selftrain.texts.cache.text_cache.LOG_BLOCKS", 4)
    monkeypatch.setattr(merging, "FILE_ROWS", 8)


@pytest.mark.slow
def test_s3_holds_a_cache_through_merges_and_a_second_reader_finds_all_of_it(bucket, few):
    check_cache(bucket)
    cache = TextCache(bucket)
    for number in range(9):
        cache.add([completion(f"{number}", "naïve – 日本"), completion("same", f"{number}")])
    later = TextCache(f"{bucket}/")
    assert later.location == bucket and len(later) == 10 and later.get("same").text == "0" and later.get("none") is None
    assert later.lookup(map(str, range(9))) == {str(number): completion(str(number), "naïve – 日本") for number in range(9)}
    store = open_store(bucket)
    assert {"00000009-texts.parquet", "manifest-00000002.json", "merged"} <= set(store.names()) and len(store.names()) == 4
    assert sorted(one.key for one in later.completions()) == [*map(str, range(9)), "same"]


def test_a_number_of_s3_is_created_once(bucket):
    store = open_store(bucket)
    assert store.create("a", b"first") and not store.create("a", b"second") and store.read("a") == b"first"
    assert store.create("a", b"first")  # as after an answer that was lost: what is there is ours
    store.replace("a", b"third")
    assert store.read("a") == b"third" and store.open("a", 5).read() == b"third" and store.names("merged") == []
    store.remove(["a", "b"])
    with pytest.raises(FileNotFoundError):
        store.read("a")


@pytest.mark.slow
def test_two_processes_that_write_the_same_keys_to_s3_report_the_same_texts_as_a_later_run(bucket):
    assert two_writers_agree(bucket, log_blocks=8)
    assert any(name.startswith("manifest-") for name in open_store(bucket).names())


def test_a_broken_block_of_s3_costs_its_texts(bucket, few, capsys):
    cache = TextCache(bucket)
    for key in "abcde":
        cache.add([completion(key)])
    store = open_store(bucket)
    (merged,) = store.names("merged")
    store.replace(f"merged/{merged}", b"not parquet")
    store.replace("00000005-texts.parquet", b"not parquet")
    assert TextCache(bucket).lookup("abcde") == {}
    assert broken_blocks(bucket) == {f"{bucket}/00000005-texts.parquet.broken", f"{bucket}/merged/{merged}.broken"}
    assert capsys.readouterr().err.count("is broken") == 2
    assert TextCache(bucket).broken == []


def test_a_bucket_that_is_not_there_is_said_before_a_run_starts(bucket):
    with pytest.raises(OutputError, match=r"s3://nowhere/texts/.*tmp cannot be written: there is no such bucket; create it, or set augment\.cache"):
        check_cache("s3://nowhere/texts")


def test_a_store_that_cannot_be_reached_is_said(monkeypatch):
    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    try:
        with pytest.raises(ServiceError, match=r"s3://nowhere/texts/?.* cannot be reached \(.*127\.0\.0\.1:9.*\); check the address"):
            TextCache("s3://nowhere/texts")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_the_answer_of_a_server_that_is_not_amazons_means_the_same(memory, monkeypatch):
    """s3fs makes FileExistsError of Amazon's words alone. A conflict means that another's put is under way, and nothing is known yet."""

    class Refused(Exception):
        def __init__(self, code):
            self.response = {"Error": {"Code": code}}

    store, answers, put = RemoteStore(memory), ["ConditionalRequestConflict", "409", None, "PreconditionFailed", "412", "AccessDenied"], None
    put = type(store._files).pipe_file

    def refusing(self, path, content, mode="overwrite"):
        if (code := answers.pop(0)) is not None:
            raise OSError(22, "refused") from Refused(code)
        return put(self, path, content, mode=mode)

    monkeypatch.setattr(type(store._files), "pipe_file", refusing)
    assert store.create("a", b"first")
    assert not store.create("a", b"second") and not store.create("a", b"second")
    with pytest.raises(ServiceError, match=r"memory://cache-\d+/a cannot be reached \(\[Errno 22\] refused\)"):
        store.create("a", b"second")
    monkeypatch.setattr(type(store._files), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(FileExistsError))
    assert not store.create("removed meanwhile", b"second")


def test_any_store_is_merged_and_read_in_the_same_way(memory, few):
    cache = TextCache(memory)
    for number in range(30):
        cache.add([completion(f"{number}", f"text {number}")])
    later = TextCache(memory)
    assert later.lookup(map(str, range(30))) == {str(number): completion(str(number), f"text {number}") for number in range(30)}
    assert len(later) == 30


def test_parts_of_a_file_are_requested_as_parts(memory, monkeypatch, few):
    cache = TextCache(memory)
    for number in range(4):
        cache.add([completion(f"{number}", "x" * 10_000)])
    later, whole = TextCache(memory), []
    read = RemoteStore.read
    monkeypatch.setattr(RemoteStore, "read", lambda self, name: whole.append(name) or read(self, name))
    assert later.get("3").text == "x" * 10_000 and whole == []


def test_where_a_cache_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache_location(".selftrain/texts") == str(tmp_path / ".selftrain" / "texts") == cache_location(f"file://{tmp_path}/.selftrain/texts")
    assert cache_location("s3://bucket/texts/") == "s3://bucket/texts" and cache_location("gs://bucket") == "gs://bucket"
    with pytest.raises(ConfigError, match=r"augment\.cache must be a folder, or an address that begins with s3:// or gs:// \(got 'ftp://a/b'\)"):
        TextCache("ftp://a/b")
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    check_cache(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingExtraError, match=r"augment\.cache gs://bucket/texts needs the package gcsfs; pip install gcsfs\."):
        TextCache("gs://bucket/texts")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # classes that were imported before
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"augment\.cache s3://bucket/texts needs the package s3fs; pip install 'selftrain\[s3\]'\."):
        TextCache("s3://bucket/texts")


def test_blocks_in_s3_are_plain_parquet(bucket, tmp_path):
    TextCache(bucket).add([completion("a")])
    (tmp_path / "block.parquet").write_bytes(open_store(bucket).read("00000001-texts.parquet"))
    assert pq.read_table(tmp_path / "block.parquet").column("text").to_pylist() == ["a text"]
