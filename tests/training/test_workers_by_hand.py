"""Two workers against trainings worked out by hand for one process: nothing of ours says what is right.

One pair of processes trains every method below and reports whether losses, gradients and weights were those by hand (tests/few_labels.py).
"""

from __future__ import annotations

import os
import socket
import traceback

import few_labels_equations as equations
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from few_labels import TEXTS, ByHand, Watching, built, follow

FEW = {"batch_size": 5, "unlabeled_ratio": 1}  # shares of a batch differ in size
T = {"ns3l_threshold": 0.3}
METHODS = {  # name: by hand, options
    "cross_entropy": (equations.CrossEntropy, FEW),
    "ns3l": (ByHand, FEW | T),
    "mean_teacher": (equations.MeanTeacher, FEW | {"weight": 2.0}),
    "fixmatch": (equations.FixMatch, FEW | {"threshold": 0.5, "simclr_weight": 0.2}),
    "ssc": (equations.SSC, FEW | {"threshold": 0.6, "confidence_temperature": 0.3}),
    "tf_kd": (equations.SelfTeacher, FEW),
    "cs_kd": (equations.Classwise, FEW),
    "ps_kd": (equations.Progressive, FEW),
    "dlb": (equations.LastBatch, FEW | {"batch_size": 4}),
    "uskd": (equations.Customized, FEW),
    "one document": (
        equations.SSC,
        {"batch_size": 1, "unlabeled_ratio": 1, "threshold": 0.6, "confidence_temperature": 0.3},
    ),  # more workers than documents
}


def followed(name, workers):
    """Whether the method's training agrees with that by hand; if not, where."""
    hand_of, options = METHODS[name]
    method = built("ssc" if name == "one document" else name, workers=workers, **options)
    hand, shares, forward = hand_of(method), [], method.encoder.forward
    method.encoder.forward = lambda texts, longest=None: shares.append(len(texts)) or forward(texts, longest)
    try:
        follow(method, hand)
        assert max(shares) <= -(-len(TEXTS) // workers.size), shares  # the work is divided
    except AssertionError:
        return traceback.format_exc()
    return "agrees"


def member(rank, size, port, results):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = {}
    try:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        for name in METHODS:
            found[name] = followed(name, Watching(rank, size))
        results.put((rank, found))
        dist.barrier()
    except BaseException:
        results.put((rank, traceback.format_exc()))
        os._exit(1)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair():
    """[rank] -> [method] -> "agrees", or where it does not."""
    size = 2
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("forkserver")  # which imports once for all of them
    context.set_forkserver_preload(["few_labels_equations"])
    results = context.Queue()
    processes = [context.Process(target=member, args=(rank, size, port, results)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=600) for _ in range(size))
    for process in processes:
        process.join(timeout=60)
    assert not any(isinstance(one, str) for one in found.values()), found
    return found


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_two_workers_are_those_by_hand(pair, name):
    for found in pair.values():
        assert found[name] == "agrees", found[name]
