"""Two workers take the step of one, whatever the method: the gradients agree without dropout, and with it both workers end with the same state, bit for bit.

One pair of processes does the two-worker side of all methods; the one-worker side runs in the test's own process.
"""

from __future__ import annotations

import copy
import json
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import tiny_backbone, tiny_masked

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.errors import SelfTrainError
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.models.workers import Workers
from selftrain.training.loop import train

# Odd sizes, so that the two shares of a batch differ.
FEW = {"rounds": 2, "steps_per_round": 1, "batch_size": 5, "unlabeled_ratio": 1, "ramp": 0.0}
NOISY = {"epochs": 2, "batch_size": 13}
GENCO = {"rounds": 2, "steps_per_round": 1, "per_class": 3}
OPTIONS = {
    "genco": GENCO,
    "pesco": GENCO,
    # One round: in a second one documents that are nearly alike change places by rounding, and with them what a batch draws.
    "combined": {"rounds": 1, "steps_per_round": 2, "per_class": 3, "ns3l_threshold": 0.4, "outer_iterations": 2, "inner_learning_rate": 0.05},
    "supervised": {"epochs": 2, "batch_size": 13},
    "sungen": NOISY | {"outer_iterations": 2, "inner_learning_rate": 0.05},
    "zerogen": NOISY,
    "confidence": NOISY | {"epochs": 1},
    "co_teaching": NOISY | {"noise_rate": 0.4, "ramp_epochs": 1},
    "meta_weight_net": NOISY | {"validation_share": 0.3},
    "temporal_ensembling": NOISY,
    "tf_kd": FEW | {"rounds": 1},
    "seal": FEW | {"objective_steps": 2},
    "seal_partial": FEW | {"objective_steps": 2},
    "ipet": {
        "patterns": ["{mask}: {text}", "{text} ({mask})"],
        "repeats": 1,
        "generations": 1,
        "first_examples": 4,
        "first_candidates": 5,
        "model_steps": 2,
        "batch_size": 5,
        "unlabeled_batch": 3,
        "classifier_steps": 2,
        "classifier_batch": 5,
    },
    "lotclass": {
        "top_words": 4,
        "vocabulary": 4,
        "match_threshold": 2,
        "fewest_documents": 2,
        "batch_size": 7,
        "mcp_epochs": 1,
        "mcp_learning_rate": 1e-3,
        "self_training_epochs": 1,
        "update_interval": 2,
    },
}
MORE = [  # forms of a method that take another way through its code
    ("genco", GENCO | {"input_augmentation": False, "conditional_augmentation": False}),
    ("genco", GENCO | {"label_prompt": "released"}),
    ("genco", GENCO | {"text_check": 1.0}),  # texts are refused after a look at them
    ("tf_kd", FEW | {"variant": "reg"}),
    ("seal", FEW | {"form": "released", "objective_steps": 2}),
    ("seal_partial", FEW | {"form": "released", "start": 0.0}),
    ("valen", FEW | {"warm_up": 0.0}),  # the second network from the first step on
    ("idgp", FEW | {"warm_up": 0.0}),
    ("sungen", NOISY | {"outer_iterations": 2, "budget": 9}),
    ("ssc", FEW | {"threshold": 0.5, "batch_size": 1}),  # more workers than labeled documents in a batch
    ("fixmatch", FEW | {"threshold": 0.5, "simclr_weight": 0.2}),
    ("fixmatch", FEW | {"threshold": 0.5, "optimizer": "sgd", "schedule": "cosine", "decayed": "weights", "average": 0.7}),
    ("vat", FEW | {"ns3l_weight": 0.3, "entropy_weight": 0.1, "pseudo_weight": 0.1, "pseudo_threshold": 0.5}),
    ("ns3l", FEW | {"ns3l_negatives": "exclude_nearest"}),
]
# Binary relevance has no gradients: every worker solves the same equations of all documents.
CASES = [(name, OPTIONS.get(name, FEW)) for name in methods.METHODS if name != "binary_relevance"] + MORE
ENCODERS = {"head": HeadEncoder, "full": TextEncoder}
GROUPS = {"sport": ["team", "goal", "match"], "money": ["bank", "market", "profit"]}  # what the masked language model knows


def written(requests):
    return {request: f"team {request.document_id[:3]} {request.kind} {request.label}" for request in requests}


def seen_by(name, corpus):
    if methods.method_class(name).supervision == "none":
        return corpus
    ids = corpus.unlabeled.ids
    if methods.method_class(name).supervision == "candidates":
        return replace(corpus, candidates={id_: (0, 1) if place % 3 == 0 else (int(place >= 12),) for place, id_ in enumerate(ids)})
    wrong = {0: 1, 13: 0}
    return replace(corpus, granted={ids[place]: wrong.get(place, int(place >= 12)) for place in (*range(6), *range(12, 19))})


class Watching(Workers):
    """Remembers the gradients that every step is taken with."""

    def average_gradients(self, parameters):
        parameters = list(parameters)
        super().average_gradients(parameters)
        seen = [None if parameter.grad is None else parameter.grad.numpy().copy() for parameter in parameters]
        self.__dict__.setdefault("gradients", []).append(seen)


def kinds_of(name):
    """Encoders that a method is tried with; the masked language model of some replaces either."""
    return ["full"] if methods.method_class(name).masked_lm else list(ENCODERS)


