"""How workers find each other.

Those of one machine: through a file. PyTorch's own meeting point is a TCP port on all interfaces that asks nobody who he is. Those of several nodes: at that port,
and then each by the address that Ray knows its node by.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


class _OneMachine(_TorchBackend):
    _folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        import ray

        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        if size == 1:  # nobody to find
            return
        backend = backend_config.backend or ("nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo")
        self._folder = tempfile.mkdtemp(prefix="selftrain-workers-")  # for this user alone
        common = {"backend": backend, "world_size": size, "init_method": f"file://{self._folder}/store", "timeout_s": backend_config.timeout_s}
        ray.get([worker_group.execute_single_async(rank, _setup_torch_process_group, world_rank=rank, **common) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_shutdown(worker_group, backend_config)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class OneMachine(TorchConfig):
    """Ray Train's set-up of PyTorch for workers that share a disk."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the workers up."""
        return _OneMachine


class _SeveralNodes(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_use_the_nodes_interface)
        super().on_start(worker_group, backend_config)


def _use_the_nodes_interface() -> None:
    """Gloo and NCCL would take the address of the host's name: on many machines a loopback address, at which workers of other nodes find themselves."""
    import psutil
    from ray.util import get_node_ip_address

    own = get_node_ip_address()
    found = next((name for name, known in psutil.net_if_addrs().items() if any(one.address == own for one in known)), None)
    if found is not None:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", found)


@dataclass
class SeveralNodes(TorchConfig):
    """Ray Train's set-up of PyTorch for workers on a cluster."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the workers up."""
        return _SeveralNodes
