"""When further answers will not help, worked out by hand on heaps of documents, and what a folder keeps for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audits import truth
from endpoint import free_port

from selftrain.bundle.pytorch import open_backbone
from selftrain.cli import main
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import Choice, Folder, Question, open_folder
from selftrain.runs.labelling.stopping import Agreed, Looked, Stopping, earlier, predicted, units

LABEL = ["label", "--port", str(free_port())]
TRAIN = ["--training", "bundle", "--documents", "documents.csv"]


def test_as_many_times_fewer_answers_as_the_end_has_more() -> None:
    assert [earlier(50, 50), earlier(80, 20), earlier(20, 80), earlier(7, 0), earlier(1, 500)] == [25, 64, 4, 7, 1]


def test_the_model_is_least_squares_with_a_penalty_and_an_offset() -> None:
    """Against the normal equations, solved over the embeddings instead of over the answers."""
    rng = np.random.default_rng(0)
    rows, pool, labels = rng.normal(size=(12, 3)), rng.normal(size=(200, 3)), np.array([0, 2, 5] * 4)
    wide = np.hstack([units(rows), np.ones((12, 1))])
    weights = np.linalg.solve(wide.T @ wide + np.eye(4), wide.T @ (labels[:, None] == np.array([0, 2, 5])))
    scores = np.hstack([units(pool), np.ones((200, 1))]) @ weights
    assert np.array_equal(predicted(units(7 * pool), units(3 * rows), labels), np.array([0, 2, 5])[scores.argmax(axis=1)])


def test_the_agreement_of_two_classifiers_by_hand() -> None:
    """Of ten documents they agree on eight; one says 0 of six and 1 of four, the other 0 of eight: by chance .6 x .8 + .4 x .2 = .56."""
    one, other = np.array([0] * 6 + [1] * 4), np.array([0] * 8 + [1] * 2)
    found = Agreed.of(one, other)
    assert (found.share, found.kappa) == pytest.approx((0.8, (0.8 - 0.56) / 0.44))
    assert Agreed.of(one, one).kappa == 1.0 and Agreed.of(np.zeros(9, dtype=int), np.zeros(9, dtype=int)) == (1.0, 0.0)


def looked_folder(path: Path, labels: list[int], *, left: int = 10) -> tuple[Folder, dict[str, str]]:
    """Questions about two heaps of documents, of which all but `left` are answered; the classes are `a` and `b`."""
    total = len(labels) + left
    pool = np.repeat(np.eye(2), total, axis=0)
    asked = np.array([(place % 2) * total + place // 2 for place in range(total)])
    Looked(pool, asked, np.zeros((0, 2)), np.zeros(0, dtype=np.int64)).write(path / "documents.npz")
    questions = tuple(Question(f"t{place}-x", "text") for place in range(total))
    choice = Choice(classes=("a", "b"), questions=tuple(one.key for one in questions))
    folder = Folder(path, "training", ("a", "b"), path / "questions.csv", questions, {}, choice=choice)
    return folder, {one.key: "ab"[label] for one, label in zip(questions, labels, strict=False)}  # the last ones have no answer


def test_predictions_that_have_settled_say_stop_and_others_do_not(tmp_path) -> None:
    folder, answers = looked_folder(tmp_path, [0, 1] * 15)
    settled = Stopping(folder).look(answers)
    assert (settled.changed, settled.answers, settled.before, settled.left, settled.stop) == (0.0, 30, 22, 10, True)
    assert settled.says == (
        "Further answers will hardly help: with the first 22 of 30 answers a classifier says the same of 100.0% of the documents; you may stop."
    )
    folder, answers = looked_folder(tmp_path, [0, 0] * 5 + [0, 1] * 10, left=60)  # of the first 10 of 30, none is b
    settled = Stopping(folder).look(answers)
    assert settled.changed == 0.5 and not settled.stop and "something else of 50.0% of the documents" in settled.says


def test_a_classifier_that_says_one_class_of_nearly_everything_has_not_settled(tmp_path) -> None:
    folder, answers = looked_folder(tmp_path, [0, 0] * 14 + [1, 0])  # one answer of another class, which changes nothing
    settled = Stopping(folder).look(answers)
    assert settled.changed == 0.0 and not settled.stop


def test_it_takes_ten_answers_in_a_row(tmp_path) -> None:
    folder, answers = looked_folder(tmp_path, [0, 1] * 15, left=60)
    first, stopping = list(answers.items()), Stopping(folder)
    assert [Stopping(folder).look(dict(first[:count])).stop for count in range(20, 30)] == [False] * 9 + [True]
    assert [stopping.look(dict(first[:count])).stop for count in range(20, 30)] == [False] * 9 + [True]  # one that remembers


def test_nothing_is_said_of_few_answers_of_a_class_without_any_and_at_the_end(tmp_path) -> None:
    folder, answers = looked_folder(tmp_path, [0, 1] * 15)
    assert Stopping(folder).look(dict(list(answers.items())[:19])) is None
    assert Stopping(folder).look(dict.fromkeys(answers, "a")) is None
    assert Stopping(folder).look({one.key: "ab"[place % 2] for place, one in enumerate(folder.questions)}) is None
    skipped = answers | {"t0-x": "skip", "t1-x": "none of these"}
    assert Stopping(folder).look(skipped).answers == 28  # asked, and nothing to learn from
    assert Stopping(folder).look({one.key: "ab"[place % 2] for place, one in enumerate(folder.questions[:39])}).left == 1


def test_earlier_labels_are_learned_from_first(tmp_path) -> None:
    folder, answers = looked_folder(tmp_path, [0, 1] * 15)
    kept = Looked.read(tmp_path / "documents.npz")
    Looked(kept.pool, kept.asked, np.repeat(np.eye(2), 5, axis=0), np.repeat([0, 1], 5)).write(tmp_path / "documents.npz")
    settled = Stopping(folder).look(answers)
    assert (settled.answers, settled.before, settled.left) == (40, 32, 10)


def test_an_audit_says_nothing_of_it_and_neither_does_a_folder_of_before(here) -> None:
    folder = open_folder(Path("audit"))
    assert Stopping(folder).look({one.key: truth(one.text) for one in folder.questions[:22]}) is None


@pytest.fixture
def training(here, monkeypatch) -> Folder:
    """30 of 120 documents; the page is not served."""
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    assert main([*LABEL, "training", *TRAIN, "--budget", "30", "--apart-from", "audit"]) == 0
    return open_folder(Path("training"))


def test_what_is_kept_belongs_to_the_questions(training, capsys) -> None:
    looked = Looked.read(Path("training/documents.npz"))
    assert looked.pool.shape == (96, 32) and len(looked.labels) == 0  # without the audit's
    rows = open_backbone(Path("bundle"), "cpu").encode([one.text for one in training.questions], convert_to_numpy=True)
    assert np.allclose(looked.pool[looked.asked], units(rows), atol=2e-3)
    desk = Desk(training)
    for one in training.questions[:24]:
        desk.answer("browser-one", one.key, truth(one.text))
    capsys.readouterr()
    assert main([*LABEL, "training"]) == 0  # the page is not served
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("24 of 30 questions are answered") and said[1] == Stopping(training).look(desk.answers()).says
