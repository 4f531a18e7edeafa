"""Ray Data as passes use it: a pool of actors that grows with the work, quiet, and sure to end: what kills one process after the other is given up.

A process that dies is replaced by Ray. Not so a node that dies with Ray Data's own coordinator, which lives where the cluster's first pass was started, whoever
started it: that ends the pass of Ray Data, and what is left of it begins anew, with a new coordinator.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from selftrain.errors import ProcessDied, say
from selftrain.runtime.watch import ray_is_lost, why_it_died

_TRIES = 3  # after which a block, or what it leads to, is taken for the reason of a process's death
_NODE_SECONDS = (
    30.0  # that Ray may take to notice a lost node: five looks, one every three seconds; its processes do not answer from the first second on
)
_LOOK_SECONDS = 0.5


def answers(
    asked: Sequence[str], worker: type, arguments: tuple[Any, ...], *, at_once: int, cpus: int, gpus: float = 0.0
) -> Generator[str, None, None]:
    """The answers to all questions, in any order; Ray has to be initialized. Close it when you leave it early.

    Args:
        asked: questions, each another; one is one task.
        worker: a class whose objects answer `{"asked": [question]}` by `{"asked": [question], "answer": [answer]}`; one is made in each process.
        arguments: of the class.
        at_once: processes at most; there is one at first.
        cpus: that each asks for.
        gpus: the same, whole ones or a part of one.

    Raises:
        ProcessDied: processes died again and again.
    """
    if not asked:
        return
    import ray

    left = dict.fromkeys(asked)

    def rows() -> Any:
        return ray.data.from_items([{"asked": one} for one in left], override_num_blocks=len(left))

    resources = {"num_cpus": cpus, "num_gpus": gpus or None}
    nodes = Nodes()
    while left:
        # Two tasks an actor: a part may take minutes, and waits where another actor may be free.
        batches = mapped(rows, worker, arguments, batch_size=1, at_once=min(at_once, len(left)), tasks=2, resources=resources)
        try:
            with closing(batches):
                for batch in batches:
                    for question, answer in zip(batch["asked"], batch["answer"], strict=True):
                        del left[str(question)]
                        yield str(answer)
        except ProcessDied:
            if not nodes.lost():
                raise


class Nodes:
    """The nodes of the cluster, to tell a lost one from a process that cannot live; Ray has to be initialized."""

    def __init__(self) -> None:
        self._alive = self._found()

    def lost(self) -> bool:
        """Whether a node has gone since the last look, which is said: what a pass was doing begins anew then.

        Where there are several nodes, it waits until Ray would have noticed: a task gives up on a process of a lost node long before.
        """
        before, end = self._alive, time.monotonic() + _NODE_SECONDS
        while not before - (found := self._found()) and len(before) > 1 and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        self._alive = found
        if gone := before - self._alive:
            say(f"{len(gone)} of {len(before)} nodes of the cluster are gone, and the pass with them; what is left of it begins anew")
        return bool(gone)

    @staticmethod
    def _found() -> set[str]:
        import ray

        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def mapped(
    rows: Callable[[], Any],
    worker: type,
    arguments: tuple[Any, ...],
    *,
    resources: dict[str, Any],
    batch_size: int | None = None,
    batch_format: str = "numpy",
    at_once: int | None = None,
    tasks: int | None = None,
    in_order: bool = False,
) -> Generator[Any, None, None]:
    """What a pool of actors makes of a data set of Ray, block by block; Ray has to be initialized. Close it when you leave it early.

    A process that dies is replaced, and does its block again.

    Args:
        rows: makes the data set, which keeps the settings that it is made with.
        worker: a class whose objects turn a batch into a batch; one is made in each process.
        arguments: of the class.
        resources: that an actor asks for, as `map_batches` takes them.
        batch_size: rows of a batch; None: a block.
        batch_format: of batches that come in and go out: numpy or pyarrow.
        at_once: processes at most, default: as many as there is room for; there is one at first.
        tasks: that an actor is given at a time; default: Ray's own.
        in_order: whether results come in the order of the blocks.

    Raises:
        ProcessDied: processes died again and again.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised, and said once
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = in_order
    context.execution_no_progress_timeout_s = -1  # a block may take an hour; a process that died is noticed without it
    context.max_consecutive_actor_init_deaths = _TRIES
    with warnings.catch_warnings(), DataContext.current(context):
        # Of max_task_retries, which 2.60 takes in no other way; without it, Ray tries for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = rows().map_batches(
            worker,
            fn_constructor_args=arguments,
            batch_size=batch_size,
            batch_format=batch_format,
            compute=ActorPoolStrategy(min_size=1, max_size=at_once, max_tasks_in_flight_per_actor=tasks),
            max_task_retries=_TRIES,
            **resources,
        )
    with DataContext.current(context):
        try:
            yield from found.iter_batches(batch_size=None, batch_format=batch_format, prefetch_batches=0)  # else a result waits for the next one
        except ray.exceptions.RayTaskError:
            raise  # an error in our code
        except ray.exceptions.RayError as error:
            if ray_is_lost():
                raise
            raise ProcessDied(f"A process of the pass {why_it_died(error)}, and so were those that took its place.") from None
