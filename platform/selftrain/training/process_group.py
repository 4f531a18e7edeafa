"""How workers of one machine find each other: through a file. PyTorch's own meeting point is a TCP port on all interfaces that asks nobody who he is."""

from __future__ import annotations

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
