"""The loop: by a method that writes down what is done with it (order, seeds, the mode of the encoder, time, means of losses, the best round, what a state holds),
and by GenCo on a tiny encoder. The former has one weight, and a clock that only the method, the language model and the validation move, so that every number is
known beforehand.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.corpus import Documents, TrueLabels
from selftrain.data.texts import no_texts
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.workers import Workers
from selftrain.training import loop
from selftrain.training.loop import Fitted, Validation, train


class Clock:
    """Stands still but where someone says how long it took."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Recorded:
    """A method of three rounds; every step adds one to its weight."""

    def __init__(self, clock, rounds=3, steps=(2, 1, 3), rank=0, wait=5.0):
        self.clock, self.rounds, self.per_round, self.wait = clock, rounds, steps, wait
        self.encoder, self.workers, self.done = torch.nn.Linear(1, 1, bias=False), Workers(rank, 1), []
        torch.nn.init.zeros_(self.encoder.weight)
        self.encoder.eval()

    def refresh(self, round_, texts):
        self.done.append(("refresh", round_, self.encoder.training, torch.initial_seed()))
        self.clock.now += 3.0
        if self.wait:
            assert texts(["wanted"]) == {"wanted": "answer"}
        return {"asked": 1.0}

    def steps(self, round_):
        assert self.done[-1][:2] == ("refresh", round_)  # how many there are is known after the refresh
        return self.per_round[round_]

    def step(self, round_, step):
        self.done.append(("step", round_, step, self.encoder.training))
        self.clock.now += 2.0
        with torch.no_grad():
            self.encoder.weight += 1.0
        return {"loss": 10.0 * round_ + step} | ({"rare": 6.0} if step == 0 else {})

    def state(self):
        self.done.append(("state", self.encoder.training))
        return {"encoder": self.encoder.state_dict(), "optimizer": {"moments": 1}, "scheduler": {"step": 2}}

    def load_state(self, state):
        self.encoder.load_state_dict(state["encoder"])

    def student(self):
        return self


class Scripted(Validation):
    """Its accuracies are known; it takes time, and looks at the student in the mode that it is evaluated in."""

    def __init__(self, clock, accuracies):
        super().__init__([], [])
        object.__setattr__(self, "clock", clock)
        object.__setattr__(self, "scores", iter(accuracies))

    def accuracy(self, student):
        assert not student.encoder.training
        self.clock.now += 7.0
        return next(self.scores)


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(loop, "time", found)
    return found


def slow_texts(clock):
    def texts(requests):
        clock.now += 5.0
        return dict.fromkeys(requests, "answer")

    return texts


def run(method, clock, reports=None, **how):
    report = (lambda figures, state: reports.append((figures, copy.deepcopy(state)))) if reports is not None else lambda figures, state: None
    return train(method, texts=slow_texts(clock), report=report, seed=how.pop("seed", 4), **how)


def test_a_round_is_a_refresh_and_its_steps_with_dropout_on_in_the_steps_alone(clock):
    method = Recorded(clock)
    method.encoder.train()  # whatever it was before
    run(method, clock)
    assert [entry[:3] for entry in method.done if entry[0] == "step"] == [
        ("step", round_, step) for round_, n in enumerate((2, 1, 3)) for step in range(n)
    ]
    assert all(entry[3] for entry in method.done if entry[0] == "step")
    assert [entry[0] for entry in method.done] == ["refresh", *["step"] * 2, "state", "refresh", "step", "state", "refresh", *["step"] * 3, "state"]
    assert [entry[2] for entry in method.done if entry[0] == "refresh"][1:] == [False, False]
    assert not any(entry[1] for entry in method.done if entry[0] == "state")
    assert not method.encoder.training


def test_without_a_round_the_encoder_is_left_in_the_mode_that_it_is_evaluated_in(clock):
    method = Recorded(clock, rounds=0)
    method.encoder.train()
    history = run(method, clock)
    assert not method.encoder.training
    assert history == Fitted(method, [], 0.0, None)