def trained(models, corpus, name, options, kind, workers):
    """Gradients of all steps, the final state and the figures of a short training; or why it is refused."""
    backbone, masked_lm = models
    torch.manual_seed(0)
    encoder = ENCODERS[kind](copy.deepcopy(backbone), max_tokens=16)
    try:
        document = {"model": {"masked_lm": str(masked_lm), "max_tokens": 16}, "method": {"name": name, "learning_rate": 1e-4, **options}}
        method = resolve(parse(document)).build(seen_by(name, corpus), encoder, workers=workers, seed=0)
    except SelfTrainError as error:
        return {"refused": str(error)}
    history = train(method, texts=written, report=lambda figures, state: None, seed=0)
    return {"gradients": workers.gradients, "state": numbers(method.state()), "rounds": history.rounds}


def numbers(state):
    """All tensors of a checkpoint in one list, as arrays that another process can be sent."""
    if isinstance(state, torch.Tensor):
        return [state.detach().numpy().copy()]
    below = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [number for part in below for number in numbers(part)]


def without_dropout(backbone):
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return backbone


def quiet_models(folder):
    """A sentence encoder, and the folder of a masked language model, both without dropout."""
    masked_lm = tiny_masked(folder / "masked", GROUPS)
    config = json.loads((masked_lm / "config.json").read_text())
    (masked_lm / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return without_dropout(tiny_backbone(folder / "sentences")), masked_lm


def pair(rank, port, corpus, folder, results):
    torch.set_num_threads(1)
    # Before there is a group: inside one, transformers saves on rank 0 alone.
    noisy, quiet = (tiny_backbone(folder / f"a{rank}"), tiny_masked(folder / f"m{rank}", GROUPS)), quiet_models(folder / f"b{rank}")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {}
    for number, (name, options) in enumerate(CASES):
        for kind in kinds_of(name):
            found[number, kind, "quiet"] = trained(quiet, corpus, name, options, kind, Watching(rank, 2))
        found[number, "full", "noisy"] = trained(noisy, corpus, name, options, "full", Watching(rank, 2))
    results.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def toy():
    pairs = (("sport team", "goal"), ("money bank", "market"))  # a document says its class's name, as LOTClass needs
    texts = [f"{a} {b} {number}" for a, b in pairs for number in range(12)]
    documents = Documents(tuple(document_id(text) for text in texts), tuple(texts))
    return Corpus("toy", tuple(Label(n, n, n) for n in ("sport", "money")), ("It is about {label}.",), documents, Documents())


@pytest.fixture(scope="module")
def two(tmp_path_factory, toy):
    """[rank] -> (case, encoder, dropout) -> what `trained` gives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    folder = tmp_path_factory.mktemp("pair")
    processes = [context.Process(target=pair, args=(rank, port, toy, folder, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=600) for _ in range(2))
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return quiet_models(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    ("number", "kind"), [pytest.param(n, kind, id=f"{name}-{n}-{kind}") for n, (name, _) in enumerate(CASES) for kind in kinds_of(name)]
)
def test_two_workers_take_the_steps_of_one(two, toy, quiet, number, kind):
    name, options = CASES[number]
    one = trained(quiet, toy, name, options, kind, Watching())
    halves = two[0][number, kind, "quiet"]
    if "refused" in one:
        assert kind == "full" and "model.train must be 'head'" in one["refused"]
        assert halves == one
        return
    assert len(halves["gradients"]) == len(one["gradients"]) > 0
    for step, (whole, shared) in enumerate(zip(one["gradients"], halves["gradients"], strict=True)):
        largest = max(abs(gradient).max() for gradient in whole if gradient is not None)
        assert largest > 0
        for alone, together in zip(whole, shared, strict=True):
            assert (alone is None) == (together is None)
            if alone is not None:
                assert abs(alone - together).max() <= 1e-3 * largest, f"step {step}"


@pytest.mark.parametrize(
    ("number", "kind", "dropout"),
    [
        pytest.param(n, kind, dropout, id=f"{name}-{n}-{kind}-{dropout}")
        for n, (name, _) in enumerate(CASES)
        for kind, dropout in [*((kind, "quiet") for kind in kinds_of(name)), ("full", "noisy")]
    ],
)
def test_both_workers_end_with_the_same_state_and_saw_the_same_losses(two, number, kind, dropout):
    first, second = (two[rank][number, kind, dropout] for rank in range(2))
    assert first.keys() == second.keys()
    if "refused" not in first:
        assert first["rounds"] == second["rounds"]
        assert all((a == b).all() for a, b in zip(first["state"], second["state"], strict=True))


def test_batch_normalization_is_refused_with_more_than_one_worker(toy, quiet):
    """Its statistics would be those of a part of the batch: not the step of one worker, and nobody would notice."""
    encoder = TextEncoder(copy.deepcopy(quiet[0]), max_tokens=16)
    encoder.extra = torch.nn.BatchNorm1d(32)
    experiment = parse({"method": {"name": "cross_entropy", **FEW}})
    resolve(experiment).build(seen_by("cross_entropy", toy), encoder, workers=Workers(0, 1))
    with pytest.raises(SelfTrainError, match=r"training\.workers must be 1.*batch normalization"):
        resolve(experiment).build(seen_by("cross_entropy", toy), encoder, workers=Workers(0, 2))


def test_fewer_items_than_workers_are_encoded_all_the_same():
    class Last(Workers):
        def gather(self, part, total):
            return part

    rows = torch.arange(3.0).view(1, 3)
    assert Last(1, 2).encode(lambda items: rows[: len(items)], ["only"], 3).shape == (0, 3)
    assert Last(0, 2).encode(lambda items: rows[: len(items)], ["only"], 3).tolist() == rows.tolist()
    assert Workers().encode(lambda items: rows, [], 3).shape == (0, 3)
