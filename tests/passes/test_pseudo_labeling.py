"""Pseudo-labels by actors of a real Ray: the same selection and the same weights as in one process, also when an actor is killed on the way.

A worker of Ray Train whose documents actors rank: tests/cluster.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from ray_sessions import session_that_imports_tests
from tiny import tiny_backbone

from selftrain.config import Experiment, TrainingConfig, parse
from selftrain.errors import ServiceError
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot import selection
from selftrain.methods.zero_shot.selection import Ranking
from selftrain.models.encoder import TextEncoder
from selftrain.passes import pseudo_labeling
from selftrain.passes.pseudo_labeling import ClusterRanking, on_cluster
from selftrain.runtime.cluster import needs
from selftrain.training.loop import train

pytestmark = pytest.mark.ray

TRAINING = TrainingConfig(threads=1, gpu=False, pseudo_labeling="cluster")
GENCO = {"name": "genco", "rounds": 2, "steps_per_round": 2, "per_class": 3, "first_share": 0.3, "last_share": 0.6, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def ray_session():
    with session_that_imports_tests(cpus=2):
        yield


@pytest.fixture
def small_blocks(monkeypatch):
    """Four blocks of the corpus' 24 documents."""
    monkeypatch.setattr(selection, "BLOCK", 7)


def write(requests):
    """Continuations that move an embedding, and texts on a label; one document in three has none."""
    return {request: f"{request.document_id[:2]} goal {request.sample} {request.label}" for request in requests if request.document_id[0] > "5"}


def opened(folder: Path) -> TextEncoder:
    return TextEncoder(tiny_backbone(folder), max_tokens=16, batch_size=8)


def trained(method, folder, corpus, ranking_pass=None):
    """The method after its rounds, and what they reported."""
    torch.manual_seed(0)
    built = resolve(parse({"method": method})).build(corpus, opened(folder), seed=0)
    if ranking_pass is not None:
        built.ranking_pass = ranking_pass
    return built, train(built, texts=write, report=lambda figures, state: None, seed=0).rounds


def test_actors_train_the_weights_that_one_process_trains(ray_session, small_blocks, one_thread, corpus, tmp_path):
    here, figures = trained(GENCO, tmp_path / "encoder", corpus)
    made = ClusterRanking(corpus, partial(opened, tmp_path / "encoder"), write, TRAINING)
    there, others = trained(GENCO, tmp_path / "encoder", corpus, made)
    assert len(here.selection) and others == figures
    assert here.selection.groups == there.selection.groups
    assert all(torch.equal(here.selection.targets[index], there.selection.targets[index]) for index in here.selection.label_of)
    assert all(torch.equal(value, there.encoder.state_dict()[name]) for name, value in here.encoder.state_dict().items())


@dataclass(frozen=True)
class Deadly:
    """A scorer that kills its process, once, on the third block."""

    scorer: object
    folder: Path

    def reader(self, encoder):
        return self.scorer.reader(encoder)

    def __call__(self, embeddings):
        if len(list(self.folder.iterdir())) == 2:
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(len(list(self.folder.iterdir())))).touch()
        return self.scorer(embeddings)


def test_the_block_of_a_killed_actor_is_ranked_by_another(ray_session, small_blocks, one_thread, corpus, tmp_path):
    built, _ = trained(GENCO | {"rounds": 1}, tmp_path / "encoder", corpus)
    scorer, ranked = built._scorer(), ClusterRanking(corpus, partial(opened, tmp_path / "encoder"), write, TRAINING)
    (tmp_path / "blocks").mkdir()
    expected = Ranking.merged(built._ranked(scorer, 5, write, 1, untrained=False), 5)
    found = ranked(built.encoder, Deadly(scorer, tmp_path / "blocks"), 5, 1)
    assert (tmp_path / "blocks" / "died").exists()
    assert found.seen == len(corpus.unlabeled)
    assert torch.equal(found.documents, expected.documents) and torch.equal(found.targets, expected.targets)


def unreachable(requests):
    raise ServiceError("The server does not answer; start it.")


def test_what_the_text_channel_says_in_an_actor_is_said_here(ray_session, corpus, tmp_path):
    built, _ = trained(GENCO | {"rounds": 1}, tmp_path / "encoder", corpus)
    ranked = ClusterRanking(corpus, partial(opened, tmp_path / "encoder"), unreachable, TRAINING)
    with pytest.raises(ServiceError, match=r"^The server does not answer; start it\.$"):
        ranked(built.encoder, built._scorer(), 5, 1)


def test_actors_are_for_large_corpora_on_several_nodes_with_room(monkeypatch):
    nodes, free = [{"Alive": True}] * 2 + [{"Alive": False}], {"CPU": 4.0, "GPU": 0.5}
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.available_resources", lambda: free)
    auto, large = replace_training(pseudo_labeling="auto"), pseudo_labeling.LARGE
    assert on_cluster(auto, large) and not on_cluster(auto, large - 1)
    assert not on_cluster(replace_training(pseudo_labeling="workers"), large) and on_cluster(TRAINING, 1)
    assert not on_cluster(replace_training(pseudo_labeling="auto", threads=5), large)
    assert not on_cluster(replace_training(pseudo_labeling="auto", gpu=True), large)
    assert on_cluster(replace_training(pseudo_labeling="auto", gpu=0.5), large)
    nodes[0] = {"Alive": False}
    assert not on_cluster(auto, large)


def replace_training(**changes) -> TrainingConfig:
    return TrainingConfig.model_validate(TRAINING.model_dump() | changes)


def test_a_run_asks_for_the_room_of_an_actor():
    plain, more = (needs(Experiment(training=replace_training(pseudo_labeling=value, workers=2)), None) for value in ("workers", "cluster"))
    assert (plain.cpus, more.cpus) == (3.0, 4.0) and more.memory_gb > plain.memory_gb
    gpus = Experiment(training=replace_training(workers=2, gpu=True))
    assert needs(gpus, None).gpus == 3 and len(needs(gpus, None).claims) == 3
