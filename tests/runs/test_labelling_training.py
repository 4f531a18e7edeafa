"""A folder of documents to learn from: which are chosen, that none is an audit's, and that a run reads its file."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from audits import csv_rows, questions, truth
from endpoint import free_port
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from tiny import tiny_backbone

from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.cli import main
from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import DataError
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import Choice, Folder, open_folder
from selftrain.runs.labelling.selection import choose
from selftrain.runs.labelling.successor import experiment_of
from selftrain.runs.labelling.training import _embeddings

ONE = "browser-one"
LABEL = ["label", "--port", str(free_port())]
TRAIN = ["--training", "bundle", "--documents", "documents.csv"]
AUDIT = ["audit", "bundle", "--documents", "documents.csv", "--answers", "training/training.csv"]


@pytest.fixture
def training(here, monkeypatch) -> Folder:
    """20 of 120 documents to learn from, none of which the audit asks about; the page is not served."""
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    assert main([*LABEL, "training", *TRAIN, "--budget", "20", "--apart-from", "audit"]) == 0
    return open_folder(Path("training"))


def id_of(key: str) -> str:
    return key.partition("-")[2]


def test_no_document_has_both_purposes(training) -> None:
    asked = {id_of(row["id"]) for row in questions()}
    chosen = [id_of(one.key) for one in training.questions]
    assert len(chosen) == 20 == len(set(chosen)) and not asked & set(chosen)
    assert len({row["id"] for row in csv_rows(training.csv({}))}) == 120  # a run reads all of them, unlabeled ones too
    assert training.accuracy({training.questions[0].key: "sport"}) is None


def test_answers_of_training_are_no_answers_of_an_audit(training, capsys) -> None:
    desk = Desk(training)
    desk.answer(ONE, training.questions[0].key, "sport")
    training.write(desk.answers())
    capsys.readouterr()
    assert main(AUDIT) == 2 and "which is none of this audit" in capsys.readouterr().err
    (training.path / "design.json").write_bytes(Path("audit/design.json").read_bytes())
    with pytest.raises(DataError, match="answers have one purpose"):
        open_folder(training.path)


def test_the_file_of_training_is_what_a_run_with_few_labels_reads(training, capsys) -> None:
    desk = Desk(training)
    answers = {}
    for place, one in enumerate(training.questions):
        answers[one.key] = {0: "none of these", 1: "skip"}.get(place, truth(one.text))
        desk.answer(ONE, one.key, answers[one.key])
    file = training.write(desk.answers())
    with file.open(newline="", encoding="utf-8") as opened:
        written = {row["id"]: row["label"] for row in csv.DictReader(opened)}
    assert training.questions[0].key not in written and written[training.questions[1].key] == "" and len(written) == 119
    data = {"source": str(file), "label_column": "label", "classes": ["sport", "business"], "test_documents": 0}
    experiment = load(None, [], {"data": data | {"supervision": "few", "labels_per_class": 20}})
    corpus, labels = load_corpus(experiment.data)
    granted = grant(corpus, labels, experiment.data, seed=0).granted
    assert {id_: corpus.class_names[label] for id_, label in granted.items()} == {
        id_of(key): answer for key, answer in answers.items() if answer not in ("none of these", "skip")
    }
    capsys.readouterr()
    assert main([*LABEL, "training"]) == 0  # the page is not served
    last = capsys.readouterr().out.splitlines()[-1]
    assert main([*shlex.split(last)[2:], "--dry-run"]) == 0 and "- sport\n  - business" in capsys.readouterr().out
    counts = Counter(answer for answer in answers.values() if answer in ("sport", "business"))
    assert f"data.labels_per_class={max(counts.values())}" in last
    ids = set(corpus.unlabeled.ids)
    assert len(ids) == 119 and id_of(training.questions[0].key) not in ids and id_of(training.questions[1].key) in ids


def test_a_second_folder_goes_on_from_the_labels_of_the_first(training, here) -> None:
    desk = Desk(training)
    for one in training.questions:
        desk.answer(ONE, one.key, truth(one.text))
    training.write(desk.answers())
    words = ["--documents", "training/training.csv", "--label-column", "label", "--apart-from", "audit", "--budget", "10"]
    assert main([*LABEL, "second", "--training", "bundle", *words]) == 0
    second = open_folder(Path("second"))
    before = {id_of(one.key) for one in training.questions}
    assert len(second.questions) == 10 and not before & {id_of(one.key) for one in second.questions}
    kept = {id_of(row["id"]): row["label"] for row in csv_rows(second.csv(Desk(second).answers())) if row["label"]}
    assert kept == {id_of(one.key): truth(one.text) for one in training.questions}


def test_documents_are_chosen_before_the_head_that_was_trained(tmp_path) -> None:
    """The head of this bundle makes all documents one; without it they are as far apart as the encoder has them."""
    backbone = tiny_backbone(tmp_path / "encoder")
    texts = ["the team won", "the bank lost", "a film and its music"]
    wanted = backbone.encode(texts)
    dense = Dense(32, 32, bias=True, activation_function=torch.nn.Identity())
    torch.nn.init.zeros_(dense.linear.weight)
    whole = SentenceTransformer(modules=[*backbone, dense], device="cpu")
    card = BundleCard(name="toy", labels=("sport", "business"), method="x", experiment={"model": {"train": "head"}})
    bundle = write_bundle(tmp_path / "bundle", backbone=whole, prototypes=torch.ones(2, 32), card=card)
    assert np.allclose(_embeddings(bundle, texts, card), wanted, atol=1e-5)
    full = card.model_copy(update={"experiment": {"model": {"train": "full"}}})
    assert np.ptp(_embeddings(bundle, texts, full), axis=0).max() < 1e-5


def test_the_choice_begins_with_what_stands_for_most_and_never_repeats() -> None:
    """Three heaps of 30, 20 and 10 equal documents: one of each, the largest first; then anything."""
    rows = np.repeat(np.eye(3), [30, 20, 10], axis=0)
    order = choose(rows, 5)
    assert rows[order[:3]].argmax(axis=1).tolist() == [0, 1, 2] and len(set(order.tolist())) == 5
    assert rows[choose(rows, 3, weights=np.repeat([0.1, 0.1, 1.0], [30, 20, 10]))].argmax(axis=1).tolist() == [2, 0, 1]  # 10 of weight 1 count more
    assert rows[choose(3 * rows, 2, labeled=np.array([[2.0, 0, 0]]))].argmax(axis=1).tolist() == [1, 2]  # the first heap has a label


def test_the_choice_is_the_greedy_one_by_hand() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(40, 3)), rng.random(40)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def covered(chosen: Iterable[int]) -> float:
        return sum(weight * max(0.0, *(float(unit @ units[one]) for one in chosen), 0.0) for unit, weight in zip(units, weights, strict=True))

    chosen: list[int] = []
    for _ in range(6):
        chosen.append(max((one for one in range(40) if one not in chosen), key=lambda one: covered([*chosen, one])))
    assert choose(rows, 6, weights=weights).tolist() == chosen


@pytest.mark.parametrize(("rows", "weights", "count"), [((4,), 4, 1), ((4, 2), 3, 1), ((4, 2), 4, 5), ((4, 2), 4, 0)])
def test_a_choice_of_shapes_that_do_not_fit_is_refused(rows, weights, count) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        choose(np.ones(rows), count, weights=np.ones(weights))


def test_a_successor_has_the_groups_of_its_bundle(tmp_path) -> None:
    choice = Choice(classes=("sport", "law", "weather"), parents=(("free time", "outside"), ("work",), ()), questions=("t1",))
    folder = Folder(tmp_path, "training", choice.classes, tmp_path / "questions.csv", (), {}, choice=choice)
    assert experiment_of(folder, {}).data.class_paths == (("free time", "outside", "sport"), ("work", "law"), ("weather",))
    flat = Folder(tmp_path, "training", choice.classes, tmp_path / "questions.csv", (), {}, choice=choice.model_copy(update={"parents": ()}))
    assert experiment_of(flat, {}).data.classes == choice.classes
