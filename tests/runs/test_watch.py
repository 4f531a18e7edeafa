"""`selftrain watch`: a bundle's reference, looks that go on where the last one ended, the alarm and what is proposed, a change that is accepted, and bad input."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from endpoint import LABELS, make_bundle

from selftrain.bundle.checking import REFERENCE, fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card, restate
from selftrain.bundle.reference import Reference, read_reference
from selftrain.cli import main
from selftrain.config import load
from selftrain.evaluation.drift.bets import Detector
from selftrain.runs.seen import Origin, Rows, parts_of, read_part, write_part
from selftrain.runs.watch_state import alone, read_state

NOON = 1_796_040_000.0  # 30 November 2026


def rows_of(rng: np.random.Generator, count: int, *, first: int = 0, new: bool = False, embedded: bool = True) -> Rows:
    """Texts of three classes, one of them with most where `new`."""
    labels = rng.choice(3, count, p=(0.05, 0.05, 0.9) if new else (0.4, 0.3, 0.3))
    points = 2 * np.eye(3, 8)[labels] + rng.normal(size=(count, 8))
    powers = np.exp(2 * points[:, :3])
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    times = NOON + first + np.arange(count, dtype=np.float64)
    texts = [f"text {first + place}" for place in range(count)]
    embeddings = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)
    return Rows([f"{first + place:016x}" for place in range(count)], times, probabilities, embeddings if embedded else None, texts)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A bundle without a reference."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "news")


@pytest.fixture
def seen(bare, tmp_path):
    """A folder, and what writes into it."""

    def write(rows: Rows, *, backend: str = "torch") -> None:
        origin = Origin(name="news", version="1", fingerprint=fingerprint_of(bare), backend=backend, labels=LABELS)
        write_part(tmp_path / "seen" / origin.fingerprint, "replica", origin, rows)

    return tmp_path / "seen", write


def watch(bundle: Path, folder: Path, *more: str) -> int:
    return main(["watch", "--bundle", str(bundle), "--seen", str(folder), *more])


def test_looks_go_on_an_alarm_stays_and_a_change_is_accepted(bare, seen, tmp_path, capsys):
    folder, write = seen
    rng = np.random.default_rng(0)
    write(rows_of(rng, 400))
    assert watch(bare, folder) == 2 and "has no reference to compare with" in capsys.readouterr().err
    assert watch(bare, folder, "--accept") == 0 and "400 texts are the reference now" in capsys.readouterr().out

    home = folder / fingerprint_of(bare)
    _, rows = read_part(home, parts_of(home)[0])
    kept = read_reference(home / REFERENCE, None, LABELS)
    assert np.array_equal(np.sort(kept.embeddings, axis=0), np.sort(rows.embeddings, axis=0))
    assert not np.array_equal(kept.embeddings, rows.embeddings)  # its halves are no first and second half of a day
    assert watch(bare, folder) == 0 and (home / "watch.html").is_file()  # before the first text
    write(rows_of(rng, 300, first=1000))
    page, figures = tmp_path / "page.html", tmp_path / "watch.prom"
    assert watch(bare, folder, "--out", str(page), "--prometheus", str(figures)) == 0
    assert "300 new texts. No change in 300 texts" in capsys.readouterr().out and "<b>Quiet</b>" in page.read_text()
    assert 'selftrain_watch_alarm{model="news"} 0.0' in figures.read_text()
    one = read_state(home)

    write(rows_of(rng, 260, first=2000, new=True))
    assert watch(bare, folder, "--out", str(page), "--prometheus", str(figures)) == 3
    said = capsys.readouterr().out
    assert "260 new texts. Alarm: the shares of the classes changed (politics)" in said
    alarm = read_state(home).alarm
    assert 300 < alarm.text < 400 and abs(alarm.since - 300) < 40 and abs(alarm.began - (NOON + 2000)) < 60 and read_state(home).read[:2] == one.read
    assert "<b>Alarm</b>" in page.read_text() and page.read_text().count("<svg") == 5 and "<script" not in page.read_text()
    assert 'selftrain_watch_alarm{model="news"} 1.0' in figures.read_text()
    assert watch(bare, folder) == 3 and "0 new texts. Alarm" in capsys.readouterr().out

    command = next(line for line in said.splitlines() if line.startswith("proposed: "))
    assert f"selftrain label {home / 'training'} --training {bare} --documents {home / 'documents.csv'}" in command  # its card has no experiment
    with (home / "documents.csv").open() as opened:
        documents = [row["text"] for row in csv.DictReader(opened)]
    assert abs(len(documents) - 260) < 40 and documents[-1] == "text 2259"

    assert watch(bare, folder, "--accept") == 0
    write(rows_of(rng, 300, first=3000, new=True))
    assert watch(bare, folder) == 0 and "300 new texts. No change" in capsys.readouterr().out[-400:]


def test_one_look_at_all_and_several_at_parts_are_the_same(bare, seen, monkeypatch):
    monkeypatch.setattr("selftrain.runs.watch._page", lambda *_: "")
    step, drawn = Detector.step, []
    monkeypatch.setattr(Detector, "step", lambda self, bins, draws: (drawn.append(draws[0]), step(self, bins, draws))[1])
    folder, write = seen
    rng = np.random.default_rng(1)
    write(rows_of(rng, 200))
    assert watch(bare, folder, "--accept") == 0
    home = folder / fingerprint_of(bare)
    start = (home / "state.json").read_bytes()
    for part in range(2):
        write(rows_of(rng, 40, first=1000 * part + 1000))
        assert watch(bare, folder) == 0
    assert len(set(drawn)) == len(drawn) == 80  # ties are broken anew for every text
    several = json.loads((home / "state.json").read_text())
    (home / "state.json").write_bytes(start)
    assert watch(bare, folder) == 0
    assert json.loads((home / "state.json").read_text())["detector"] == several["detector"]


def test_a_bundle_with_a_reference_is_watched_by_it_and_its_experiment_is_proposed_anew(bare, seen, tmp_path, capsys):
    folder, write = seen
    rng = np.random.default_rng(4)
    rows = rows_of(rng, 400)
    reference = Reference(rows.probabilities, rows.embeddings)
    facts = reference.facts(rows.probabilities, held_out=True)
    experiment = {"name": "mail", "data": {"source": "mails.csv", "label_column": "topic", "classes": LABELS}, "augment": {"model": "gemma-3-270m"}}
    bundle = shutil.copytree(bare, tmp_path / "bundle")
    (bundle / REFERENCE).write_bytes(reference.content())
    restate(bundle, read_card(bundle).model_copy(update={"reference": facts, "experiment": experiment}))
    assert "`reference.safetensors` holds probabilities and embeddings of 400 texts that training did not see" in (bundle / "README.md").read_text()

    write(replace(rows_of(rng, 200, first=1000, new=True), texts=None))
    assert fingerprint_of(bundle) == fingerprint_of(bare) and watch(bundle, folder) == 3
    written = folder / fingerprint_of(bundle) / "retrain.yaml"
    assert f"proposed: selftrain run {written} --data new_documents.csv" in capsys.readouterr().out
    proposed = load(str(written), [], {})
    assert (proposed.data.classes, proposed.data.label_column, proposed.augment.model) == (LABELS, None, "gemma-3-270m")

    (bundle / REFERENCE).write_bytes((bundle / REFERENCE).read_bytes()[:-1] + b"\1")
    assert watch(bundle, folder) == 2 and "reference.safetensors is not the file that was written" in capsys.readouterr().err
    (bundle / REFERENCE).unlink()  # nothing else needs it
    assert Classifier.load(bundle).predict_proba(["a text"]).shape == (1, 3)


def test_a_graph_that_gives_no_embeddings_is_watched_by_its_probabilities(bare, seen, capsys):
    folder, write = seen
    rng = np.random.default_rng(2)
    write(rows_of(rng, 200, embedded=False), backend="onnx")
    assert watch(bare, folder, "--accept") == 0
    write(rows_of(rng, 60, first=1000, embedded=False), backend="onnx")
    assert watch(bare, folder) == 0 and "Probabilities alone were compared" in capsys.readouterr().out
    write(rows_of(rng, 60, first=2000, embedded=False), backend="onnx-int8")
    assert watch(bare, folder) == 2 and "seen by onnx-int8, whose probabilities differ" in capsys.readouterr().err


def test_bad_input_is_one_sentence(bare, seen, tmp_path, capsys):
    folder, write = seen
    assert watch(bare, tmp_path / "none") == 2 and "--seen must be the folder of selftrain serve --seen" in capsys.readouterr().err
    folder.mkdir()
    assert watch(bare, folder) == 2 and "holds no texts of the bundle news" in capsys.readouterr().err
    assert watch(tmp_path, folder) == 2 and "is not a selftrain bundle" in capsys.readouterr().err
    rng = np.random.default_rng(3)
    write(rows_of(rng, 199))
    assert watch(bare, folder, "--accept") == 2 and "holds 199 texts, and 200 are needed for a reference" in capsys.readouterr().err
    assert watch(bare, folder, "--accept", "--out", "x") == 2 and "leave out --out" in capsys.readouterr().err
    write(rows_of(rng, 100, first=1000))
    assert watch(bare, folder, "--accept") == 0
    capsys.readouterr()
    home = folder / fingerprint_of(bare)
    with alone(home):
        assert watch(bare, folder) == 2 and "Another selftrain watch looks at" in capsys.readouterr().err
    assert watch(bare, folder, "--out", str(tmp_path)) == 2 and "--out must be a file" in capsys.readouterr().err
    write(rows_of(rng, 60, first=2000, embedded=False))
    assert watch(bare, folder) == 0  # not yet known whether embeddings are compared: probabilities are what all have
    state = json.loads((home / "state.json").read_text())
    (home / "state.json").write_text(json.dumps(state | {"detector": state["detector"] | {"known": 1}}))
    assert watch(bare, folder) == 2 and "state.json is damaged" in capsys.readouterr().err
    (home / "state.json").write_text("{")
    assert watch(bare, folder) == 2 and "state.json is damaged" in capsys.readouterr().err
    (home / "state.json").unlink()
    assert watch(bare, folder) == 2 and "accept the latest texts again" in capsys.readouterr().err
