"""A run that is started from the page: its states, that there is one at a time, that a killed server leaves none, and the comparison with the bundle before."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from audits import truth
from endpoint import free_port

from selftrain.cli import main
from selftrain.errors import DataError, ResourceError
from selftrain.runs.audit_design import AuditDesign, Question
from selftrain.runs.labelling import retrainer
from selftrain.runs.labelling.comparing import compare, compared
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import Folder, open_folder
from selftrain.runs.labelling.retraining import Record, Retraining, read_record, write_record

LABEL = ["label", "--port", str(free_port())]
HELD = "import sys, time, pathlib; print('round one', flush=True); pathlib.Path(sys.argv[1], 'held').touch(); time.sleep(600)"
ENDED = "import sys, pathlib; f = pathlib.Path(sys.argv[1], 'retraining.json'); f.write_text(f.read_text().replace('running', 'done'))"


@pytest.fixture
def training(here, monkeypatch) -> Folder:
    """20 of 120 documents to learn from; the page is not served."""
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    words = ["--training", "bundle", "--documents", "documents.csv", "--budget", "20", "--apart-from", "audit"]
    assert main([*LABEL, "training", *words]) == 0
    return open_folder(Path("training"))


def answers_of(folder: Folder) -> dict[str, str]:
    return {one.key: truth(one.text) for one in folder.questions}


def held(folder: Folder, program: str = HELD) -> Retraining:
    """A retraining whose process does what the program says, once it runs."""
    found = Retraining(folder, Path(), program=(sys.executable, "-c", program))
    found.start(answers_of(folder))
    return found


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_before_the_first_there_is_none(training) -> None:
    assert asdict(Retraining(training, Path()).standing()) == {
        "state": "none",
        "record": None,
        "seconds": None,
        "round": None,
        "rounds": None,
        "line": "",
    }


def test_one_runs_at_a_time_and_says_how_far_it_is_to_every_server(training) -> None:
    started = held(training)
    try:
        until((training.path / "held").exists)
        other = Retraining(training, Path())  # another replica, or the same after it was started again
        assert started.standing().state == other.standing().state == "running"
        (training.path / "retraining.step").write_text("[3, 20, 7, 9]")
        standing = other.standing()
        assert (standing.round, standing.rounds, standing.line, standing.record.answers) == (3, 20, "round one", 20)
        assert 0 <= standing.seconds < 60
        with pytest.raises(ResourceError, match="going on already"):
            other.start(answers_of(training))
        assert read_record(training.path).started == standing.record.started
    finally:
        started.stop()
    assert other.standing().state == "killed" and other.standing().line == "round one"  # stopped before it was done
    again = held(training, ENDED)
    until(lambda: again.standing().state == "done")


def test_a_run_that_ends_without_a_word_was_killed_and_another_can_be_started(training) -> None:
    found = held(training, "import os, sys; print('half way', flush=True); os.kill(os.getpid(), 9)")
    until(lambda: found.standing().state == "killed")
    assert found.standing().line == "half way"
    found = held(training, ENDED)
    until(lambda: found.standing().state == "done")


def test_what_cannot_be_trained_on_starts_nothing(training, here) -> None:
    found = Retraining(training, Path())
    with pytest.raises(DataError, match="No document is labeled 'business' yet"):
        found.start(dict.fromkeys(answers_of(training), "sport"))
    with pytest.raises(DataError, match="These answers are an audit's, from which nothing is learned"):
        Retraining(open_folder(Path("audit")), Path()).start({})
    assert not list(here.glob("*/retraining.*"))


def test_a_server_that_is_killed_leaves_no_run(tmp_path) -> None:
    """The process is started as the page's server does it, from another process, which is killed; the lock says when it is gone."""
    server = (
        "import fcntl, sys, time, pathlib\nfrom selftrain.runtime.children import Child\nf = open('lock', 'ab'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "Child([sys.executable, '-c', 'import time; time.sleep(600)'], folder=pathlib.Path(), log=pathlib.Path('log'), keeps=f.fileno())\n"
        "f.close(); print('started', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", server], cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout.readline() == b"started\n"

        def runs() -> bool:
            with (tmp_path / "lock").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
            return False

        assert runs()
        process.send_signal(signal.SIGKILL)
    until(lambda: not runs(), 30)


