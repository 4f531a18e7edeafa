"""How many trials run at once, and what a sweep asks of the cluster: both count the text engine's weights and its GPUs."""

from __future__ import annotations

import pytest

from selftrain.config import Experiment, parse
from selftrain.errors import ConfigError
from selftrain.runtime.cluster import Needs
from selftrain.runtime.devices import Devices
from selftrain.runtime.hardware import Claim, Hardware, Node
from selftrain.sweeps import plan, runner
from selftrain.sweeps.runner import decide_trials, most_at_once, trial_needs
from selftrain.sweeps.space import parse_space
from selftrain.sweeps.sweep import run_sweep

ENGINE = Needs(cpus=1.0, gpus=2.0, memory_gb=6.5)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 cores and 17 GiB."""
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(runner, "free_memory_gb", lambda: 17.0)


def test_a_sweep_asks_for_its_trials_and_the_engine():
    assert trial_needs(3, 0.0, None) == Needs(3.0, 0.0, 6.5)
    assert trial_needs(3, 1.0, ENGINE) == Needs(5.0, 5.0, 13.0, (Claim("training.gpu", 1.0),) * 3)


@pytest.mark.parametrize(
    ("experiment", "engine", "trials", "expected"),
    [
        ({}, None, None, 8),  # one a core
        ({}, ENGINE, None, 5),  # (17 - 2 - 6.5) / 1.5
        ({}, Needs(1.0, 0.0, 14.6), None, 1),  # none fits: Ray says what is missing
        ({}, None, 4, 4),  # what the GPUs allow
        ({}, ENGINE, 7, 5),
        ({"ray": {"address": "auto"}}, None, None, 27),  # one a CPU of the cluster: this machine's cores and memory say nothing about it
        ({"ray": {"address": "auto"}}, ENGINE, None, 25),  # the engine and the text service take two
        ({"ray": {"address": "auto"}}, ENGINE, 64, 64),
        ({"ray": {"address": "auto"}, "training": {"placement": {"role": "training"}}}, None, None, 12),  # no other node takes them
        ({"ray": {"address": "auto"}}, Needs(40.0, 0.0, 1.0), None, 1),
    ],
)
def test_as_many_trials_run_as_the_engine_leaves_room_for(machine, experiment, engine, trials, expected):
    there = Hardware((Node(0, cpus=15.0), Node(0, {"role": "training", "zone": "a"}, 12.0)))
    assert most_at_once(parse(experiment, where="a test"), there, engine, trials) == expected


@pytest.mark.parametrize(
    ("document", "gpus", "engines", "trials"),
    [
        ({"training": {"gpu": True}}, 4, 0, 4),
        ({"training": {"gpu": True}, "augment": {"gpus": 2}}, 4, 1, 2),  # the engine has the other two
        ({"training": {"gpu": True}, "augment": {"gpus": 2}}, 2, 1, 1),  # too few, which Ray's cluster is compared with
        ({"training": {"gpu": 0.5}}, 4, 0, 8),
        ({"training": {"gpu": False}}, 4, 1, None),
        ({}, 4, 2, 2),
        ({}, 2, 2, 2),  # each shares its card with an engine
        ({}, 0, 1, None),
    ],
)
def test_trials_are_as_many_as_gpus_of_the_cluster_allow(document, gpus, engines, trials):
    there = Hardware((Node(0), Node(gpus)))  # none on the driver's node
    assert decide_trials(parse(document), there, engines=engines, at_once=None, light=False)[1] == trials


def test_a_sweep_runs_at_least_one_trial(document, tmp_path):
    with pytest.raises(ConfigError, match=r"^at_once must be at least 1 \(got 0\)") as caught:
        run_sweep(parse_space(document), at_once=0)
    assert caught.value.parameter == "at_once" and not (tmp_path / "runs").exists()


def test_the_most_demanding_engine_of_a_sweep_counts(document, tmp_path, monkeypatch):
    for name, size in (("small", 1), ("large", 4)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.truncate(size * 2**30)  # a hole: no disk is used
    monkeypatch.setattr(plan, "language_model_of", lambda augment: tmp_path / augment.model)
    document["base"]["method"] = {"name": "genco", "rounds": 1, "steps_per_round": 1}
    document["base"]["data"] |= {"supervision": "none"}
    document["axes"] = {"augment.model": ["small", "large"]}
    memory = Experiment().augment.engine_memory_gb
    prepared = plan.prepare_sweep(parse_space(document))
    assert prepared.engine(Devices()) == Needs(1.0, 0.0, 1.5 * 4 + memory + 3.0)
    assert (prepared.engines, prepared.light) == (1, True)
    assert prepared.engine(Devices(engine=0.6)).claims == (Claim("augment.gpus", 0.6),)
    document["base"]["method"] |= {"input_augmentation": False, "conditional_augmentation": False}
    without = plan.prepare_sweep(parse_space(document))
    assert without.engine(Devices()) is None and without.engines == 0
