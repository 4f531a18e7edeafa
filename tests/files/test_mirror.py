"""A folder that is copied to a store while it is written: what, when, in which order, and what happens while the store is away."""

import time

import pytest
from object_store import BUCKETS

from selftrain.errors import OutputError, ResourceError, ServiceError
from selftrain.files import mirror as room
from selftrain.files.durable import write_whole
from selftrain.files.mirror import Mirror
from selftrain.files.remote import ObjectStore


@pytest.fixture
def store():
    return ObjectStore(f"memory://mirror-{next(BUCKETS)}/x", "output")


@pytest.fixture
def uploads(monkeypatch):
    """Names in the order in which they are uploaded."""
    found, upload = [], ObjectStore.upload
    monkeypatch.setattr(ObjectStore, "upload", lambda self, file, name, progress: (found.append(name), upload(self, file, name, progress))[1])
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.02)


def mirror_of(folder, store, *, may=lambda: None, say=lambda *_, **__: None):
    return Mirror(folder, store, may, say, last=["metrics.json"], apart=lambda name: name.startswith("apart/"))


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_changes_is_copied_and_what_is_removed_is_removed(tmp_path, store, uploads):
    write_whole(tmp_path / "a.txt", "a")
    write_whole(tmp_path / "below" / "b.txt", "b")
    write_whole(tmp_path / ".hidden", "c")
    write_whole(tmp_path / ".hidden.d" / "c.txt", "c")
    mirror = mirror_of(tmp_path, store)
    mirror.start()
    until(lambda: sorted(store.all_names()) == ["a.txt", "below/b.txt"])
    write_whole(tmp_path / "a.txt", "A")  # as long as before
    until(lambda: store.read("a.txt") == b"A")
    (tmp_path / "below" / "b.txt").unlink()
    until(lambda: store.all_names() == ["a.txt"])
    assert mirror.flush(5.0) is None and mirror.copied
    assert uploads == ["a.txt", "below/b.txt", "a.txt"]
    write_whole(tmp_path / "late.txt", "late")
    time.sleep(0.1)
    assert store.all_names() == ["a.txt"], "nothing is copied after the end"


def test_a_folder_comes_back_as_it_was_and_nothing_of_it_is_uploaded_again(tmp_path, store, uploads):
    for name in ("a.txt", "below/deeper/b.txt", "apart/c", ".writer/1.json"):
        store.replace(name, name.encode())
    mirror = mirror_of(tmp_path, store)
    assert mirror.fetch()
    assert (
        (tmp_path / "below/deeper/b.txt").read_text() == "below/deeper/b.txt"
        and not (tmp_path / "apart").exists()
        and not (tmp_path / ".writer").exists()
    )
    mirror.start()
    write_whole(tmp_path / "new.txt", "new")
    assert mirror.flush(5.0) is None
    assert uploads == ["new.txt"] and len(store.all_names()) == 5
    assert not mirror_of(tmp_path / "other", ObjectStore(f"{store.location}/nothing", "output")).fetch()


def test_a_newer_folder_replaces_all_of_its_own_and_leaves_what_is_anothers(tmp_path, store):
    for name in ("a.txt", "old.txt", "apart/c", ".writer/1.json"):
        store.replace(name, b"old")
    write_whole(tmp_path / "a.txt", "new")
    mirror = mirror_of(tmp_path, store)
    mirror.look()
    mirror.start()
    assert mirror.flush(5.0) is None
    assert {name: store.read(name) for name in store.all_names()} == {"a.txt": b"new", "apart/c": b"old", ".writer/1.json": b"old"}


def test_what_says_that_all_is_there_comes_last_and_not_before_all_is_there(tmp_path, store, uploads, monkeypatch):
    for name in ("metrics.json", "a.txt", "z/z.txt"):
        write_whole(tmp_path / name, name)
    mirror = mirror_of(tmp_path, store)
    upload = ObjectStore.upload
    broken = {"z/z.txt"}

    def refuse(self, file, name, progress):
        if name in broken:
            raise ServiceError(f"{name} cannot be reached")
        upload(self, file, name, progress)

    monkeypatch.setattr(ObjectStore, "upload", refuse)
    mirror.start()
    until(lambda: mirror._reason is not None)
    time.sleep(0.1)
    assert store.all_names() == ["a.txt"]
    broken.clear()
    assert mirror.flush(5.0) is None
    assert uploads == ["a.txt", "z/z.txt", "metrics.json"]


