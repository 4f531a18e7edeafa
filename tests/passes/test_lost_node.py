"""A node that dies with Ray Data's coordinator ends a pass of Ray Data; the pass begins anew with what is left. The real node: tests/cluster."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from selftrain.config import TrainingConfig
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.errors import ProcessDied
from selftrain.passes import pseudo_labeling, stream
from selftrain.passes.pseudo_labeling import ClusterRanking
from selftrain.passes.stream import answers

CORPUS = Corpus("toy", (Label("sport", "sport", ""),), ("{}",), Documents(("1",), ("a goal",)), Documents())


@pytest.fixture
def nodes(monkeypatch) -> list[dict]:
    found = [{"NodeID": name, "Alive": name != "long gone"} for name in ("a", "b", "c", "long gone")]
    monkeypatch.setattr("ray.nodes", lambda: [dict(one) for one in found])
    monkeypatch.setattr("ray.data.from_items", lambda items, override_num_blocks: [one["asked"] for one in items])
    return found


def dying(nodes, passes, asked_again, rows, *_, **resources):
    """A pass of Ray Data that dies after each answer of `passes`; a node goes with it where it is said so."""
    asked = rows()
    asked_again.append((list(asked), resources["at_once"]))
    answered, gone = passes.pop(0)
    for one in asked[:answered]:
        yield {"asked": np.array([one]), "answer": np.array([one.upper()])}
    if gone is not None:
        nodes["abc".index(gone)]["Alive"] = False
    if answered < len(asked):
        raise ProcessDied("A process of the pass was killed.")


def test_only_what_is_left_is_asked_again_where_nodes_were_lost(nodes, monkeypatch, capsys):
    asked_again: list = []
    monkeypatch.setattr(stream, "mapped", partial(dying, nodes, [(2, "b"), (0, "c"), (3, None)], asked_again))
    assert list(answers(["p", "q", "r", "s", "t"], object, (), at_once=4, cpus=1)) == ["P", "Q", "R", "S", "T"]
    assert asked_again == [(["p", "q", "r", "s", "t"], 4), (["r", "s", "t"], 3), (["r", "s", "t"], 3)]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"selftrain: 1 of {count} nodes of the cluster are gone, and the pass with them; what is left of it begins anew" for count in (3, 2)
    ]


def test_a_node_that_ray_notices_late_is_waited_for(nodes, monkeypatch):
    """Its processes do not answer from the first moment on, and a task has used up its retries seconds before Ray says that the node is dead."""
    asked_again: list = []
    looks: list[float] = []

    def noticed(seconds):
        looks.append(seconds)
        nodes[1]["Alive"] = len(looks) < 40

    monkeypatch.setattr(stream.time, "sleep", noticed)
    monkeypatch.setattr(stream, "mapped", partial(dying, nodes, [(1, None), (2, None)], asked_again))
    assert list(answers(["p", "q", "r"], object, (), at_once=1, cpus=1)) == ["P", "Q", "R"]
    assert sum(looks) == 20 and [asked for asked, _ in asked_again] == [["p", "q", "r"], ["q", "r"]]


@pytest.mark.parametrize(("alive", "waits"), [(3, True), (1, False)])
def test_a_process_that_dies_while_all_nodes_live_ends_the_pass_after_ray_has_had_time(nodes, monkeypatch, alive, waits):
    del nodes[alive:]
    clock = [0.0]
    monkeypatch.setattr(stream.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stream.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(stream, "mapped", partial(dying, nodes, [(1, None)], []))
    with pytest.raises(ProcessDied):
        list(answers(["p", "q", "r"], object, (), at_once=1, cpus=1))
    assert clock[0] == (stream._NODE_SECONDS if waits else 0.0)


def test_a_process_that_dies_while_all_nodes_live_ends_the_pass(nodes, monkeypatch):
    monkeypatch.setattr(stream, "_NODE_SECONDS", 0.0)
    asked_again: list = []
    monkeypatch.setattr(stream, "mapped", partial(dying, nodes, [(1, "b"), (1, None)], asked_again))
    with pytest.raises(ProcessDied):
        list(answers(["p", "q", "r"], object, (), at_once=1, cpus=1))
    assert [asked for asked, _ in asked_again] == [["p", "q", "r"], ["q", "r"]]


@pytest.mark.parametrize("gone", ["b", None])
def test_a_ranking_begins_anew_whole_where_a_node_was_lost(nodes, monkeypatch, gone):
    monkeypatch.setattr(stream, "_NODE_SECONDS", 0.0)
    ranked = []

    def passing(*_, **__):
        ranked.append("begun")
        yield from ("one", "two")
        if len(ranked) == 1:
            if gone is not None:
                nodes[1]["Alive"] = False
            raise ProcessDied("A process of the pass was killed.")
        yield "three"

    monkeypatch.setattr(pseudo_labeling, "mapped", passing)
    monkeypatch.setattr(pseudo_labeling, "_ranking", str)
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr(pseudo_labeling.Ranking, "merged", staticmethod(lambda found, size: list(found)))
    pass_ = ClusterRanking(CORPUS, object, dict, TrainingConfig(gpu=False))

    class Encoder:
        @staticmethod
        def state_dict():
            return {}

    if gone is None:
        with pytest.raises(ProcessDied):
            pass_(Encoder(), None, 1, 0)
    else:
        assert pass_(Encoder(), None, 1, 0) == ["one", "two", "three"]
