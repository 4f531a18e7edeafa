"""Ray Train around the loop: each worker holds the whole encoder and embeds its share of every batch.

A round ends with a checkpoint, so a worker that dies, or a run that is killed, continues after its last round; a finished one is a no-op.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from selftrain import methods
from selftrain.config import Experiment
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel, TextRequest
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.models.open import open_encoder
from selftrain.models.workers import Workers
from selftrain.runtime.memory import trim
from selftrain.runtime.watch import why_it_died
from selftrain.training.loop import Validation, train
from selftrain.training.steps import FollowedSteps, StepFile

_STATE = "state.pt"
_CONTROLLERS = 3  # that may die one after the other


@dataclass(frozen=True)
class TrainedVariant:
    """One trained model: its weights and how training went."""

    state: dict[str, Any]  # for the method's `load_state`
    rounds: list[dict[str, float]]  # figures a round
    seconds: float  # of training, without waiting for texts
    best: dict[str, Any] | None = None  # see `loop.Trained`


def train_variant(
    experiment: Experiment,
    corpus: Corpus,
    texts: TextChannel,
    *,
    seed: int,
    storage: Path | str,
    name: str,
    validation: Validation | None = None,
) -> TrainedVariant:
    """Train the experiment's method with one seed in Ray Train (`TorchTrainer`).

    Args:
        experiment: method, model and training sections are read.
        corpus: what the method may see.
        texts: the text channel; has to survive being sent to a worker.
        seed: of the training.
        storage: folder of the checkpoints; with the same `storage` and `name`, a killed training continues.
        name: of the variant.
        validation: documents to choose the best round by.

    Raises:
        SelfTrainError: what the method or the text channel raised in a worker.
    """
    # The controller polls its workers at this interval, and every report waits for a poll: 2 s by default, which a small round does not take.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray.train
    from ray.train.torch import TorchTrainer

    from selftrain.training.process_group import OneMachine

    training = experiment.training
    # Where workers may be on other nodes, a file is not seen here; rounds are.
    steps = Path(storage).absolute() / f".{name}.steps.json" if experiment.ray.address is None and "://" not in str(storage) else None
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"experiment": experiment, "corpus": corpus, "texts": texts, "seed": seed, "validation": validation, "steps": steps},
        torch_config=OneMachine() if experiment.ray.address is None else None,
        scaling_config=ray.train.ScalingConfig(num_workers=training.workers, use_gpu=training.gpu),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(Path(storage).absolute()) if "://" not in str(storage) else str(storage),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures, controller_failure_limit=3),
        ),
    )
    with FollowedSteps(name, steps) if steps is not None else nullcontext():
        result = _fitted(trainer)
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True, mmap=True)
    # Training is over: the moments of AdamW, twice the size of the weights, would only fill the driver's memory.
    return TrainedVariant(state["method"] | {"optimizer": None, "scheduler": None}, state["rounds"], state["seconds"], state["best"])


def _fitted(trainer: Any) -> Any:
    """The result of `trainer.fit()`; a controller that dies is started again, and goes on from the last checkpoint.

    Raises:
        SelfTrainError: what the method or the text channel raised in a worker.
        ProcessDied: workers or controllers died more often than is put up with.
    """
    import ray
    import ray.train

    for left in reversed(range(_CONTROLLERS)):
        try:
            return _in_a_thread(trainer.fit)
        except ray.train.TrainingFailedError as error:
            for failure in getattr(error, "worker_failures", {}).values():
                if cause := _user_error(failure):
                    raise type(cause)(str(cause)) from None
                if isinstance(failure, ray.exceptions.RayActorError):
                    raise ProcessDied(f"A training worker {why_it_died(failure)}, more often than training.max_failures allows.") from None
            # A worker that dies while the group starts is no failure that Ray Train tries again by itself.
            died = getattr(error, "controller_failure", None)
            if not isinstance(died, ray.exceptions.RayActorError):
                raise
            if not left:
                raise ProcessDied(f"A training worker {why_it_died(died)} while it started, {_CONTROLLERS} times.") from None
        except ray.exceptions.RayActorError as error:
            if not left:
                raise ProcessDied(f"The process that leads the training workers {why_it_died(error)}, {_CONTROLLERS} times.") from None
    raise AssertionError


def _in_a_thread(work: Callable[[], Any]) -> Any:
    """`work()`, called in another thread: in the main one Ray Train takes Ctrl-C for itself, ends with exit code 1, and gives the handler back to nobody."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, name="selftrain-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if failed:
        raise failed[0]
    return found[0]


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import get_device

    experiment: Experiment = config["experiment"]
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    if not experiment.training.gpu:
        torch.set_num_threads(experiment.training.threads or max(1, len(os.sched_getaffinity(0)) // workers.size))
    torch.manual_seed(config["seed"])  # of weights that a method makes anew: the same in all workers
    encoder = open_encoder(experiment.model, config["corpus"], device=str(get_device()), precision=experiment.training.precision)
    method = methods.build(experiment, config["corpus"], encoder, workers=workers, seed=config["seed"])
    trim()

    def report(figures: dict[str, float], state: dict[str, Any]) -> None:
        trim()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if workers.rank == 0:
                torch.save(state, Path(folder) / _STATE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(figures, checkpoint=checkpoint)

    resume = None
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            resume = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
    texts = _shared(config["texts"], workers)
    step_done = StepFile(config["steps"]) if config.get("steps") is not None and workers.rank == 0 else None
    train(method, texts=texts, report=report, seed=config["seed"], validation=config["validation"], resume=resume, step_done=step_done)


def _shared(texts: TextChannel, workers: Workers) -> TextChannel:
    """A channel that asks once and tells all workers."""
    if workers.size == 1:
        return texts

    def ask(requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        answers: list[Any] = [dict(texts(requests)) if workers.rank == 0 else None]
        dist.broadcast_object_list(answers, src=0)
        result: Mapping[TextRequest, str] = answers[0]
        return result

    return ask


def _user_error(error: BaseException | None) -> SelfTrainError | None:
    while error is not None:
        if isinstance(error, SelfTrainError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
