"""What a worker of Ray Train does around the loop: seeds, threads, checkpoints and resuming, texts that are asked for once, the user's errors. Ray itself is
in tests/e2e; here a stand-in for its context says which worker this is and keeps what is reported."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import torch.multiprocessing
from by_hand import LinearEncoder
from few_labels import SHORT, WORDS, toy

from selftrain.config import parse
from selftrain.data.texts import TextRequest, no_texts
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.methods import recipe
from selftrain.methods.recipe import resolve
from selftrain.models.workers import Workers
from selftrain.training import ray as workers_of_ray
from selftrain.training.loop import Validation, train

EXPERIMENT = parse({"method": {**SHORT, "name": "cross_entropy", "rounds": 3}, "training": {"threads": 1, "gpu": False}})


class Session:
    """Ray Train's side of a worker."""

    def __init__(self, rank=0, size=1, checkpoint=None):
        self.rank, self.size, self.checkpoint = rank, size, checkpoint
        self.reports = []

    def context(self):
        return SimpleNamespace(get_world_rank=lambda: self.rank, get_world_size=lambda: self.size)

    def report(self, figures, checkpoint):
        state = None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                state = torch.load(f"{folder}/state.pt", weights_only=True)
        self.reports.append((dict(figures), state))


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def worker(monkeypatch, one_thread):
    """worker(session, **config) runs a worker; returns the method's encoder as it is then."""
    encoders = []

    def opened(model, corpus, *, device, precision):
        assert (device, precision) == ("cpu", "auto")
        torch.rand(1)  # weights made here follow from the seed
        encoders.append(LinearEncoder(WORDS))
        return encoders[-1]

    monkeypatch.setattr(recipe, "open_encoder", opened)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))

    def run(session, *, seed=0, texts=no_texts, validation=None, experiment=EXPERIMENT, names=None, threads=None):
        monkeypatch.setattr(ray.train, "get_context", session.context)
        monkeypatch.setattr(ray.train, "report", session.report)
        monkeypatch.setattr(ray.train, "get_checkpoint", lambda: session.checkpoint)
        work = {
            "recipe": recipe.resolve(experiment),
            "corpus": toy(),
            "texts": texts,
            "seed": seed,
            "validation": validation,
            "tested": None,
            "steps": None,
            "names": names,
            "threads": threads,
        }
        monkeypatch.setattr(ray, "get", {"reference": work}.get)
        workers_of_ray._worker({"work": "reference"})
        return encoders[-1]

    return run


def test_a_worker_trains_as_the_plain_loop_and_reports_every_round_with_its_state(worker):
    session = Session()
    encoder = worker(session)
    assert [figures["round"] for figures, _ in session.reports] == [1.0, 2.0, 3.0]
    assert [state["round"] for _, state in session.reports] == [0, 1, 2]
    torch.manual_seed(0)
    torch.rand(1)
    plain = resolve(EXPERIMENT).build(toy(), LinearEncoder(WORDS), seed=0)
    history = train(plain, texts=no_texts, report=lambda figures, state: None, seed=0)
    assert [figures for figures, _ in session.reports] == history.rounds
    assert torch.equal(plain.encoder.weight, encoder.weight)
    assert torch.equal(session.reports[-1][1]["method"]["encoder"]["weight"], encoder.weight)


def test_other_seeds_are_other_trainings(worker):
    assert not torch.equal(worker(Session(), seed=0).weight, worker(Session(), seed=1).weight)


def test_a_worker_goes_on_after_its_last_checkpoint(worker, tmp_path):
    whole = Session()
    expected = worker(whole)
    torch.save(whole.reports[0][1], tmp_path / "state.pt")
    rest = Session(checkpoint=ray.train.Checkpoint.from_directory(str(tmp_path)))
    found = worker(rest)
    assert [figures["round"] for figures, _ in rest.reports] == [2.0, 3.0]
    assert torch.equal(found.weight, expected.weight)


def test_validation_reaches_the_loop(worker):
    session = Session()
    worker(session, validation=Validation(toy().unlabeled.contents[:4], [0, 0, 0, 0]))
    assert all("validation_accuracy" in figures for figures, _ in session.reports)
    assert session.reports[-1][1]["best"]["round"] in (0, 1, 2)