@pytest.fixture
def recorded(training) -> Folder:
    """As the process finds it when it begins."""
    training.write(answers_of(training))
    write_record(training.path, Record(state="running", started=time.time(), answers=20))
    return training


def test_an_error_of_the_run_comes_back_as_its_sentence(recorded, monkeypatch, capsys) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DataError("data.source is\nempty.")

    monkeypatch.setattr(retrainer, "run", fails)
    assert retrainer.main(recorded.path) == 2
    standing = Retraining(recorded, Path()).standing()
    assert (standing.state, standing.record.error) == ("failed", "data.source is empty.") and standing.seconds >= 0


def test_an_error_of_ours_is_said_to_be_one(recorded, monkeypatch, capsys) -> None:
    monkeypatch.setattr(retrainer, "run", lambda *_, **__: 1 / 0)
    assert retrainer.main(recorded.path) == 2 and "Traceback" in capsys.readouterr().err
    assert "ZeroDivisionError in the run, which is an error of selftrain" in read_record(recorded.path).error


def test_a_stop_leaves_the_record_as_it_is(recorded, monkeypatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(retrainer, "run", stopped)
    assert retrainer.main(recorded.path) == 130
    assert Retraining(recorded, Path()).standing().state == "killed"


def test_the_run_learns_from_the_answers_and_never_from_an_audits(recorded, monkeypatch) -> None:
    seen = {}

    def noted(experiment, **_: object):
        seen["experiment"] = experiment
        return type("Result", (), {"bundle": Path("bundle")})

    monkeypatch.setattr(retrainer, "run", noted)
    audit = open_folder(Path("audit"))
    for one in audit.questions:
        Desk(audit).answer("browser-one", one.key, truth(one.text))
    assert retrainer.main(recorded.path) == 0
    record = read_record(recorded.path)
    assert (record.state, record.bundle, record.not_compared) == ("done", str(Path("bundle").absolute()), None)
    assert record.serve == f"selftrain serve --bundle {Path('bundle').absolute()}"
    assert record.compared["answers"] == 24 and record.compared["gain"]["estimate"] == 0.0  # the same bundle
    data, most = seen["experiment"].data, max(Counter(answers_of(recorded).values()).values())
    assert (data.supervision, data.labels_per_class, data.test_documents, data.classes) == ("few", most, 0, ("sport", "business"))
    asked = {one.id for one in audit.design.questions[:24]}
    with recorded.export.open(encoding="utf-8") as file:
        labeled = [line.split(",")[0].partition("-")[2] for line in file.read().splitlines()[1:] if not line.endswith(",")]
    assert len(labeled) == 20 and not asked & set(labeled)


def test_a_label_of_a_document_that_the_audit_asks_about_is_left_out(here, monkeypatch) -> None:
    """A second round, whose file has labels of some documents that a new audit asks about."""
    monkeypatch.setattr("selftrain.serving.label_server.serve_desk", lambda desk, **_: desk.folder.write(desk.answers()))
    text = (here / "documents.csv").read_text().splitlines()
    (here / "labeled.csv").write_text("\n".join(["text,label", *(f"{line.rpartition(',')[0]},{truth(line)}" for line in text[1:61])]) + "\n")
    words = ["--training", "bundle", "--documents", "labeled.csv", "--label-column", "label", "--budget", "1", "--apart-from", "audit"]
    with (here / "labeled.csv").open("a") as file:
        file.write("a new document,\n")
    assert main([*LABEL, "second", *words]) == 0
    asked = {one.id for one in open_folder(Path("audit")).design.questions[:24]}
    given = {key.partition("-")[2] for key in open_folder(Path("second")).given}
    assert given and not given & asked and len(given) + len(asked & {key.partition("-")[2] for key in _ids("second")}) == 60


def _ids(folder: str) -> list[str]:
    return [line.partition(",")[0] for line in Path(folder, "questions.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: None, "has no answer yet"),
        (lambda: Path("audit/design.json").unlink(), "holds no questions"),
        (lambda: answer_first(3), "1 documents of the audit"),
    ],
)
def test_what_cannot_be_compared_is_said(here, change, says) -> None:
    learned = frozenset(one.id for one in open_folder(Path("audit")).design.questions[1:2])
    change()
    with pytest.raises(DataError, match=says):
        compare(Path("bundle"), Path("audit"), learned)


def answer_first(count: int) -> None:
    desk = Desk(open_folder(Path("audit")))
    for one in desk.folder.questions[:count]:
        desk.answer("browser-one", one.key, truth(one.text))


def design_of(counts: list[int], strata: list[int], planned: int) -> AuditDesign:
    """An audit of classes a and b, all of whose documents are predicted as a."""
    questions = tuple(Question(id=f"d{place}", stratum=stratum, predicted=0) for place, stratum in enumerate(strata))
    return AuditDesign(
        bundle="", documents="", classes=("a", "b"), planned=planned, seed=0, counts=tuple((count, 0) for count in counts), questions=questions
    )


def test_the_difference_is_that_of_paired_shares_by_hand() -> None:
    """One stratum of so many documents that it has no end: Newcombe's method 10 without its correction. 50 answers: both right 36, new alone 12, old alone 2."""
    answers = ["a"] * 36 + ["b"] * 12 + ["a"] * 2
    said = ["a"] * 36 + ["b"] * 14
    found = compared(design_of([10**12], [0] * 50, 50), answers, said)
    z, n = 1.959963984540054, 50

    def wilson(p: float) -> tuple[float, float]:
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return (p + z**2 / (2 * n) - half) / (1 + z**2 / n), (p + z**2 / (2 * n) + half) / (1 + z**2 / n)

    old, new = 38 / 50, 48 / 50
    (old_low, old_high), (new_low, new_high) = wilson(old), wilson(new)
    phi = (36 / 50 - old * new) / np.sqrt(old * (1 - old) * new * (1 - new))
    low = np.sqrt((new - new_low) ** 2 - 2 * phi * (new - new_low) * (old_high - old) + (old_high - old) ** 2)
    high = np.sqrt((new_high - new) ** 2 - 2 * phi * (new_high - new) * (old - old_low) + (old - old_low) ** 2)
    assert found.answers == 50 and (found.old.estimate, found.new.estimate) == pytest.approx((old, new))
    assert (found.old.low, found.old.high, found.new.low, found.new.high) == pytest.approx((old_low, old_high, new_low, new_high), abs=1e-6)
    assert (found.gain.estimate, found.gain.low, found.gain.high) == pytest.approx((0.2, 0.2 - low, 0.2 + high), abs=1e-6)


def test_intervals_of_the_gain_cover_in_a_population_of_two_strata() -> None:
    """800 and 200 documents, 40 and 20 answers; old right in .9 and .5, new in .92 and .7, alike where they can be."""
    rng = np.random.default_rng(0)
    stratum = np.repeat([0, 1], [800, 200])
    old = rng.random(1000) < np.array([0.9, 0.5])[stratum]
    new = np.where(old, rng.random(1000) < 0.97, rng.random(1000) < 0.5)
    true = new.mean() - old.mean()
    covered = 0
    for _ in range(60):
        asked = np.concatenate([rng.choice(800, 40, replace=False), 800 + rng.choice(200, 20, replace=False)])
        design = design_of([800, 200], stratum[asked].tolist(), 60)
        # All are predicted as a: the answer is a where old is right, and new says the answer or the other.
        answers = ["a" if old[one] else "b" for one in asked]
        said = [answer if new[one] else "ab"[answer == "a"] for one, answer in zip(asked, answers, strict=True)]
        gain = compared(design, answers, said).gain
        covered += gain.low <= true <= gain.high
    assert covered >= 0.9 * 60


def test_skipped_answers_count_for_neither_and_the_gain_of_a_stratum_without_answers_is_not_known() -> None:
    design = design_of([50, 50], [0] * 10 + [1] * 10, 20)
    found = compared(design, ["a"] * 9 + ["skip"] + ["b"] * 10, ["a"] * 20)
    assert found.old == found.new and found.gain.estimate == 0.0 and found.old.estimate == 0.5 and found.old.high > found.new.estimate
    assert compared(design, ["a"] * 10, ["a"] * 10).gain is None
