"""Groups of processes that train together over gloo, as the workers of Ray Train do."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def results_of_group(work: Callable[[int, int], Any], size: int, *, preload: Sequence[str]) -> dict[int, Any]:
    """rank -> what `work(rank, size)` returned, in float64 and one thread.

    Args:
        work: a function of a module.
        size: number of processes.
        preload: modules that are imported once for all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    results = context.Queue()
    processes = [context.Process(target=_member, args=(work, rank, size, port, results)) for rank in range(size)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=600) for _ in range(size))
    for process in processes:
        process.join(timeout=60)
    assert not any(isinstance(one, str) for one in found.values()), found
    return found


def _member(work: Callable[[int, int], Any], rank: int, size: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        results.put((rank, work(rank, size)))
        dist.barrier()
    except BaseException:
        results.put((rank, traceback.format_exc()))
        os._exit(1)
    dist.destroy_process_group()