def test_randomness_of_a_round_follows_from_seed_round_and_rank(clock):
    def seeds(seed, rank=0):
        method = Recorded(clock, rank=rank)
        run(method, clock, seed=seed)
        return [entry[3] for entry in method.done if entry[0] == "refresh"]

    # Published numbers were made with these.
    assert seeds(4) == [4_000_012, 4_001_021, 4_002_030]
    assert seeds(4, rank=2) == [4_000_014, 4_001_023, 4_002_032]
    assert seeds(2**62)[0] == (2**62 * 1_000_003) % 2**63
    every = [number for seed in range(3) for rank in range(4) for number in seeds(seed, rank)]
    assert len(set(every)) == len(every)


def test_figures_of_a_round_are_those_of_the_refresh_and_the_means_of_the_losses(clock):
    reports = []
    history = run(Recorded(clock), clock, reports)
    assert history.rounds == [
        {"round": 1.0, "asked": 1.0, "loss": 0.5, "rare": 3.0},
        {"round": 2.0, "asked": 1.0, "loss": 10.0, "rare": 6.0},
        {"round": 3.0, "asked": 1.0, "loss": pytest.approx(21.0), "rare": pytest.approx(2.0)},
    ]
    assert [figures for figures, _ in reports] == history.rounds
    assert [state["round"] for _, state in reports] == [0, 1, 2]
    assert [state["rounds"] for _, state in reports] == [history.rounds[:1], history.rounds[:2], history.rounds]
    assert [float(state["method"]["encoder"]["weight"]) for _, state in reports] == [2.0, 3.0, 6.0]
    assert all(state.keys() == {"round", "method", "rounds", "seconds", "best"} for _, state in reports)


def test_seconds_are_of_training_without_waiting_for_texts_and_without_validation(clock):
    reports = []
    history = run(Recorded(clock), clock, reports, validation=Scripted(clock, [0.1, 0.2, 0.3]))
    # A refresh takes 3 seconds and a step 2; the language model's 5 and the validation's 7 do not count.
    assert [state["seconds"] for _, state in reports] == [7.0, 12.0, 21.0]
    assert history.seconds == 21.0


def test_waiting_counts_where_the_language_model_fails_too(clock):
    def failing(requests):
        clock.now += 5.0
        raise RuntimeError("away")

    watch = loop._Stopwatch(failing)
    for waited in (5.0, 10.0):
        with pytest.raises(RuntimeError, match="away"):
            watch(["wanted"])
        assert watch.seconds == waited


@pytest.mark.parametrize(("accuracies", "best"), [((0.5, 0.75, 0.75), 1), ((0.9, 0.75, 0.8), 0), ((0.1, 0.2, 0.3), 2), ((0.0, 0.0, 0.0), 0)])
def test_the_best_round_is_the_first_of_the_highest(clock, accuracies, best):
    method, reports = Recorded(clock), []
    history = run(method, clock, reports, validation=Scripted(clock, accuracies))
    assert [figures["validation_accuracy"] for figures, _ in reports] == list(accuracies)
    assert history.best["round"] == best and history.best["accuracy"] == accuracies[best]
    # The weights of then, though training went on; without what only training needs.
    assert float(history.best["method"]["encoder"]["weight"]) == [2.0, 3.0, 6.0][best]
    assert history.best["method"]["optimizer"] is None and history.best["method"]["scheduler"] is None
    assert reports[-1][1]["method"]["optimizer"] == {"moments": 1}  # a checkpoint keeps them
    assert reports[0][1]["best"]["round"] == 0
    assert reports[-1][1]["best"]["round"] == best


def test_without_validation_there_is_no_best_round(clock):
    reports = []
    assert run(Recorded(clock), clock, reports).best is None
    assert all("validation_accuracy" not in figures and state["best"] is None for figures, state in reports)