def test_a_store_that_goes_away_is_said_once_and_gets_everything_when_it_is_back(tmp_path, store, monkeypatch):
    said, away, upload = [], [], ObjectStore.upload

    def sometimes(self, file, name, progress):
        if away:
            raise ServiceError("it cannot be reached")
        upload(self, file, name, progress)

    def say(event, **facts):
        said.append(event)
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(f"{event}\n")

    monkeypatch.setattr(ObjectStore, "upload", sometimes)
    mirror = mirror_of(tmp_path, store, say=say)
    mirror.start()
    away.append(True)
    write_whole(tmp_path / "a.txt", "a")
    until(lambda: said)
    time.sleep(0.2)
    assert said == ["the address is away"] and store.all_names() == []
    away.clear()
    assert mirror.flush(5.0) is None
    assert said == ["the address is away", "the address is back"]
    assert store.read("events.jsonl") == b"the address is away\nthe address is back\n", "what was said is there too"


def test_a_store_that_does_not_come_back_ends_the_flush_with_the_reason(tmp_path, store, monkeypatch):
    monkeypatch.setattr(ObjectStore, "upload", lambda *_: (_ for _ in ()).throw(ServiceError("it cannot be reached")))
    write_whole(tmp_path / "a.txt", "a")

    mirror = mirror_of(tmp_path, store)
    mirror.start()
    assert mirror.flush(0.3) == "it cannot be reached" and not mirror.copied
    mirror._thread.join(5)
    assert not mirror._thread.is_alive()


def test_a_full_disk_on_which_nothing_can_be_noted_keeps_nothing_from_being_copied(tmp_path, store, monkeypatch):
    upload, failed = ObjectStore.upload, []

    def once(self, file, name, progress):
        if not failed:
            failed.append(name)
            raise ServiceError("it cannot be reached")
        upload(self, file, name, progress)

    def full(*_, **__):
        raise OutputError("the disk is full")

    monkeypatch.setattr(ObjectStore, "upload", once)
    write_whole(tmp_path / "a.txt", "a")
    mirror = mirror_of(tmp_path, store, say=full)
    mirror.start()
    until(lambda: store.all_names() == ["a.txt"])
    assert mirror.flush(5.0) is None


def test_a_put_that_hangs_is_given_up_and_one_that_moves_is_waited_for(tmp_path, store, monkeypatch):
    slow, upload = {"a.txt": 5}, ObjectStore.upload

    def moving(self, file, name, progress):
        for _ in range(slow[name]):
            time.sleep(0.2)
            if name == "a.txt":
                progress()
        upload(self, file, name, progress)

    monkeypatch.setattr(ObjectStore, "upload", moving)
    write_whole(tmp_path / "a.txt", "a")
    mirror = mirror_of(tmp_path, store)
    mirror.start()
    assert mirror.flush(0.5) is None and store.all_names() == ["a.txt"]
    slow["b.txt"] = 10
    write_whole(tmp_path / "b.txt", "b")
    hanging = mirror_of(tmp_path, store)
    hanging._there = dict(mirror._there)
    hanging.start()
    assert hanging.flush(0.5) == "it does not answer in time"


def test_a_process_that_has_lost_its_right_copies_nothing_more(tmp_path, store):
    def refuse():
        raise ResourceError("it was taken over")

    write_whole(tmp_path / "a.txt", "a")
    mirror = mirror_of(tmp_path, store, may=refuse)
    mirror.start()
    assert mirror.flush(5.0) == "it was taken over" and store.all_names() == []


def test_an_upload_of_many_parts_tells_of_its_progress(tmp_path, store):
    (tmp_path / "large").write_bytes(b"x" * (20 << 20))
    steps = []
    store.upload(tmp_path / "large", "large", lambda: steps.append(1))
    assert len(steps) > 1 and len(store.read("large")) == 20 << 20
    store.download("large", tmp_path / "again")
    assert (tmp_path / "again").stat().st_size == 20 << 20
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "missing", "missing", lambda: None)
