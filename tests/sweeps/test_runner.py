"""Ray Tune around trials: all are run, one that fails or dies is reported, processes are kept, budgets and ASHA end what they should."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec

import pytest

from selftrain.config import Experiment
from selftrain.errors import SelfTrainError
from selftrain.sweeps.runner import Adaptive, run_trials, trial_needs, workers
from selftrain.sweeps.space import parse_space

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray():
    with workers(Experiment(), trial_needs(2, 0.0, None)):
        yield


def outcomes(work, configs, **settings) -> list:
    """[(config, result)] in the order of the configs."""
    found = []
    run_trials(work, "shared", lambda config, result: found.append((config, result)), configs=configs, at_once=2, **settings)
    return sorted(found, key=lambda pair: str(pair[0]))


def test_one_that_fails_or_dies_is_reported_and_the_others_go_on(ray):
    # Functions of a test cannot be imported by a worker: as closures they travel with what they need.
    mistake = SelfTrainError

    def work(config, shared, report):
        if config["n"] == 1:
            raise mistake("the second cannot be trained")
        if config["n"] == 2:
            raise ZeroDivisionError("division by zero")
        if config["n"] == 3:
            os._exit(7)
        return {"n": config["n"], "shared": shared, "process": os.getpid()}

    found = outcomes(work, [{"n": n} for n in range(8)])
    assert [config["n"] for config, _ in found] == list(range(8))
    assert found[1][1]["error"] == "the second cannot be trained"
    assert found[2][1]["error"] == "ZeroDivisionError: division by zero" and "Traceback" in found[2][1]["traceback"]
    assert found[3][1]["error"].startswith("the trial's process ended")
    whole = [result for config, result in found if config["n"] not in (1, 2, 3)]
    assert [result["n"] for result in whole] == [0, 4, 5, 6, 7] and {result["shared"] for result in whole} == {"shared"}


def test_processes_are_kept_from_trial_to_trial(ray):
    def work(config, shared, report):
        return {"process": os.getpid()}

    assert len({result["process"] for _, result in outcomes(work, [{"n": n} for n in range(8)])}) <= 3


def test_a_budget_in_minutes_leaves_the_rest(ray):
    def work(config, shared, report):
        time.sleep(1 if config["n"] < 2 else 600)
        return {}

    found = outcomes(work, [{"n": n} for n in range(4)], minutes=0.15)
    assert {config["n"] for config, _ in found} <= {0, 1}  # the others were not waited for: they would have been found


def test_asha_ends_weak_trials(ray):
    def work(config, shared, report):
        for round_ in range(9):
            time.sleep(0.05)
            report(config["n"] + round_ / 100)
        return {"objective": config["n"] + 1.0}

    found = outcomes(work, [{"n": n} for n in range(9, 0, -1)], asha_after=2)
    stopped = [config["n"] for config, result in found if "stopped" in result]
    finished = [config["n"] for config, result in found if "stopped" not in result]
    assert 9 in finished and stopped and max(stopped) < 9  # the best comes first here, and nothing beats it
    assert all(2 <= result["stopped"] < 10 for _, result in found if "stopped" in result)


@pytest.mark.skipif(find_spec("optuna") is None, reason="the extra `search` is not installed")
def test_optuna_looks_at_results_and_goes_on_from_known_ones(ray, document):
    document["axes"] = {"method.learning_rate": {"low": 0.0, "high": 1.0}, "method.rounds": [1, 2]}
    document["search"] = {"sampler": "optuna"}
    space = parse_space(document)

    def work(config, shared, report):
        return {"objective": -abs(config["method.learning_rate"] - 0.7)}

    known = [({"method.learning_rate": 0.69, "method.rounds": 0}, -0.01)]
    found = outcomes(work, Adaptive(space, 14, 0, known))
    assert len(found) == 14 and {config["method.rounds"] for config, _ in found} <= {0, 1}
    assert max(result["objective"] for _, result in found) > -0.1
