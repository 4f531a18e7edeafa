"""Light trainings (heads, BiLSTMs, small CNNs) in actors of Ray, side by side, where a run does more than one at a time.

An actor keeps its frozen encoder and its embeddings for the next training. What comes back is the state that a checkpoint of the last round would hold, so the
driver goes on as after a kill at that moment: nothing is left to train.
"""

from __future__ import annotations

import io
import pickle
import queue
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch

from selftrain.config import TrainingConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.methods.recipe import Recipe
from selftrain.models.shared import open_shared_encoder
from selftrain.runtime.devices import keep_to_share
from selftrain.runtime.memory import trim
from selftrain.runtime.watch import ray_is_lost, why_it_died
from selftrain.training.checkpoints import RoundCheckpoint
from selftrain.training.loop import Validation, train

_RETRIES = 2  # of a training whose process died


@dataclass(frozen=True)
class LightTraining:
    """One training, as it is sent.

    Args:
        recipe: what to train.
        corpus: what the method may see.
        texts: the text channel; it has to survive being sent.
        seed: of the training.
        validation: documents to choose the best round by.
        tested: documents that are scored after every round, for the report alone.
        checkpoint: where the last round is kept, used where the actor's node sees its folder.
    """

    recipe: Recipe
    corpus: Corpus
    texts: TextChannel
    seed: int
    validation: Validation | None
    tested: Validation | None
    checkpoint: RoundCheckpoint


@dataclass
class LightTrainers:
    """Actors for light trainings, as many as threads ask at the same time; Ray has to be initialized."""

    _idle: dict[str, queue.SimpleQueue[Any]] = field(default_factory=lambda: defaultdict(queue.SimpleQueue), init=False, repr=False)

    def trained(self, training: LightTraining) -> dict[str, Any]:
        """The last state of a training, as `fit` takes it for `resume`, computed by an actor.

        Raises:
            SelfTrainError: what the method or the text channel raised there.
            ProcessDied: the actor died again and again.
        """
        import ray

        idle = self._idle[training.recipe.training.model_dump_json()]
        try:
            actor = idle.get_nowait()
        except queue.Empty:
            actor = _actor(training.recipe.training)
        try:
            content, error = ray.get(actor.train.remote(training))
        except ray.exceptions.RayActorError as died:
            if ray_is_lost():
                raise
            raise ProcessDied(f"The process of a training {why_it_died(died)}, and so were those that took its place.") from None
        idle.put(actor)
        if error is not None:
            raise pickle.loads(error)
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state


def _actor(training: TrainingConfig) -> Any:
    import ray

    asked: dict[str, Any] = {"num_cpus": training.threads or 1, "num_gpus": light_gpu(training)}
    if training.placement:
        asked["label_selector"] = dict(training.placement)
    return ray.remote(_Trainer).options(max_restarts=-1, max_task_retries=_RETRIES, **asked).remote()


def light_gpu(training: TrainingConfig) -> float:
    """The part of a GPU that a light training in an actor gets: what is set; none where that is left to us, since a core a training is faster."""
    return 0.0 if training.gpu == "auto" else float(training.gpu)


class _Trainer:
    """The actor."""

    def train(self, training: LightTraining) -> tuple[bytes, bytes | None]:
        """(the last state, None), or (nothing, the error): as it is, because Ray's own report of an error would lose what it was."""
        try:
            return self._trained(training), None
        except SelfTrainError as error:
            return b"", pickle.dumps(error)

    def _trained(self, training: LightTraining) -> bytes:
        recipe, corpus, checkpoint = training.recipe, training.corpus, training.checkpoint
        gpu = light_gpu(recipe.training)
        device = "cuda:0" if gpu else "cpu"
        keep_to_share(gpu, device)
        torch.set_num_threads(recipe.training.threads or 1)  # others train beside it
        shared = recipe.model.train == "head" and not gpu
        opened = (lambda: open_shared_encoder(recipe.model, corpus)) if shared else None
        method = recipe.untrained(corpus, seed=training.seed, device=device, opened=opened)
        keeps = checkpoint.file.parent.is_dir()
        last: list[dict[str, Any]] = []

        def report(figures: dict[str, float], state: dict[str, Any]) -> None:
            last[:] = [state]
            if keeps:
                checkpoint(figures, state)

        resume = checkpoint.read() if keeps else None
        validation, tested = training.validation, training.tested
        train(method, texts=training.texts, report=report, seed=training.seed, validation=validation, tested=tested, resume=resume)
        state = last[0] if last else resume
        assert state is not None
        content = io.BytesIO()
        torch.save(state | {"method": state["method"] | {"optimizer": None, "scheduler": None}}, content)
        trim()
        return content.getvalue()
