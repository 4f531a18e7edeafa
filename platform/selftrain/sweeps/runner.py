"""Ray Tune around the trials of a sweep; no other file of the room knows Ray.

A trial is a plain Tune function: a Train controller of its own would cost it fifteen seconds and more. The processes that run trials are kept from one trial to the
next, with what they have opened. Tune's own files are thrown away: the driver gets every result at once, and keeps it.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selftrain.config import Experiment
from selftrain.config.hardware import decided
from selftrain.errors import SelfTrainError
from selftrain.runtime.cluster import RAY_GB, TRAINING_GB, Needs, session
from selftrain.runtime.devices import Devices, decide
from selftrain.runtime.hardware import Claim, Hardware
from selftrain.runtime.memory import free_memory_gb

if TYPE_CHECKING:  # the processes of trials import this module, and pay for PyTorch only if the trial needs it
    from selftrain.sweeps.space import Space

# work(config of the trial, what all trials share, report) -> a result that JSON can hold; `report` takes the objective so far
Work = Callable[[Mapping[str, Any], Any, Callable[[float], None]], dict[str, Any]]
# on_result(config, result): the result of `work`, or {"error": why}, or {"stopped": reports, "objective": the last one}
OnResult = Callable[[Mapping[str, Any], dict[str, Any]], None]


@dataclass(frozen=True)
class Adaptive:
    """A search that looks at results before it chooses the next settings (Optuna's)."""

    space: Space
    trials: int
    seed: int
    known: Sequence[tuple[Mapping[str, Any], float]] = ()  # (config, objective) of trials that an earlier start has finished


def trial_needs(at_once: int, gpus: float, engine: Needs | None, placement: Mapping[str, str] | None = None) -> Needs:
    """What a sweep asks of the cluster.

    Args:
        at_once: trials at the same time.
        gpus: GPUs a trial.
        engine: what the text engine beside the trials asks for; None where there is none.
        placement: `training.placement`.
    """
    claims = (Claim("training.gpu", gpus, placement or {}),) * at_once if gpus or placement else ()
    own = Needs(float(at_once), gpus * at_once, RAY_GB + TRAINING_GB * at_once, claims)
    if engine is None:
        return own
    return Needs(own.cpus + 1.0 + engine.cpus, own.gpus + engine.gpus, own.memory_gb + engine.memory_gb, engine.claims + claims)


def decide_trials(experiment: Experiment, there: Hardware, *, engines: int, at_once: int | None, light: bool) -> tuple[Devices, int | None]:
    """(What a sweep's trials and engines compute on, trials at the same time as far as GPUs say so: None where trials use none).

    Args:
        experiment: of the sweep's base.
        there: what there is.
        engines: replicas of vLLM; 0 where no cell wants texts.
        at_once: trials at the same time, where that was asked for.
        light: whether each trial is light: as many as there are cores then train on the CPU, which is faster than a GPU for each in turn.
    """
    if light and experiment.training.gpu == "auto":
        experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update={"gpu": False})})
    if at_once is not None:
        devices = decide(experiment, there, engines=engines, workers=at_once, together=False)
        return devices, at_once if devices.worker else None
    # As many trials as leave each engine a card of its own, where there are enough of them.
    asked = decided(experiment.augment.gpus, "augment.gpus") if experiment.augment.gpus != "auto" else 1.0
    share = decided(experiment.training.gpu, "training.gpu") if experiment.training.gpu != "auto" else 1.0
    left = there.gpus - engines * asked
    if left < share and "auto" in (experiment.augment.gpus, experiment.training.gpu):
        left = there.gpus  # a trial and an engine share a card
    trials = max(1, int(left / share)) if share else 1
    devices = decide(experiment, there, engines=engines, workers=trials, together=False)
    return devices, trials if devices.worker else None


def most_at_once(experiment: Experiment, there: Hardware, engine: Needs | None, trials: int | None = None) -> int:
    """Trials at the same time, at least one: of those that use GPUs, as many as these allow.

    The others are one a core of this machine, as far as its memory goes, or one a CPU of the cluster's nodes with the labels of `training.placement`.

    Args:
        experiment: says whether the trials run on this machine.
        there: what there is.
        engine: as in `trial_needs`.
        trials: of `decide_trials`; None where they use no GPUs.
    """
    beside = trial_needs(0, 0.0, engine)
    if experiment.ray.address is not None:
        wanted = experiment.training.placement.items()
        able = [node.cpus for node in there.nodes if wanted <= node.labels.items()]
        # Where labels keep the engines and the text service apart from the trials is not known here, so these count as beside them.
        return max(1, trials if trials is not None else int(sum(able) - beside.cpus))
    most = trials if trials is not None else len(os.sched_getaffinity(0))
    return max(1, min(most, int((free_memory_gb() - beside.memory_gb) / TRAINING_GB)))


