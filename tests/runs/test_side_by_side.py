"""Heads and BiLSTMs of one run, trained side by side in actors of a real Ray: the figures and weights of one after the other, and what goes wrong there."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from light_runs import described
from ray_sessions import session_that_imports_tests

from selftrain.data.texts import no_texts
from selftrain.errors import ProcessDied, ServiceError
from selftrain.runs import run as story
from selftrain.runs.plan import prepare
from selftrain.training import light
from selftrain.training.checkpoints import RoundCheckpoint
from selftrain.training.fit import fit
from selftrain.training.light import LightTrainers, LightTraining

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray_session():
    with session_that_imports_tests(cpus=3):
        yield


@pytest.fixture(scope="module")
def trainers(ray_session) -> LightTrainers:
    """With one actor, as only one training is asked for at a time."""
    return LightTrainers()


def of(home: Path, train: str, folder: Path, **what) -> LightTraining:
    variant = prepare(described(home, train)).main
    sent = {"texts": no_texts, "tested": None} | what
    return LightTraining(variant.recipe, variant.granted(3), seed=3, validation=None, checkpoint=RoundCheckpoint(folder / "3.pt", "3"), **sent)


def figures_of(metrics: dict) -> list[object]:
    return [[[row["variant"], row["seed"], row["scores"]] for row in metrics["rows"]], metrics["rounds"]]


def test_two_at_a_time_have_the_figures_of_one_after_the_other(ray_session, home, monkeypatch):
    experiment = described(home, "head", seeds=[0, 1], variants={"fixmatch": {"method": {"name": "fixmatch", "rounds": 2}}})
    alone = story.run(experiment)
    sent = []
    trained = LightTrainers.trained
    monkeypatch.setattr(LightTrainers, "trained", lambda self, one: (sent.append((one.recipe.name, one.seed)), trained(self, one))[1])
    both = story.run(experiment, at_once=2)
    assert sorted(sent) == [("cross_entropy", 1), ("fixmatch", 0), ("fixmatch", 1)], "what is bundled trains in the driver"
    assert figures_of(both.metrics) == figures_of(alone.metrics)
    left = [{path.name for path in Path(one.folder).glob("checkpoints/*")} for one in (both, alone)]
    assert left[0] == left[1]


@pytest.mark.parametrize("train", ["head", "bilstm"])
def test_an_actor_trains_the_weights_that_this_process_trains(trainers, one_thread, home, tmp_path, train):
    training = of(home, train, tmp_path)
    state = trainers.trained(training)
    fitted = fit(training.recipe, training.corpus, seed=3)
    found = fit(training.recipe, training.corpus, seed=3, resume=state)
    assert found.rounds == fitted.rounds and found.seconds == state["seconds"] != fitted.seconds
    weights = fitted.method.state()["encoder"]
    assert weights.keys() == state["method"]["encoder"].keys()
    assert all(torch.equal(value, state["method"]["encoder"][name]) for name, value in weights.items())
    assert all(torch.equal(value, found.method.state()["encoder"][name]) for name, value in weights.items())


@dataclass
class Deadly:
    """A `Validation` that kills its process in the third round, `times` in all, and notes the rounds."""

    folder: Path
    times: int

    def figures(self, student):
        rounds = len(list(self.folder.glob("round*")))
        (self.folder / f"round{rounds}").touch()
        died = len(list(self.folder.glob("died*")))
        if rounds >= 2 and died < self.times:
            (self.folder / f"died{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


def test_a_training_whose_process_is_killed_is_trained_again_and_given_up_in_the_end(trainers, one_thread, home, tmp_path, monkeypatch):
    once, often = tmp_path / "once", tmp_path / "often"
    once.mkdir(), often.mkdir()
    training = of(home, "head", once, tested=Deadly(once, 1))
    state = trainers.trained(training)
    assert (once / "died0").exists() and state["rounds"] == fit(training.recipe, training.corpus, seed=3).rounds
    monkeypatch.setattr(light, "_RETRIES", 0)
    with pytest.raises(ProcessDied, match=r"^The process of a training was killed, or crashed, and so were those that took its place\.$"):
        LightTrainers().trained(of(home, "head", often, tested=Deadly(often, 99)))
    assert len(list(often.glob("died*"))) == 1


class Failing:
    def figures(self, student):
        raise ServiceError("The server does not answer; start it.")


def test_what_a_training_says_there_is_said_here_and_its_process_trains_the_next(trainers, one_thread, home, tmp_path, monkeypatch):
    trainers.trained(of(home, "head", tmp_path))
    monkeypatch.setattr(light, "_actor", lambda training: pytest.fail("there is one"))
    with pytest.raises(ServiceError, match=r"^The server does not answer; start it\.$"):
        trainers.trained(of(home, "head", tmp_path, tested=Failing()))
    assert trainers.trained(of(home, "head", tmp_path))["round"] == 5


def test_an_actor_goes_on_after_the_last_round_that_another_has_written(trainers, one_thread, home, tmp_path):
    training = of(home, "head", tmp_path)
    states = []
    fit(training.recipe, training.corpus, seed=3, report=lambda figures, state: states.append(dict(state, rounds=list(state["rounds"]))))
    marked = states[3] | {"seconds": 1e6}
    training.checkpoint.write(marked)
    assert trainers.trained(training)["seconds"] > 1e6
