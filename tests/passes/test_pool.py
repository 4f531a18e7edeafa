"""How many processes a pass asks for, and where."""

from __future__ import annotations

import os

import pytest

from selftrain.errors import ConfigError
from selftrain.passes import pool as room
from selftrain.passes.pool import Pool, check_pool
from selftrain.runtime.cluster import RAY_GB
from selftrain.runtime.hardware import Hardware, Node

CARDS = Hardware((Node(2.0),), here=2)


@pytest.fixture
def machine(monkeypatch):
    """Eight cores, and memory for many processes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(room, "free_memory_gb", lambda: 100.0)


def test_a_machine_is_filled_and_a_cluster_decides_itself(machine, bundle):
    assert check_pool(None, 1, "auto").settled(Hardware(), None, bundle) == Pool(8, 1, 0.0)
    assert check_pool(None, 3, "auto").settled(Hardware(), None, bundle) == Pool(2, 3, 0.0)
    assert check_pool(None, 16, 0).settled(Hardware(), None, bundle) == Pool(1, 16, 0.0)
    assert check_pool(5, 3, 0).settled(CARDS, None, bundle) == Pool(5, 3, 0.0)
    assert check_pool(None, 1, 0).settled(Hardware(), "auto", bundle).processes > 10_000


def test_cards_are_divided(machine, bundle):
    assert check_pool(None, 1, "auto").settled(CARDS, None, bundle) == Pool(2, 1, 1.0)
    assert check_pool(None, 1, "0.5").settled(CARDS, None, bundle) == Pool(4, 1, 0.5)
    assert check_pool(None, 1, "0").settled(CARDS, None, bundle) == Pool(8, 1, 0.0)


def test_memory_bounds_the_processes_of_this_machine(machine, bundle, monkeypatch):
    monkeypatch.setattr(room, "free_memory_gb", lambda: RAY_GB + 3.5 * room._memory_gb(bundle))
    assert check_pool(None, 1, 0).settled(Hardware(), None, bundle).processes == 3
    monkeypatch.setattr(room, "free_memory_gb", lambda: 0.1)
    assert check_pool(None, 1, 0).settled(Hardware(), None, bundle).processes == 1


def test_all_processes_of_a_machine_are_needed_and_one_of_a_cluster(machine, bundle):
    here, there = (check_pool(3, 2, 0.5).needs(address, bundle)(CARDS) for address in (None, "auto"))
    assert (here.cpus, here.gpus, len(here.claims)) == (6, 1.5, 3) and (there.cpus, there.gpus, len(there.claims)) == (2, 0.5, 1)
    assert here.memory_gb == pytest.approx(RAY_GB + 3 * room._memory_gb(bundle)) and room._memory_gb(bundle) > room._PROCESS_GB


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((0, 1, 0), r"at_once must be at least 1 \(got 0\)"),
        ((None, 0, 0), r"threads must be at least 1 \(got 0\)"),
        ((None, 1, "many"), r"gpus must be auto, 0, 1, or a part of a GPU such as 0.5 \(got 'many'\)"),
        ((None, 1, 2), "gpus must be auto"),
    ],
)
def test_wrong_numbers(asked, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_pool(*asked)
    assert str(caught.value).startswith(str(caught.value.parameter))
