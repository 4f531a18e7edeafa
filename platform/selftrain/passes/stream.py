"""Ray Data as passes use it: small questions go in, small answers come out as they are ready, and a pool of actors that grows with the work is between them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from selftrain.errors import ProcessDied
from selftrain.runtime.watch import ray_is_lost, why_it_died

_TRIES = 3  # after which the question, or what it leads to, is taken for the reason of a process's death


def answers(
    asked: Sequence[str], worker: type, arguments: tuple[Any, ...], *, at_once: int, cpus: int, gpus: float = 0.0
) -> Generator[str, None, None]:
    """The answers to all questions, in any order; Ray has to be initialized. Close it when you leave it early.

    A process that dies is replaced, and what it was asked is asked again.

    Args:
        asked: questions; one is one task.
        worker: a class whose objects answer `{"asked": [question]}` by `{"answer": [answer]}`; one is made in each process.
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
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised, and said once
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a part may take an hour; a process that died is noticed without it
    context.max_consecutive_actor_init_deaths = _TRIES
    with DataContext.current(context):
        rows = ray.data.from_items([{"asked": one} for one in asked], override_num_blocks=len(asked))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of max_task_retries, which 2.60 takes in no other way; without it, Ray tries for ever
            answered = rows.map_batches(
                worker,
                fn_constructor_args=arguments,
                batch_size=1,
                compute=ActorPoolStrategy(min_size=1, max_size=min(at_once, len(asked)), max_tasks_in_flight_per_actor=2),
                num_cpus=cpus,
                num_gpus=gpus or None,
                max_task_retries=_TRIES,
            )
        try:
            for batch in answered.iter_batches(batch_size=None, prefetch_batches=0):  # else an answer waits for the next one
                yield from map(str, batch["answer"])
        except ray.exceptions.RayTaskError:
            raise  # an error in our code
        except ray.exceptions.RayError as error:
            if ray_is_lost():
                raise
            # Of a process that is being restarted for the last time Ray says that it is not available.
            reason = "killed unexpectedly" if isinstance(error, ray.exceptions.ActorUnavailableError) else error
            raise ProcessDied(f"A process of the pass {why_it_died(reason)}, and so were those that took its place.") from None
