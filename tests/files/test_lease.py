"""The right to write below an address: taken once, given back, taken over from a process that is gone, and lost for good."""

import itertools
import json
import time

import pytest
from object_store import BUCKETS

from selftrain.errors import ConfigError, ResourceError, ServiceError
from selftrain.files import lease as room
from selftrain.files.lease import Lease
from selftrain.files.remote import ObjectStore

FOLDER = ".writer"


@pytest.fixture
def store():
    return ObjectStore(f"memory://lease-{next(BUCKETS)}/runs/x", "output")


@pytest.fixture
def lost():
    return []


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(room, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(room, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(room, "_CLOCK_SECONDS", 0.0)


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def silence(monkeypatch):
    """From now on no process beats: as if all that have a right were killed."""
    monkeypatch.setattr(Lease, "_beat_on", lambda self: None)


def test_a_right_that_was_given_back_is_taken_at_once_with_the_next_number(store, lost, monkeypatch):
    first = Lease(store, None, lost.append)
    first.require()
    assert json.loads(store.read(f"{FOLDER}/00000001.json"))["ended"] is False
    first.release()
    monkeypatch.setattr(room.time, "sleep", lambda seconds: pytest.fail("there is nothing to wait for"))
    second = Lease(store, first.number, lost.append)
    assert (first.number, second.number) == (1, 2)
    second.release()
    assert store.names(FOLDER) == ["00000002.json"] and json.loads(store.read(f"{FOLDER}/00000002.json"))["ended"] is True


def test_a_right_without_a_trace_leaves_nothing(store, lost):
    Lease(store, None, lost.append).release(trace=False)
    assert store.all_names() == []


def test_a_process_that_beats_keeps_its_right_and_the_other_is_told_who_has_it(store, lost, quick, capsys):
    first = Lease(store, None, lost.append)
    with pytest.raises(
        ResourceError, match=r"memory:///?lease-\d+/runs/x is being written by another process \(.+, process \d+, since 2\S+\); wait until"
    ):
        Lease(store, None, lost.append)
    assert "was written by a process" in capsys.readouterr().err
    time.sleep(2 * room.STALE_SECONDS)
    first.require()
    first.release()
    assert lost == []


def test_a_process_that_is_gone_loses_its_right_after_the_time_and_not_before(store, lost, quick, monkeypatch):
    with monkeypatch.context() as patch:
        silence(patch)
        Lease(store, None, lost.append)  # and killed
    started = time.monotonic()
    second = Lease(store, None, lost.append)
    assert second.number == 2 and time.monotonic() - started > 0.8 * room.STALE_SECONDS
    second.release()
    assert store.names(FOLDER) == ["00000002.json"]


def test_a_process_that_was_gone_for_long_is_not_waited_for(store, lost, quick, monkeypatch):
    with monkeypatch.context() as patch:
        silence(patch)
        Lease(store, None, lost.append)
    time.sleep(room.STALE_SECONDS + 0.1)
    monkeypatch.setattr(room.time, "sleep", lambda seconds: pytest.fail("there is nothing to wait for"))
    Lease(store, None, lost.append).release()


def test_a_process_that_finds_another_in_its_place_has_lost_and_says_by_whom(store, lost, quick, monkeypatch):
    with monkeypatch.context() as patch:
        silence(patch)
        first = Lease(store, None, lost.append)  # frozen
    second = Lease(store, None, lost.append)
    first._thread = None
    first._beat_on()  # and awake again
    assert first.lost is not None and lost == [first.lost]
    assert "was taken over by another process (" in first.lost
    with pytest.raises(ResourceError, match="was taken over"):
        first.require()
    second.require()
    second.release()


def test_a_process_whose_beats_do_not_arrive_writes_nothing_until_they_do(store, lost, quick, monkeypatch):
    lease = Lease(store, None, lost.append)
    replace = ObjectStore.replace
    monkeypatch.setattr(ObjectStore, "replace", lambda *_: (_ for _ in ()).throw(ServiceError("away")))

    def refused():
        try:
            lease.require()
        except ServiceError:
            return True
        return False

    until(refused)
    monkeypatch.setattr(ObjectStore, "replace", replace)
    until(lambda: not refused())
    lease.release()
    assert lost == []


def test_of_two_that_want_the_right_at_once_one_gets_it(store, lost, monkeypatch):
    monkeypatch.setattr(Lease, "_highest", lambda self: 0)  # both have looked before either has put
    lease = Lease(store, None, lost.append)
    with pytest.raises(ResourceError, match="was taken by another process just now"):
        Lease(store, None, lost.append)
    lease.release()


def test_a_copy_that_another_process_has_written_after_is_out_of_date(store, lost):
    for _ in range(2):
        Lease(store, None, lost.append).release()
    with pytest.raises(ConfigError, match=r"was continued by another process since this copy of it was made, .* resume the address itself"):
        Lease(store, 1, lost.append)


def test_the_age_of_a_file_is_that_of_the_stores_own_clock(store, lost, monkeypatch):
    """Wall clocks of the machines differ by hours."""
    clock = itertools.count(2_000_000_000, 3600)
    monkeypatch.setattr(room.time, "time", lambda: next(clock))
    lease = Lease(store, None, lost.append)
    lease.release()
    assert abs(lease._age(f"{FOLDER}/00000001.json")) < 60
