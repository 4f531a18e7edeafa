"""Ray Train around the loop: each worker holds the whole encoder and embeds its share of every batch.

A round ends with a checkpoint, so a worker that dies, or a run that is killed, continues after its last round; a finished one is a no-op.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from selftrain.config import Experiment, TrainingConfig
from selftrain.config.hardware import decided
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel, TextRequest
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.methods.recipe import Recipe
from selftrain.methods.zero_shot.selection import SelectingMethod
from selftrain.models.workers import Workers
from selftrain.passes.pseudo_labeling import ClusterRanking, on_cluster
from selftrain.runtime.background import Call
from selftrain.runtime.devices import decide, keep_to_share
from selftrain.runtime.hardware import hardware_of_cluster
from selftrain.runtime.memory import trim
from selftrain.runtime.threads import cores_here
from selftrain.runtime.watch import why_it_died
from selftrain.training.loop import NamesRead, Validation, train
from selftrain.training.names import FollowedNames, NamesFile
from selftrain.training.steps import FollowedSteps, StepFile

_STATE = "state.pt"
_CONTROLLERS = 3  # that are started, one after the other
_BEAT_SECONDS = 60.0  # between two words of a worker that the others wait for

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workgroup:
    """What Ray Train needs to know of one training, besides what is trained.

    Args:
        name: of the training.
        storage: folder or URI of the checkpoints; with the same `storage` and `name`, a killed training continues.
        one_machine: whether all workers share this machine's disk.
        threads: of all workers together, where `training.threads` does not say how many each has; None: as many as there are cores.
    """

    name: str
    storage: Path | str
    one_machine: bool = True
    threads: int | None = None

    @property
    def storage_path(self) -> str:
        """`storage` as it is from any working directory."""
        return str(self.storage) if "://" in str(self.storage) else str(Path(self.storage).absolute())


def train_in_workers(
    recipe: Recipe,
    corpus: Corpus,
    texts: TextChannel,
    *,
    seed: int,
    workgroup: Workgroup,
    validation: Validation | None = None,
    tested: Validation | None = None,
    names_read: NamesRead | None = None,
) -> dict[str, Any]:
    """Train in Ray Train (`TorchTrainer`).

    Args:
        recipe: what to train.
        corpus: what the method may see.
        texts: the text channel; it has to survive being sent to a worker.
        seed: of the training.
        workgroup: name and place of the training.
        validation: documents to choose the best round by.
        tested: documents that are scored after every round, for the report alone.
        names_read: see `loop.train`; called in a thread of this process, where it sees the folder that a worker writes into.

    Returns:
        The last state of `loop.train`, without the optimiser's.

    Raises:
        SelfTrainError: what the method or the text channel raised in a worker.
        ProcessDied: workers died more often than `training.max_failures` allows.
    """
    # The controller polls its workers at this interval, and every report waits for a poll: 2 s by default, which a small round does not take.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from selftrain.training.process_group import OneMachine, SeveralNodes

    if recipe.training.gpu == "auto":  # nobody has decided: the workers are alone on the cluster
        alone = decide(Experiment(training=recipe.training), hardware_of_cluster(), engines=0, workers=recipe.training.workers)
        recipe = replace(recipe, training=alone.training(recipe.training))
    training, storage = recipe.training, workgroup.storage_path
    # Where workers may be on other nodes, a file is not seen here; rounds are.
    steps = Path(storage) / f".{workgroup.name}.steps.json" if workgroup.one_machine and "://" not in storage else None
    names = Path(storage) / f".{workgroup.name}.names.pt" if names_read is not None and "://" not in storage else None
    files = {"steps": steps, "names": names, "threads": workgroup.threads}
    work = {"recipe": recipe, "corpus": corpus, "texts": texts, "seed": seed, "validation": validation, "tested": tested} | files
    trainer = TorchTrainer(
        _worker,
        # By reference: the controller has a copy of this dict too, and should neither hold the corpus nor import what trains.
        train_loop_config={"work": ray.put(work)},
        torch_config=OneMachine() if workgroup.one_machine else SeveralNodes(),
        scaling_config=ray.train.ScalingConfig(**scaling(training)),
        run_config=ray.train.RunConfig(
            name=workgroup.name,
            storage_path=storage,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures, controller_failure_limit=3),
        ),
    )
    with ExitStack() as stack:
        if steps is not None:
            stack.enter_context(FollowedSteps(workgroup.name, steps))
        if names is not None and names_read is not None:
            stack.enter_context(FollowedNames(names, names_read))
        result = _ended(trainer)
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True, mmap=True)
    # Training is over: the moments of AdamW, twice the size of the weights, would only fill the driver's memory.
    return state | {"method": state["method"] | {"optimizer": None, "scheduler": None}}


def scaling(training: TrainingConfig) -> dict[str, Any]:
    """What the workers ask of Ray: the arguments of Ray Train's `ScalingConfig`.

    Raises:
        ValueError: `training.gpu` is still `auto`.
    """
    gpu = decided(training.gpu, "training.gpu")
    asked: dict[str, Any] = {"num_workers": training.workers, "use_gpu": gpu > 0}
    if 0 < gpu < 1:
        asked["resources_per_worker"] = {"GPU": gpu}
    return asked | ({"label_selector": dict(training.placement)} if training.placement else {})


def _ended(trainer: Any) -> Any:
    """The result of `trainer.fit()`; a controller that dies is started again, and continues from the last checkpoint.

    Raises:
        SelfTrainError: what the method or the text channel raised in a worker.
        ProcessDied: workers or controllers died too often.
    """
    import ray
    import ray.train

    for left in reversed(range(_CONTROLLERS)):
        try:
            # In the main thread Ray Train takes Ctrl-C for itself, ends with exit code 1, and gives the handler back to nobody.
            return Call(trainer.fit, "selftrain-train").result()
        except ray.train.TrainingFailedError as error:
            for failure in getattr(error, "worker_failures", {}).values():
                if cause := _user_error(failure):
                    raise type(cause)(str(cause)) from None
                if isinstance(failure, ray.exceptions.RayActorError):
                    raise ProcessDied(f"A training worker {why_it_died(failure)}, more often than training.max_failures allows.") from None
            # Ray Train itself does not restart a worker that dies while the group starts.
            died = getattr(error, "controller_failure", None)
            if not isinstance(died, ray.exceptions.RayActorError):
                raise
            if not left:
                raise ProcessDied(f"A training worker {why_it_died(died)} while it started, {_CONTROLLERS} times.") from None
        except ray.exceptions.RayActorError as error:
            if not left:
                raise ProcessDied(f"The process that leads the training workers {why_it_died(error)}, {_CONTROLLERS} times.") from None
    raise AssertionError


def _worker(sent: dict[str, Any]) -> None:
    import ray
    import ray.train
    from ray.train.torch import get_device

    config: dict[str, Any] = ray.get(sent["work"])
    recipe: Recipe = config["recipe"]
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    gpu = decided(recipe.training.gpu, "training.gpu")
    if not gpu:
        torch.set_num_threads(recipe.training.threads or max(1, (config["threads"] or cores_here()) // workers.size))
    # A worker without a GPU of its own still sees those of its node.
    device, precision = str(get_device()) if gpu else "cpu", recipe.training.precision
    keep_to_share(gpu, device)
    method = recipe.untrained(config["corpus"], seed=config["seed"], device=device, precision=precision, workers=workers)
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
    if isinstance(method, SelectingMethod) and once(workers, lambda: on_cluster(recipe.training, len(method.corpus.unlabeled))):
        ranked = ClusterRanking.of_recipe(recipe, config["corpus"], config["texts"])
        method.ranking_pass = lambda *asked: once(workers, lambda: ranked(*asked))
    texts = _asked_once(config["texts"], workers)
    step_done = StepFile(config["steps"]) if config["steps"] is not None and workers.rank == 0 else None
    names_read = NamesFile(config["names"]) if config["names"] is not None and workers.rank == 0 else None
    scored = {"validation": config["validation"], "tested": config["tested"]}
    train(method, texts=texts, report=report, seed=config["seed"], **scored, resume=resume, step_done=step_done, names_read=names_read)


def once(workers: Workers, work: Callable[[], Result]) -> Result:
    """What `work` returns, called in the first worker alone; the others wait for it, however long it takes."""
    if workers.size == 1:
        return work()
    call = Call(work, "selftrain-once") if workers.rank == 0 else None
    # Nobody waits for one message longer than a process group allows (half an hour).
    for _ in iter(lambda: _from_first(None if call is None else call.ended(_BEAT_SECONDS)), True):
        continue
    result: Result = _from_first(None if call is None else call.result())
    return result


def _from_first(value: Any) -> Any:
    """The first worker's `value`, in all of them."""
    sent = [value]
    dist.broadcast_object_list(sent, src=0)
    return sent[0]


def _asked_once(texts: TextChannel, workers: Workers) -> TextChannel:
    """A channel that asks once, in the first worker, and gives all workers the answers."""

    def ask(requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        return once(workers, lambda: dict(texts(requests)))

    return texts if workers.size == 1 else ask


def _user_error(error: BaseException | None) -> SelfTrainError | None:
    while error is not None:
        if isinstance(error, SelfTrainError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