@pytest.mark.parametrize("after", [0, 1])
def test_a_resumed_training_goes_on_where_the_state_was_taken(clock, after):
    whole, rest = [], []
    accuracies = (0.5, 0.9, 0.7)
    first = run(Recorded(clock), clock, whole, validation=Scripted(clock, accuracies))
    method, state = Recorded(clock), whole[after][1]
    again = run(method, clock, rest, validation=Scripted(clock, accuracies[after + 1 :]), resume=copy.deepcopy(state))
    assert [entry[1] for entry in method.done if entry[0] == "refresh"] == list(range(after + 1, 3))
    assert [figures for figures, _ in rest] == [figures for figures, _ in whole[after + 1 :]]
    assert [entry["seconds"] for _, entry in rest] == [entry["seconds"] for _, entry in whole[after + 1 :]]
    assert again.rounds == first.rounds and again.seconds == first.seconds
    assert again.best["round"] == 1 and again.best["accuracy"] == 0.9 and float(again.best["method"]["encoder"]["weight"]) == 3.0
    assert method.encoder.weight.item() == 6.0
    assert len(state["rounds"]) == after + 1


def test_the_state_that_is_resumed_from_is_left_as_it_is(clock):
    reports = []
    run(Recorded(clock), clock, reports)
    state = copy.deepcopy(reports[0][1])
    run(Recorded(clock), clock, resume=state)
    assert len(state["rounds"]) == 1


def test_a_state_of_before_there_was_a_best_round_is_taken(clock):
    reports = []
    run(Recorded(clock), clock, reports)
    state = {name: value for name, value in reports[0][1].items() if name != "best"}
    assert run(Recorded(clock), clock, resume=state).best is None


def test_a_finished_training_is_done_no_further(clock):
    reports = []
    first = run(Recorded(clock), clock, reports)
    method = Recorded(clock)
    method.encoder.train()
    again = run(method, clock, resume=reports[-1][1])
    assert method.done == [] and again.rounds == first.rounds and again.seconds == first.seconds
    assert method.encoder.weight.item() == 6.0 and not method.encoder.training


def test_a_round_without_a_step_reports_its_refresh(clock):
    history = run(Recorded(clock, rounds=1, steps=(0,)), clock)
    assert history.rounds == [{"round": 1.0, "asked": 1.0}]


def test_accuracy_is_the_share_that_is_right():
    class Student:
        def predict(self, documents):
            return torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])[: len(documents)]

    assert Validation(["a", "b", "c"], [0, 0, 0]).accuracy(Student()) == pytest.approx(2 / 3, rel=1e-12)


# --- GenCo on a tiny encoder

SELF_TRAINING = parse(
    {"method": {"rounds": 3, "steps_per_round": 2, "learning_rate": 1e-3, "input_augmentation": False, "conditional_augmentation": False}}
)


def build(corpus, folder):
    return resolve(SELF_TRAINING).build(corpus, TextEncoder(tiny_backbone(folder), max_tokens=16), seed=5)


def test_a_resumed_training_ends_with_the_same_weights(corpus, tmp_path):
    states = []
    whole = build(corpus, tmp_path / "a")
    history = train(whole, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=5)
    rest = build(corpus, tmp_path / "b")
    reported = []
    again = train(rest, texts=no_texts, report=lambda figures, state: reported.append(figures["round"]), seed=5, resume=states[0])
    assert reported == [2.0, 3.0]  # the finished round is not done twice
    assert again.rounds == history.rounds
    assert all(torch.equal(a, b) for a, b in zip(whole.encoder.state_dict().values(), rest.encoder.state_dict().values(), strict=True))


def test_a_finished_training_is_a_no_op(corpus, tmp_path):
    states = []
    whole = build(corpus, tmp_path / "a")
    train(whole, texts=no_texts, report=lambda figures, state: states.append(copy.deepcopy(state)), seed=5)
    again = build(corpus, tmp_path / "b")
    history = train(again, texts=no_texts, report=lambda figures, state: states.append(state), seed=5, resume=states[-1])
    assert len(states) == 3
    assert len(history.rounds) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.encoder.state_dict().values(), again.encoder.state_dict().values(), strict=True))