@contextmanager
def workers(experiment: Experiment, wanted: Needs | Callable[[Hardware], Needs]) -> Iterator[Hardware]:
    """Ray for a sweep, for the length of a `with` block.

    Args:
        experiment: its `ray` section says which cluster.
        wanted: `trial_needs`, or a function that says so once it sees what there is.

    Raises:
        ResourceError: too little memory, CPUs or GPUs.
        ServiceError: no cluster answers at the address.
    """
    # Tune would move every trial into a folder of its own, and print what the driver prints already.
    os.environ.update(RAY_CHDIR_TO_TRIAL_DIR="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
    with session(experiment, wanted) as there:
        yield there


def run_trials(
    work: Work,
    shared: Any,
    on_result: OnResult,
    *,
    configs: Sequence[Mapping[str, Any]] | Adaptive,
    at_once: int,
    gpus: float = 0.0,
    placement: Mapping[str, str] | None = None,
    minutes: float | None = None,
    asha_after: int | None = None,
) -> None:
    """Run a trial for every config, `at_once` at the same time; one that fails is reported to `on_result` and the others go on.

    Args:
        work: what a trial does; it and `shared` are sent to the workers.
        shared: passed to every trial.
        on_result: called here, in the driver, when a trial has ended.
        configs: of the trials, in order; or a search that makes them.
        at_once: trials at the same time, each on one CPU.
        gpus: GPUs a trial.
        placement: labels of the nodes that trials run on.
        minutes: trials that have not ended by then are dropped.
        asha_after: rounds after which ASHA may end weak trials; None: never.
    """
    from ray import tune

    adaptive = configs if isinstance(configs, Adaptive) else None
    if not adaptive and not configs:
        return
    scheduler = None
    if asha_after is not None:
        # The last report of a trial carries its result: max_t, at which Tune ends the best trial too, is beyond every method's rounds.
        scheduler = tune.schedulers.ASHAScheduler(metric="objective", mode="max", max_t=10**9, grace_period=asha_after, reduction_factor=3)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `on_result` gets what fails
    with tempfile.TemporaryDirectory(prefix="selftrain-tune-") as scratch:
        function = tune.with_parameters(_trial, work=work, shared=shared, configs=None if adaptive else list(configs))  # type: ignore[arg-type]
        tuner = tune.Tuner(
            tune.with_resources(function, trial_resources(gpus, placement)),
            param_space={} if adaptive else {"task": tune.grid_search(list(range(len(configs))))},  # type: ignore[arg-type]
            tune_config=tune.TuneConfig(
                num_samples=adaptive.trials if adaptive else 1,
                search_alg=_optuna(adaptive) if adaptive else None,
                scheduler=scheduler,
                max_concurrent_trials=at_once,
                time_budget_s=60 * minutes if minutes else None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                callbacks=[_listener(on_result, None if adaptive else configs)],  # type: ignore[arg-type]
                failure_config=tune.FailureConfig(max_failures=2),  # of its process: what a trial itself raises is a result, see `_trial`
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
        tuner.fit()


def trial_resources(gpus: float, placement: Mapping[str, str] | None = None) -> Any:
    """What a trial asks of Ray Tune.

    Args:
        gpus: GPUs a trial.
        placement: labels of the nodes that it runs on.
    """
    bundle = {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}
    if not placement:
        return bundle
    from ray import tune

    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[dict(placement)])


def _trial(config: Mapping[str, Any], work: Work, shared: Any, configs: Sequence[Mapping[str, Any]] | None) -> None:
    from ray import tune

    own = configs[config["task"]] if configs is not None else config
    try:
        result = work(own, shared, lambda objective: tune.report({"objective": objective}))
    except Exception as error:
        result = {
            "error": str(error) if isinstance(error, SelfTrainError) else f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    tune.report({"outcome": json.dumps(result), "objective": result.get("objective", float("-inf"))})


def _listener(on_result: OnResult, configs: Sequence[Mapping[str, Any]] | None) -> Any:
    from ray import tune

    class Listener(tune.Callback):
        """Passes the results of trials to `on_result`."""

        def config(self, trial: Any) -> Mapping[str, Any]:
            return configs[trial.config["task"]] if configs is not None else dict(trial.config)

        def __reduce__(self) -> tuple[Any, ...]:
            return tune.Callback, ()  # Tune writes its callbacks into a pickle that nobody reads here

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            if "outcome" in last:
                on_result(self.config(trial), json.loads(last["outcome"]))
            elif "objective" in last:
                on_result(self.config(trial), {"stopped": last["training_iteration"], "objective": last["objective"]})

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = trial.get_error()
            words = " ".join(str(error).split())[:300] if error is not None else "no reason is known"
            on_result(self.config(trial), {"error": f"the trial's process ended: {words}"})

    return Listener()


def _optuna(adaptive: Adaptive) -> Any:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from selftrain.sweeps.space import Range

    import optuna  # isort: skip

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def domain(axis: Any) -> Any:
        if not isinstance(axis, Range):
            return tune.choice(list(range(len(axis))))  # the index in the list: not every value can be a category
        if axis.integer:
            return (tune.lograndint if axis.log else tune.randint)(int(axis.low), int(axis.high) + 1)
        return (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)

    known = {"points_to_evaluate": [dict(config) for config, _ in adaptive.known], "evaluated_rewards": [value for _, value in adaptive.known]}
    return OptunaSearch(
        {key: domain(axis) for key, axis in adaptive.space.axes.items()},
        metric="objective",
        mode="max",
        sampler=optuna.samplers.TPESampler(seed=adaptive.seed + len(adaptive.known)),
        **(known if adaptive.known else {}),
    )
