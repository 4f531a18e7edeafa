"""How many threads a training gets beside other work, with loads that are planted."""

import os
from types import SimpleNamespace

import psutil
import pytest

from selftrain.runtime import threads
from selftrain.runtime.threads import OtherWork, Threads, choose_threads


@pytest.fixture
def machine(monkeypatch):
    """Plants a machine: cores, and those that this process may use; its `let` has seconds go by in which the machine and this process compute."""
    now = {"clock": 100.0, "user": 1000.0, "steal": 50.0, "own": 7.0, "slept": 0.0}

    def sleep(seconds):
        now["slept"] += seconds
        now["clock"] += seconds

    def plant(cores=8, mine=None):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores if mine is None else mine)))
        clock = SimpleNamespace(monotonic=lambda: now["clock"], process_time=lambda: now["own"], sleep=sleep)
        monkeypatch.setattr(threads, "time", clock)
        times = {"idle": 1e6, "iowait": 1e5}
        monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=now["user"], steal=now["steal"], nice=0.0, system=0.0, **times))

    def let(seconds, user, steal=0.0, own=0.0):
        for name, more in (("clock", seconds), ("user", user), ("steal", steal), ("own", own)):
            now[name] += more

    plant.let, plant.now = let, now
    return plant


@pytest.mark.parametrize(
    ("cores", "busy", "expected"),
    [(2, 0.0, 2), (2, 0.25, 2), (2, 0.26, 1), (2, 1.0, 1), (2, 9.0, 1), (1, 0.0, 1), (8, 0.0, 8), (8, 2.2, 6), (8, 2.3, 5), (8, 7.9, 1)],
)
def test_there_are_as_many_threads_as_free_cores_and_at_least_one(machine, cores, busy, expected):
    machine(cores)
    assert choose_threads(None, busy).count == expected


def test_why_is_said(machine):
    machine(2)
    assert choose_threads(None, 0.0) == Threads(2, "all of 2 cores, which are free")
    assert choose_threads(None, 1.57) == Threads(1, "other work keeps 1.6 of 2 cores busy")


def test_a_number_that_is_asked_for_is_taken_whatever_the_load(machine):
    machine(2)
    assert choose_threads(3, 5.0) == Threads(3, "training.threads")


def test_what_this_process_has_computed_is_no_other_work(machine):
    machine()
    others = OtherWork()
    machine.let(4.0, user=9.0, steal=1.0, own=2.0)
    assert others.busy_cores() == pytest.approx(2.0)  # 10 seconds less 2 in 4
    machine()
    others = OtherWork()
    machine.let(4.0, user=2.0, own=3.0)
    assert others.busy_cores() == 0.0


def test_the_cores_of_a_machine_are_shared(machine):
    machine(cores=64, mine=2)
    others = OtherWork()
    machine.let(1.0, user=32.0)
    assert others.busy_cores() == 1.0


def test_half_a_second_is_looked_at_at_least(machine):
    machine()
    others = OtherWork()
    machine.let(0.1, user=0.5)
    assert others.busy_cores() == pytest.approx(1.0) and machine.now["slept"] == pytest.approx(0.4)
    others = OtherWork()
    machine.let(3.0, user=3.0)
    assert others.busy_cores() == pytest.approx(1.0) and machine.now["slept"] == pytest.approx(0.4)


def test_a_real_machine_is_looked_at():
    assert 0.0 <= OtherWork().busy_cores() <= threads.cores_here() + 0.5
