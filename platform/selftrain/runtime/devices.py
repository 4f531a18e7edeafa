"""What computes on GPUs, decided before anything starts.

`hardware_here` and `hardware_of_cluster` look at what there is; `decide` is a pure function from that and the experiment to what is asked of Ray and vLLM.
Ray counts cards and parts of cards, and nobody watches their memory: a part of a card comes with the same part of its memory, for vLLM and for PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from selftrain.config import AugmentConfig, Experiment, TrainingConfig
from selftrain.errors import ConfigError, ResourceError
from selftrain.runtime.hardware import ROUNDING, Claim, Hardware, packs

CARD_MEMORY = 0.9  # of a card's memory is planned with; CUDA itself takes some in every process
BESIDE_THE_DRIVER = 0.8  # of a card's memory for an engine that has it to itself but for the process that evaluates, or trains a head
# (engine, worker) on one card. A worker takes more than half where there are several: two of them on one card is what NCCL refuses.
_SHARED = ((0.6, 0.4), (0.4, 0.6))
_SERVED_SHARE = 0.25  # for a replica that serves classifiers
_TRIALS_A_CARD = 4  # at most: each has a CUDA context and an encoder of its own


@dataclass(frozen=True)
class Devices:
    """What is asked of Ray and vLLM; nothing of it is `auto` any more.

    Args:
        engine: GPUs of an engine.
        worker: GPUs of a training worker, or of a sweep's trial; None where neither is started.
        engine_memory: share of a card's memory that an engine with whole cards takes; None: vLLM's own.
        notes: a sentence for each thing that stays on the CPU although there are GPUs.
    """

    engine: float = 0.0
    worker: float | None = None
    engine_memory: float | None = None
    notes: tuple[str, ...] = ()

    def augment(self, asked: AugmentConfig) -> AugmentConfig:
        """`asked` with numbers; those that it has stay."""
        gpus = self.engine if asked.gpus == "auto" else asked.gpus
        memory = self.engine_memory if asked.gpu_memory is None and float(gpus) >= 1 else asked.gpu_memory
        return asked.model_copy(update={"gpus": int(gpus) if float(gpus).is_integer() else gpus, "gpu_memory": memory})

    def training(self, asked: TrainingConfig) -> TrainingConfig:
        """`asked` with a number; where no worker is started, each process that trains decides for itself (`device_here`)."""
        if asked.gpu != "auto" or self.worker is None:
            return asked
        return asked.model_copy(update={"gpu": bool(self.worker) if float(self.worker).is_integer() else self.worker})

    def experiment(self, asked: Experiment) -> Experiment:
        """`asked` with numbers in both sections, for what is added up before the start."""
        return asked.model_copy(update={"augment": self.augment(asked.augment), "training": self.training(asked.training)})

    def claims(self, asked: Experiment, engines: int) -> list[Claim]:
        """What `engines` engines and the training workers of `asked` claim on nodes without labels."""
        found = self.experiment(asked)
        engine, worker = _asked(found.augment.gpus, 0.0), _asked(found.training.gpu, 0.0)
        return [Claim("augment.gpus", engine)] * engines + [Claim("training.gpu", worker)] * asked.training.workers

    def words(self, asked: Experiment, engines: int) -> list[str]:
        """The same for a terminal, with what stays on the CPU."""
        found = self.experiment(asked)
        engine, worker = _asked(found.augment.gpus, 0.0), _asked(found.training.gpu, 0.0)
        said = [f"{engine:g} for {_counted(engines, 'engine')} each"] if engine and engines else []
        said += [f"{worker:g} for {_counted(asked.training.workers, 'training worker')} each"] if worker else []
        return [*([f"asked for: {', '.join(said)}"] if said else []), *self.notes]


def decide(experiment: Experiment, there: Hardware, *, engines: int, workers: int, together: bool = True) -> Devices:
    """What is asked for: the first of these that there is room for. Numbers of the experiment stay as they are; so does how many processes it asks for.

    1. a GPU for each engine and each worker
    2. several trials of a sweep on a card
    3. an engine and a worker on one card, the engine with the larger part of it where there is one worker
    4. GPUs for the engines alone, several on a card where they are many: a language model gains most
    5. GPUs for the workers alone
    6. the CPU

    Args:
        experiment: its `augment` and `training` sections.
        there: what there is.
        engines: replicas of vLLM at the start; 0 where no text is written on the cluster.
        workers: of Ray Train, or trials of a sweep at the same time; 0 where training is this process's own.
        together: whether the workers train one model, and so cannot share a card.

    Raises:
        ConfigError: `training.gpu` is a part of a card that two workers would share.
        ResourceError: `training.gpu` asks for a GPU of this machine, which has none.
    """
    _check_asked(experiment, there, workers if together else 1, starts=bool(workers))
    claimed = _Claimed(experiment, there, engines, workers)
    found = next((pair for pair in _choices(experiment, there, engines, workers, together) if claimed.fit(*pair)), None)
    # Numbers that do not fit are refused where they are compared with what there is (`require_room`), which may grow until then.
    engine, worker = found if found is not None else (_asked(experiment.augment.gpus, 0.0), _asked(experiment.training.gpu, 0.0))
    here = there.here > 0 and (worker if workers else _asked(experiment.training.gpu, 1.0)) > 0
    grown = engines // experiment.augment.replicas * experiment.augment.replicas_at_most
    full = grown * engine + workers * worker > there.gpus - 1 + ROUNDING
    return Devices(
        engine=engine,
        worker=worker if workers else None,
        engine_memory=BESIDE_THE_DRIVER if here and full and engine >= 1 else None,
        notes=tuple(_notes(experiment, there, engines if not engine else 0, workers if not worker else 0)),
    )


def alone(config: AugmentConfig, there: Hardware) -> AugmentConfig:
    """`config` with numbers, for engines that no worker trains beside."""
    return decide(Experiment(augment=config), there, engines=config.engines, workers=0).augment(config)


def _asked(gpus: str | float, auto: float) -> float:
    return auto if isinstance(gpus, str) else float(gpus)


def _check_asked(experiment: Experiment, there: Hardware, workers: int, *, starts: bool) -> None:
    gpu = _asked(experiment.training.gpu, 0.0)
    if workers > 1 and 0 < gpu <= 0.5:
        raise ConfigError(
            f"training.gpu must be more than 0.5 with training.workers={workers} (got {gpu:g}): two workers of one training cannot share a GPU.",
            parameter="training.gpu",
        )
    if gpu and not starts and experiment.ray.address is None and not there.here:
        raise ResourceError("training.gpu asks for a GPU, and PyTorch can use none on this machine; leave it out (auto), or set training.gpu=false.")


@dataclass(frozen=True)
class _Claimed:
    """Whether GPUs for all engines and workers are there, whichever of them come first."""

    experiment: Experiment
    there: Hardware
    engines: int
    workers: int

    def fit(self, engine: float, worker: float) -> bool:
        writing = [Claim("augment.gpus", engine, self.experiment.augment.placement)] * (self.engines if engine else 0)
        training = [Claim("training.gpu", worker, self.experiment.training.placement)] * (self.workers if worker else 0)
        return packs([*writing, *training], self.there.nodes) and packs([*training, *writing], self.there.nodes)


def _choices(experiment: Experiment, there: Hardware, engines: int, workers: int, together: bool) -> Iterator[tuple[float, float]]:
    """(GPUs of an engine, of a worker), the best first."""
    shares = [1.0] if together else [_part(count) for count in range(1, _TRIALS_A_CARD + 1)]
    asked_engine, asked_worker = experiment.augment.gpus, experiment.training.gpu
    free_engine, free_worker = asked_engine == "auto" and engines and there.writes, asked_worker == "auto" and workers and there.trains
    fixed_engine, fixed_worker = _asked(asked_engine, 0.0), _asked(asked_worker, 0.0)
    engine_shares = [_part(count) for count in range(1, engines + 1)]
    if free_engine and free_worker:
        yield from ((1.0, share) for share in shares)
        for engine, worker in _SHARED:
            yield from ((engine, worker * share) for share in shares[:2] if not together or workers == 1 or worker > 0.5)
        yield from ((share, 0.0) for share in engine_shares)
        yield from ((0.0, share) for share in shares)
    elif free_engine:
        rest = [1 - fixed_worker] if 0 < fixed_worker < 1 else []
        yield from ((share, fixed_worker) for share in [1.0, *map(_rounded, rest), *engine_shares[1:], 0.0])
        return
    elif free_worker:
        rest = [1 - fixed_engine] if 0 < fixed_engine < 1 and (not together or workers == 1 or fixed_engine < 0.5) else []
        yield from ((fixed_engine, share) for share in [*shares, *map(_rounded, rest), 0.0])
        return
    yield fixed_engine, fixed_worker


def _part(count: int) -> float:
    """Of a card that `count` processes share."""
    return math.floor(100 / count) / 100


def _rounded(part: float) -> float:
    return round(part, 4)


def _notes(experiment: Experiment, there: Hardware, engines: int, workers: int) -> Iterator[str]:
    """Why `engines` and `workers` that could have had GPUs have none."""
    if not there.gpus:
        return
    if engines and experiment.augment.gpus == "auto":
        yield (
            f"vLLM computes on the CPU: {_counted(there.gpus, 'GPU')} cannot take {_counted(engines, 'engine')} (augment.replicas, augment.placement)."
            if there.writes
            else "vLLM computes on the CPU: the package installed here is not the one for GPUs (make clean setup EXTRA=gpu)."
        )
    if workers and experiment.training.gpu == "auto":
        yield (
            f"Training computes on the CPU: {_counted(there.gpus, 'GPU')} cannot take {_counted(workers, 'worker')} "
            "beside what writes texts (training.workers, augment.replicas, training.placement)."
            if there.trains
            else "Training computes on the CPU: the PyTorch installed here is not the one for GPUs (make clean setup EXTRA=gpu)."
        )


def _counted(count: float, thing: str) -> str:
    return f"{count:g} {thing}{'' if count == 1 else 's'}"


def device_here(gpu: str | float) -> str:
    """The PyTorch device of a training or an evaluation in this process.

    Args:
        gpu: `training.gpu`: 0 or false for the CPU; with anything else, auto too, a GPU where this process can use one.
    """
    import torch

    if not _asked(gpu, 1.0) or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{torch.cuda.device_count() - 1}"  # Ray gives the first card first, so the last one is the least likely to hold an engine


def keep_to_share(gpu: str | float, device: str) -> None:
    """Bound this process's memory on `device` by the part of the card that it was given."""
    share = _asked(gpu, 1.0)
    if device.startswith("cuda") and 0 < share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(CARD_MEMORY * share, device)


def serving_options(asked: str | float, there: Hardware, replicas: int | None) -> dict[str, float]:
    """What a replica that serves classifiers asks of Ray.

    Args:
        asked: GPUs of a replica; auto: one, or a part of it where the replicas are more than the cards.
        there: what there is.
        replicas: of all nodes together, at most; None where nobody knows.
    """
    gpus, cards = _asked(asked, 0.0), int(there.gpus) if there.trains else 0
    if asked == "auto" and cards:
        gpus = _SERVED_SHARE if replicas is None else _part(math.ceil(replicas / cards))
    return {"num_cpus": 1} | ({"num_gpus": gpus} if gpus else {})