def test_validation_keeps_the_best_round_and_changes_no_weight(corpus, tmp_path):
    plain, watched = build(corpus, tmp_path / "a"), build(corpus, tmp_path / "b")
    train(plain, texts=no_texts, report=lambda figures, state: None, seed=5)
    scores, states = iter([0.5, 0.75, 0.75]), []

    class Scripted(Validation):
        def accuracy(self, student):
            super().accuracy(student)  # the real one, for what it may do to the weights
            return next(scores)

    validation = Scripted(corpus.unlabeled.contents[:4], [0, 0, 1, 1])
    report = lambda figures, state: states.append(copy.deepcopy(state))  # noqa: E731
    history = train(watched, texts=no_texts, report=report, seed=5, validation=validation)
    assert [entry["validation_accuracy"] for entry in history.rounds] == [0.5, 0.75, 0.75]
    assert history.best["round"] == 1 and history.best["accuracy"] == 0.75  # of equal ones the first
    assert all(torch.equal(value, states[1]["method"]["encoder"][name]) for name, value in history.best["method"]["encoder"].items())
    assert all(torch.equal(a, b) for a, b in zip(plain.encoder.state_dict().values(), watched.encoder.state_dict().values(), strict=True))


def test_test_documents_are_scored_after_every_round_and_change_nothing(corpus, tmp_path):
    plain, watched = build(corpus, tmp_path / "a"), build(corpus, tmp_path / "b")
    train(plain, texts=no_texts, report=lambda figures, state: None, seed=5)
    tested = Validation(corpus.unlabeled.contents[:4], [0, 0, 1, 1])
    history = train(watched, texts=no_texts, report=lambda figures, state: None, seed=5, tested=tested)
    assert [set(entry) >= {"test_accuracy", "test_auc"} for entry in history.rounds] == [True] * 3
    last = watched.student().predict(tested.documents)
    assert history.rounds[-1]["test_accuracy"] == float((last.argmax(dim=1) == torch.tensor(tested.labels)).double().mean())
    pairs = [(float(last[one, 1]), float(last[other, 1])) for one in (2, 3) for other in (0, 1)]
    assert history.rounds[-1]["test_auc"] == sum(one > other for one, other in pairs) / 4
    assert history.best is None  # nothing is chosen by them
    assert all(torch.equal(a, b) for a, b in zip(plain.encoder.state_dict().values(), watched.encoder.state_dict().values(), strict=True))


def test_the_test_documents_are_those_that_have_a_label(corpus):
    texts, ids = corpus.unlabeled.contents[:3], corpus.unlabeled.ids[:3]
    tested = replace(corpus, test=Documents(ids, texts))
    assert Validation.of_test(tested, TrueLabels({}, {ids[2]: 1, ids[0]: 0})) == Validation([texts[0], texts[2]], [0, 1])
    assert Validation.of_test(tested, TrueLabels({}, {})) is None


def test_validation_accuracy_is_the_share_that_is_right(corpus, tmp_path):
    student = build(corpus, tmp_path / "a").student()
    predicted = student.predict(corpus.unlabeled.contents[:8]).argmax(1).tolist()
    wrong = [predicted[0] ^ 1, predicted[1] ^ 1, *predicted[2:]]
    assert Validation(corpus.unlabeled.contents[:8], wrong).accuracy(student) == 0.75


def test_every_step_is_told_counted_from_one(clock):
    told = []
    run(Recorded(clock), clock, step_done=lambda *at: told.append(at))
    assert told == [(1, 3, 1, 2), (1, 3, 2, 2), (2, 3, 1, 1), (3, 3, 1, 3), (3, 3, 2, 3), (3, 3, 3, 3)]
