"""The Ray that a run works on: an existing cluster, or a local one that is started and stopped for the run.

`needs` adds up what a run asks for, and `session` compares it with what is there before anything starts: too little is an error with both numbers, never an
endless wait.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from selftrain.config import Experiment
from selftrain.config.hardware import decided
from selftrain.errors import ResourceError, say
from selftrain.runtime.hardware import Claim, Hardware, hardware_here, hardware_of_cluster, require_room
from selftrain.runtime.memory import free_memory_gb, share_of_memory
from selftrain.runtime.ray_start import join_ray, no_cluster, start_ray
from selftrain.runtime.watch import Guard, guarded

TRAINING_GB = 1.5  # a worker with a small encoder, its optimiser and its batches
RAY_GB = 2.0  # raylet, control store, and the processes that wait for work


@dataclass(frozen=True)
class Needs:
    """Resources that a run asks of the cluster."""

    cpus: float
    gpus: float
    memory_gb: float
    claims: tuple[Claim, ...] = ()  # of each process that asks for GPUs, or for a node with labels
    fewer: str = "training.workers"  # what asks for fewer CPUs and GPUs
    less_memory: str = "choose a smaller language model, or lower augment.engine_memory_gb"


def needs(experiment: Experiment, engine: Needs | None, *, trainings: int = 1, light: int = 0) -> Needs:
    """What `experiment` asks for.

    Args:
        experiment: of `devices.Devices.experiment`, with numbers for GPUs; one that no worker is started for may be `auto`, and counts none.
        engine: what its language model asks for; None for a run without one.
        trainings: at the same time; 0 where texts are all that is wanted.
        light: trainings in an actor each, at the same time, instead.
    """
    training = experiment.training
    workers = (training.workers + (training.pseudo_labeling == "cluster")) * trainings + light  # one actor is enough
    cpus = 1.0 + workers + light * ((training.threads or 1) - 1)
    gpu = decided(training.gpu, "training.gpu") if training.gpu != "auto" else 0.0
    claims = (Claim("training.gpu", gpu, training.placement),) * workers if gpu or training.placement else ()
    memory = RAY_GB + workers * TRAINING_GB
    found = Needs(cpus, workers * gpu, memory, claims)
    if engine is None:
        return found
    return Needs(cpus + engine.cpus, found.gpus + engine.gpus, memory + engine.memory_gb, engine.claims + claims)


@contextmanager
def session(experiment: Experiment, wanted: Needs | Callable[[Hardware], Needs]) -> Iterator[Hardware]:
    """Ray for the length of a `with` block; it yields what there is: this machine, or the cluster.

    A local Ray gets at least as many logical CPUs as the run asks for, whatever the machine has: on two cores the text pipeline would otherwise wait for ever
    for a third. Threads, not logical CPUs, decide how much of the machine is used. It is watched (watch.py), and the runs of one machine share its memory
    (memory.py).

    Args:
        experiment: its `ray` section says which cluster.
        wanted: what the run asks for, or a function that says so once it sees what there is.

    Raises:
        ResourceError: too little memory, CPUs or GPUs, or no node with the labels of a placement.
        ServiceError: no cluster answers at the address, or it wants another token.
        ProcessDied: a process without which a local Ray cannot continue was lost.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # A dozen processes with an arena per thread each hold gigabytes that nobody uses.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Ray keeps an idle Python process a logical CPU, a tenth of a gigabyte each; a run starts few tasks and can wait a second for a new one.
    os.environ.setdefault("RAY_num_workers_soft_limit", "1")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # and the first of them takes a second of Ray's own start
    if experiment.ray.address is None:  # nobody takes this machine away, and the process that watches for it takes another tenth
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    if ray.is_initialized():  # a test or a notebook that keeps its own
        there = hardware_of_cluster()
        wanted = wanted if isinstance(wanted, Needs) else wanted(there)
        _enough(wanted, ray.cluster_resources())
        require_room(wanted.claims, there.nodes)
        yield there
        return
    with ExitStack() as stack:
        if experiment.ray.address is None:
            there = hardware_here()
            wanted = wanted if isinstance(wanted, Needs) else wanted(there)
            require_room(wanted.claims, there.nodes)
            guard = _started(wanted, int(there.gpus), stack)
            stack.callback(guard.shut_down)
        else:
            _require_answer(experiment.ray.address)
            join_ray(experiment.ray.address)
            stack.callback(ray.shutdown)
            there = hardware_of_cluster()
            wanted = wanted if isinstance(wanted, Needs) else wanted(there)
        _scale_up(wanted, experiment.ray.wait_seconds)
        if experiment.ray.address is not None:
            require_room(wanted.claims, hardware_of_cluster().nodes)
        yield there


def _started(wanted: Needs, gpus: int, stack: ExitStack) -> Guard:
    """A local Ray, its guard and its share of the memory."""
    free = free_memory_gb()
    say(f"the run needs about {wanted.memory_gb:.1f} GiB of memory, {free:.1f} GiB are free; starting Ray")
    stack.enter_context(share_of_memory(wanted.memory_gb, remedy=wanted.less_memory))
    guard = stack.enter_context(guarded())
    cores = len(os.sched_getaffinity(0))
    # Ray looks for GPUs itself; where PyTorch sees some, both count the same.
    counted = {"num_gpus": gpus} if gpus else {}
    start_ray(num_cpus=max(cores, int(-(-wanted.cpus // 1))), object_store_memory=512 * 2**20, **counted)
    return guard


def _require_answer(address: str) -> None:
    """Ray itself tries an address for minutes before it gives up."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise no_cluster(address, error) from None


def _scale_up(wanted: Needs, seconds: float) -> None:
    """Ask an autoscaling cluster for what is missing, and give it `seconds` to bring it up."""
    import ray
    from ray.autoscaler.sdk import request_resources

    if seconds:
        request_resources(**requested(wanted))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(
        ray.cluster_resources().get(name, 0.0) < need for name, need in (("CPU", wanted.cpus), ("GPU", wanted.gpus))
    ):
        time.sleep(5)
    _enough(wanted, ray.cluster_resources())


def requested(wanted: Needs) -> dict[str, Any]:
    """The arguments of Ray's `request_resources`: a bundle for each process that asks for GPUs or labels, and one for each CPU."""
    cpus = int(-(-wanted.cpus // 1))
    bundles = [*(claim.bundle() for claim in wanted.claims), *({"CPU": 1} for _ in range(cpus))]
    if not any(claim.placement for claim in wanted.claims):
        return {"bundles": bundles}
    return {"bundles": bundles, "bundle_label_selectors": [*(dict(claim.placement) for claim in wanted.claims), *({} for _ in range(cpus))]}


def _enough(wanted: Needs, have: dict[str, float]) -> None:
    for name, need in (("CPU", wanted.cpus), ("GPU", wanted.gpus)):
        if have.get(name, 0.0) + 1e-6 < need:
            raise ResourceError(
                f"The run needs {need:g} {name}s and the Ray cluster has {have.get(name, 0.0):g}; add nodes, ask for less ({wanted.fewer}), "
                "or let it scale up (ray.wait_seconds)."
            )
