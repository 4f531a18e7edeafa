"""How the class names lie among the documents before training: from the method to who asked, in one process and out of a worker, and no weight changes by it."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.data.texts import no_texts
from selftrain.errors import OutputError
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.models.names import MOST_DOCUMENTS, NameScores
from selftrain.models.workers import Workers
from selftrain.training.loop import train
from selftrain.training.names import FollowedNames, NamesFile

OPTIONS = {"rounds": 2, "steps_per_round": 2, "learning_rate": 1e-3}
GENCO = {**OPTIONS, "name": "genco", "input_augmentation": False, "conditional_augmentation": False}
SCORES = NameScores((3, 1), torch.tensor([[0.5, 0.1], [0.2, 0.4]], dtype=torch.float64), torch.eye(2, dtype=torch.float64))


def build(corpus, folder, method):
    return resolve(parse({"method": method})).build(corpus, TextEncoder(tiny_backbone(folder), max_tokens=16), seed=5)


def trained(method, **more):
    return train(method, texts=no_texts, report=lambda figures, state: states.append(state), seed=0, **more)


states: list[dict] = []


@pytest.fixture(autouse=True)
def no_states():
    states.clear()


@pytest.mark.parametrize("method", [GENCO, {**GENCO, "target_similarity": "released"}, {**OPTIONS, "name": "pesco"}])
def test_they_are_the_cosines_before_the_first_step(corpus, tmp_path, method):
    untrained = TextEncoder(tiny_backbone(tmp_path / "same"), max_tokens=16)
    documents = untrained.encode(corpus.unlabeled.contents).double()
    prompts = corpus.label_prompts()
    reader = untrained.unnormalized() if method.get("target_similarity") == "released" else untrained
    prototypes = reader.encode([prompt for group in prompts for prompt in group]).double().reshape(2, 2, -1).mean(dim=1)
    prototypes = torch.nn.functional.normalize(prototypes, dim=-1)
    found: list[NameScores] = []
    trained(build(corpus, tmp_path / "own", method), names_read=found.append)
    assert len(found) == 1 and found[0].documents == tuple(range(24))
    assert torch.allclose(found[0].scores, documents @ prototypes.T, atol=1e-6)
    assert torch.allclose(found[0].names, prototypes @ prototypes.T, atol=1e-6)


def test_no_weight_and_no_figure_changes_by_asking(corpus, tmp_path):
    asked, unasked = build(corpus, tmp_path / "a", GENCO), build(corpus, tmp_path / "b", GENCO)
    first, second = trained(asked, names_read=lambda found: None), trained(unasked)
    assert first.rounds == second.rounds
    assert all(torch.equal(value, unasked.encoder.state_dict()[name]) for name, value in asked.encoder.state_dict().items())


def test_a_resumed_training_has_no_names_of_before(corpus, tmp_path):
    trained(build(corpus, tmp_path / "a", GENCO))
    found: list[NameScores] = []
    trained(build(corpus, tmp_path / "b", GENCO), resume=states[0], names_read=found.append)
    assert found == []


def test_a_method_that_learns_from_labels_reads_no_names(corpus, tmp_path):
    labeled = corpus.__class__(**{**corpus.__dict__, "granted": {id_: index % 2 for index, id_ in enumerate(corpus.unlabeled.ids)}})
    found: list[NameScores] = []
    trained(build(labeled, tmp_path / "a", {"name": "cross_entropy", "rounds": 1}), names_read=found.append)
    assert found == []


def test_a_worker_looks_at_its_own_part(corpus, tmp_path):
    method = build(corpus, tmp_path / "a", GENCO)
    method.workers = type("Second", (Workers,), {"together": lambda self, parts: parts})(1, 2)
    method.refresh(0, no_texts)
    assert method.name_scores is not None and method.name_scores.documents == tuple(range(1, 24, 2))


def test_of_many_documents_the_first_are_looked_at():
    found = NameScores.of(torch.rand(MOST_DOCUMENTS + 5, 3), torch.rand(2, 3), range(10, MOST_DOCUMENTS + 15))
    assert found.scores.shape == (MOST_DOCUMENTS, 2) and found.documents[-1] == MOST_DOCUMENTS + 9
    assert float(found.scores.max()) <= 1 + 1e-12 and found.names.diagonal().tolist() == pytest.approx([1, 1])


def test_the_driver_is_told_once_what_a_worker_writes(tmp_path):
    file, found, told = tmp_path / "names.pt", [], threading.Event()

    def read(scores: NameScores) -> None:
        found.append(scores)
        told.set()

    with FollowedNames(file, read):
        NamesFile(file)(SCORES)
        assert told.wait(20)  # while the training goes on
    (one,) = found
    assert one.documents == SCORES.documents and torch.equal(one.scores, SCORES.scores) and torch.equal(one.names, SCORES.names)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_over_at_once_is_told_of_too_and_one_without_names_is_not(tmp_path):
    found: list[NameScores] = []
    followed = FollowedNames(tmp_path / "names.pt", found.append)
    followed._thread = threading.Thread(target=lambda: followed._over.wait() and followed._follow())
    with followed:
        NamesFile(tmp_path / "names.pt")(SCORES)
    assert len(found) == 1
    with FollowedNames(tmp_path / "names.pt", found.append):
        pass
    assert len(found) == 1


def test_what_the_driver_cannot_write_ends_the_run_as_anything_else_does(tmp_path):
    def full(found: NameScores) -> None:
        raise OutputError("no space left")

    with pytest.raises(OutputError, match="no space left"), FollowedNames(tmp_path / "names.pt", full):
        NamesFile(tmp_path / "names.pt")(SCORES)
    with pytest.raises(ValueError, match="of the training"), FollowedNames(tmp_path / "names.pt", full):
        NamesFile(tmp_path / "names.pt")(SCORES)
        raise ValueError("of the training")


def test_a_worker_that_cannot_write_goes_on(tmp_path):
    NamesFile(tmp_path / "missing" / "names.pt")(SCORES)