def test_threads_are_those_of_the_experiment_or_a_share_of_those_of_the_run_or_of_the_processors(worker, monkeypatch):
    monkeypatch.setattr(workers_of_ray.os, "sched_getaffinity", lambda pid: set(range(8)))
    for asked, of_the_run, expected in ((3, 5, 3), (None, 5, 5), (None, None, 8)):
        experiment = parse({"method": {**SHORT, "name": "cross_entropy"}, "training": {"gpu": False, "threads": asked}})
        worker(Session(), experiment=experiment, threads=of_the_run)
        assert torch.get_num_threads() == expected


def test_texts_are_asked_for_by_the_first_worker_and_told_to_all(monkeypatch):
    request = TextRequest("a", "input")
    asked = []

    def channel(requests):
        asked.append(list(requests))
        return {request: "text"}

    assert workers_of_ray._asked_once(channel, Workers()) is channel

    said: list[list[object]] = [[], []]  # by the first worker, then to the second

    def broadcast(message, src):
        assert src == 0
        said[1 if turn else 0].append(message[0])
        message[0] = said[0][len(said[1]) - 1] if turn else message[0]

    monkeypatch.setattr(workers_of_ray.dist, "broadcast_object_list", broadcast)
    for turn in (0, 1):
        assert workers_of_ray._asked_once(channel, Workers(turn, 2))([request]) == {request: "text"}
    assert said == [[True, {request: "text"}], [None, None]]
    assert asked == [[request]]


def wait_for_the_first(rank, file):
    workers_of_ray._BEAT_SECONDS = 0.5
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=2))
    begun = time.monotonic()
    assert workers_of_ray.once(Workers(rank, 2), lambda: time.sleep(5) or rank) == 0
    assert time.monotonic() - begun > 4
    dist.destroy_process_group()


def test_workers_wait_for_the_first_longer_than_the_process_group_lets_them_wait_for_a_message(tmp_path):
    torch.multiprocessing.spawn(wait_for_the_first, (tmp_path / "store",), nprocs=2)


def test_the_users_error_is_found_wherever_ray_has_put_it():
    error = SelfTrainError("what to do")

    def caused(outer, inner):
        outer.__cause__ = inner
        return outer

    class Wrapped(Exception):
        cause = error

    assert workers_of_ray._user_error(error) is error
    assert workers_of_ray._user_error(Wrapped()) is error
    assert workers_of_ray._user_error(caused(RuntimeError(), caused(ValueError(), error))) is error
    assert workers_of_ray._user_error(caused(RuntimeError(), Wrapped())) is error
    assert workers_of_ray._user_error(caused(RuntimeError(), ValueError())) is None and workers_of_ray._user_error(None) is None


class Trainer:
    """Ray Train, as far as `_ended` sees it: ends as it is told, one time after the other."""

    def __init__(self, *ends):
        self.ends = list(ends)

    def fit(self):
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        return end


def while_it_started():
    return ray.train.ControllerError(ray.exceptions.RayActorError())


def test_workers_and_controllers_that_die_while_they_start_are_started_again_so_many_times() -> None:
    trainer = Trainer(while_it_started(), ray.exceptions.RayActorError(), "the result")
    assert workers_of_ray._ended(trainer) == "the result"
    assert trainer.ends == []


def test_the_controller_gets_a_reference_and_neither_the_corpus_nor_what_trains(monkeypatch, tmp_path) -> None:
    kept, given = [], {}

    class Told(Exception):
        pass

    def trainer(worker, **options):
        given.update(options, worker=worker)
        raise Told

    monkeypatch.setattr(ray, "put", lambda work: kept.append(work) or "reference")
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    corpus = toy()
    with pytest.raises(Told):
        workers_of_ray.train_in_workers(resolve(EXPERIMENT), corpus, no_texts, seed=3, workgroup=workers_of_ray.Workgroup("name", tmp_path))
    assert given["train_loop_config"] == {"work": "reference"} and given["worker"] is workers_of_ray._worker
    assert kept[0]["corpus"] is corpus and kept[0]["seed"] == 3


@pytest.mark.parametrize(
    ("end", "sentence"),
    [(while_it_started(), "A training worker .* while it started, 3 times"), (ray.exceptions.RayActorError(), "The process that leads .*, 3 times")],
)
def test_what_always_dies_is_given_up_with_a_sentence(end, sentence) -> None:
    with pytest.raises(ProcessDied, match=sentence):
        workers_of_ray._ended(Trainer(*[end] * 3))


def test_a_fault_of_the_controller_is_raised_as_it_is() -> None:
    trainer = Trainer(ray.train.ControllerError(ZeroDivisionError("ours")), "never asked for")
    with pytest.raises(ray.train.ControllerError, match="ours"):
        workers_of_ray._ended(trainer)
    assert trainer.ends == ["never asked for"]
