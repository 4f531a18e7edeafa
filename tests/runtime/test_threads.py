"""How many threads a training gets beside other work, with loads that are planted."""

import math
import os
import time

import pytest

from selftrain.runtime.threads import Threads, busy_cores, choose_threads


@pytest.fixture
def machine(monkeypatch):
    """Plants a machine: cores, those that this process may use, the load average, seconds that this process has computed."""

    def plant(cores=8, mine=None, load=0.0, computed=0.0):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores if mine is None else mine)))
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 50.0, 50.0))
        monkeypatch.setattr(time, "process_time", lambda: computed)

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
    machine(load=1.5)
    assert busy_cores() == 1.5
    machine(load=1.5, computed=60.0)
    assert busy_cores() == pytest.approx(1.5 - (1 - math.exp(-1)))
    machine(load=0.1, computed=600.0)
    assert busy_cores() == 0.0


def test_the_load_of_a_machine_is_shared_by_all_of_its_cores(machine):
    machine(cores=64, mine=2, load=32.0)
    assert busy_cores() == 1.0


def test_without_a_load_average_nothing_is_busy(machine, monkeypatch):
    def none():
        raise OSError

    machine()
    monkeypatch.setattr(os, "getloadavg", none)
    assert busy_cores() == 0.0
