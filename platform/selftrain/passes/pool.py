"""How many processes a pass has, and what each asks for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from selftrain.config.hardware import WorkerGpu
from selftrain.errors import ConfigError
from selftrain.runtime.cluster import RAY_GB, Needs
from selftrain.runtime.devices import serving_options
from selftrain.runtime.hardware import Claim, Hardware
from selftrain.runtime.memory import free_memory_gb

_PROCESS_GB = 0.9  # torch, what opens a bundle, and the rows of a batch
_WEIGHTS = 2.0  # times a bundle's size: its file, and the weights in memory
_UNBOUNDED = 100_000  # processes: a cluster has room for fewer


@dataclass(frozen=True)
class Pool:
    """What there is for a pass."""

    processes: int  # at most
    threads: int  # of each
    gpus: float  # of each


@dataclass(frozen=True)
class Asked:
    """What the caller asks for; of `check_pool`."""

    at_once: int | None
    threads: int
    gpus: str | float

    def needs(self, address: str | None, bundle: Path) -> Callable[[Hardware], Needs]:
        """What `cluster.session` must find: on this machine all processes, on a cluster one."""

        def wanted(there: Hardware) -> Needs:
            pool = self.settled(there, address, bundle)
            processes = pool.processes if address is None else 1
            claims = (Claim("gpus", pool.gpus),) * processes if pool.gpus else ()
            memory = RAY_GB + processes * _memory_gb(bundle)
            return Needs(processes * pool.threads, processes * pool.gpus, memory, claims, fewer="threads, at_once", less_memory="lower at_once")

        return wanted

    def settled(self, there: Hardware, address: str | None, bundle: Path) -> Pool:
        """The numbers, once it is known what there is.

        Args:
            there: the hardware.
            address: of a cluster; None for this machine.
            bundle: the bundle's folder.
        """
        gpus = serving_options(self.gpus, there, max(1, int(there.gpus))).get("num_gpus", 0.0)
        if self.at_once is not None:
            return Pool(self.at_once, self.threads, gpus)
        if address is not None:
            return Pool(_UNBOUNDED, self.threads, gpus)
        fit = int((free_memory_gb() - RAY_GB) / _memory_gb(bundle))
        room = int(there.gpus / gpus) if gpus else len(os.sched_getaffinity(0)) // self.threads
        return Pool(max(1, min(fit, room)), self.threads, gpus)


def check_pool(at_once: int | None, threads: int, gpus: str | float) -> Asked:
    """What is asked for, checked.

    Args:
        at_once: processes at most; None: as many as there is room for.
        threads: of each.
        gpus: of each; auto: one where there are some.

    Raises:
        ConfigError: a number is wrong.
    """
    for name, value in (("at_once", at_once), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1 (got {value}).", parameter=name)
    try:
        known = TypeAdapter(WorkerGpu).validate_python(gpus)
    except ValidationError:
        raise ConfigError(f"gpus must be auto, 0, 1, or a part of a GPU such as 0.5 (got {gpus!r}).", parameter="gpus") from None
    return Asked(at_once, threads, known)


def _memory_gb(bundle: Path) -> float:
    return _PROCESS_GB + _WEIGHTS * sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 2**30
