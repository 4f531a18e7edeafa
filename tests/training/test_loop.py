"""The loop: resumed training continues exactly, a finished one is a no-op, and two workers take the step of one."""

import copy

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import tiny_backbone

from selftrain import methods
from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.models.encoder import TextEncoder
from selftrain.models.workers import Workers
from selftrain.training.loop import Validation, train

SELF_TRAINING = parse(
    {"method": {"rounds": 3, "steps_per_round": 2, "learning_rate": 1e-3, "input_augmentation": False, "conditional_augmentation": False}}
)


def build(corpus, folder, workers=None):
    return methods.build(SELF_TRAINING, corpus, TextEncoder(tiny_backbone(folder), max_tokens=16), workers=workers, seed=5)


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

    validation = Scripted(corpus.unlabeled.texts[:4], [0, 0, 1, 1])
    report = lambda figures, state: states.append(copy.deepcopy(state))  # noqa: E731
    history = train(watched, texts=no_texts, report=report, seed=5, validation=validation)
    assert [entry["validation_accuracy"] for entry in history.rounds] == [0.5, 0.75, 0.75]
    assert history.best["round"] == 1 and history.best["accuracy"] == 0.75  # of equal ones the first
    assert all(torch.equal(value, states[1]["method"]["encoder"][name]) for name, value in history.best["method"]["encoder"].items())
    assert all(torch.equal(a, b) for a, b in zip(plain.encoder.state_dict().values(), watched.encoder.state_dict().values(), strict=True))


def test_validation_accuracy_is_the_share_that_is_right(corpus, tmp_path):
    student = build(corpus, tmp_path / "a").student()
    predicted = student.predict(corpus.unlabeled.texts[:8]).argmax(1).tolist()
    wrong = [predicted[0] ^ 1, predicted[1] ^ 1, *predicted[2:]]
    assert Validation(corpus.unlabeled.texts[:8], wrong).accuracy(student) == 0.75


def _gradients(rank, size, port, corpus, folder, results):
    torch.set_num_threads(1)
    encoder = TextEncoder(tiny_backbone(folder), max_tokens=16)  # before the group: inside one, transformers saves on rank 0 alone
    if size > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    experiment = parse({"method": {"rounds": 1, "steps_per_round": 1, "per_class": 3}})
    method = methods.build(experiment, corpus, encoder, workers=Workers(rank, size), seed=0)
    method.refresh(0, _written)
    method.encoder.eval()  # without dropout the two ways can be compared
    method.optimizer.zero_grad = lambda **how: None  # the gradient is looked at after the step
    method.step(0, 0)
    if rank == 0:
        results.put({name: parameter.grad.clone().numpy() for name, parameter in method.encoder.named_parameters() if parameter.grad is not None})
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def _written(requests):
    return {request: f"team {request.document_id[:3]} {request.kind} {request.label}" for request in requests}


def test_gradients_of_two_workers_equal_those_of_one(corpus, tmp_path):
    import socket

    found = []
    for size in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        results = context.Queue()
        processes = [
            context.Process(target=_gradients, args=(rank, size, port, corpus, tmp_path / f"{size}-{rank}", results)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        found.append(results.get(timeout=120))
        for process in processes:
            process.join(timeout=60)
            assert process.exitcode == 0
    one, two = found
    assert one.keys() == two.keys()
    largest = max(abs(gradient).max() for gradient in one.values())
    assert largest > 0
    for name in one:
        assert abs(one[name] - two[name]).max() <= 1e-4 * largest, name
