"""The desk that hands questions out, its folder of either purpose, and the choice of documents that are worth a label."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from audits import answered, csv_rows, questions, truth, write
from endpoint import free_port

from selftrain.cli import main
from selftrain.errors import DataError, OutputError
from selftrain.runs.labelling.desk import Desk
from selftrain.runs.labelling.folder import Choice, Folder, open_folder

ONE, TWO = "browser-one", "browser-two"
LABEL = ["label", "--port", str(free_port())]
AUDIT = ["audit", "bundle", "--documents", "documents.csv", "--answers", "audit/answers.csv"]


@pytest.fixture
def folder(here) -> Folder:
    return open_folder(Path("audit"))


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def journal(folder: Folder) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder.path / "answers.jsonl").read_text().splitlines()]


def test_questions_come_in_the_order_of_the_design_and_each_browser_has_its_own(folder) -> None:
    desk = Desk(folder)
    keys = [row["id"] for row in questions()]
    first, other = desk.next(ONE), desk.next(TWO)
    assert (first.question.key, other.question.key) == tuple(keys[:2])
    assert (first.elsewhere, other.elsewhere) == (0, 1)
    assert desk.next(ONE).question == first.question  # a page that is loaded again
    assert desk.answer(ONE, keys[0], "sport").question.key == keys[2]
    assert desk.answer(TWO, keys[1], "skip").question.key == keys[3]
    assert desk.answers() == {keys[0]: "sport", keys[1]: "skip"}
    assert first.question.text == questions()[0]["text"]


def test_many_threads_are_never_asked_the_same(folder) -> None:
    """Two desks on one folder, as of two replicas; every question is answered once, by whoever was asked."""
    desks, seen = [Desk(folder), Desk(folder)], []

    def work(number: int) -> None:
        desk, browser = desks[number % 2], f"browser-{number}"
        turn = desk.next(browser)
        while turn.question is not None:
            seen.append(turn.question.key)
            turn = desk.answer(browser, turn.question.key, "sport")
            assert not turn.late

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(seen) == sorted(row["id"] for row in questions()) and len(journal(folder)) == 24


def test_a_browser_that_is_heard_of_no_more_gives_its_question_back(folder) -> None:
    clock = Clock()
    desk = Desk(folder, clock=clock)
    keys = [row["id"] for row in questions()]
    assert desk.next(ONE).question.key == keys[0] and desk.next(TWO).question.key == keys[1]
    clock.now += desk.lease_seconds / 2
    assert desk.next(TWO).question.key == keys[1]  # an open page says that it is there
    clock.now += desk.lease_seconds / 2
    assert desk.answer(TWO, keys[1], "sport").question.key == keys[0]
    late = desk.answer(ONE, keys[0], "sport")
    assert late.late and late.question.key == keys[2] and keys[0] not in desk.answers()
    clock.now += 2 * desk.lease_seconds
    assert not desk.answer(ONE, keys[2], "sport").late  # nobody else has had it


def test_a_browser_that_says_goodbye_gives_its_question_back_at_once(folder) -> None:
    desk = Desk(folder)
    key = desk.next(ONE).question.key
    desk.leave(ONE)
    assert desk.next(TWO).question.key == key


def test_undo_takes_back_the_latest_answer_of_the_browser_alone(folder) -> None:
    desk = Desk(folder)
    keys = [row["id"] for row in questions()]
    assert desk.next(ONE).undo is None and desk.undo(ONE, keys[0]).question.key == keys[0]  # nothing to take back
    desk.answer(ONE, keys[0], "sport")
    desk.next(TWO)
    desk.answer(TWO, keys[2], "business")
    desk.answer(ONE, keys[1], "skip")
    assert desk.next(ONE).undo == keys[1]
    back = desk.undo(ONE, keys[1])
    assert (back.question.key, back.before, back.undo) == (keys[1], "skip", keys[0])
    again = desk.undo(ONE, keys[1])  # the answer was not heard
    assert (again.question.key, again.before, again.undo) == (keys[1], None, keys[0])
    assert desk.answers() == {keys[0]: "sport", keys[2]: "business"}
    assert desk.next(TWO).question.key == keys[3]  # the one that was taken back is nobody else's
    assert desk.answer(ONE, keys[1], "none of these").question.key == keys[4]
    desk.undo(ONE, keys[1])
    first = desk.undo(ONE, keys[0])
    assert (first.question.key, first.before, first.undo) == (keys[0], "sport", None)
    assert desk.answers() == {keys[2]: "business"}
    assert Desk(folder).answers() == {keys[2]: "business"}  # as it stands in the journal


def test_an_answer_that_is_sent_twice_counts_once(folder) -> None:
    desk = Desk(folder)
    key = desk.next(ONE).question.key
    first, again = desk.answer(ONE, key, "sport"), desk.answer(ONE, key, "sport")
    assert again.question == first.question and not again.late and len(journal(folder)) == 1
    other = desk.answer(TWO, key, "sport")
    assert other.late and len(journal(folder)) == 1


def test_the_end_is_the_end_and_open_questions_of_others_are_told(folder) -> None:
    desk = Desk(folder)
    held = desk.next(TWO).question.key
    turn = desk.next(ONE)
    while turn.question is not None:
        turn = desk.answer(ONE, turn.question.key, "sport")
    assert (len(turn.answers), turn.elsewhere) == (23, 1)
    assert desk.answer(TWO, held, "sport").question is None and desk.next(ONE).elsewhere == 0


def test_what_is_no_answer_is_refused_and_nothing_is_kept(folder) -> None:
    desk = Desk(folder)
    key = desk.next(ONE).question.key
    with pytest.raises(DataError, match="answer must be one of sport, business, none of these, skip"):
        desk.answer(ONE, key, "sprot")
    with pytest.raises(DataError, match="question must be one of this folder"):
        desk.answer(ONE, "q99-0", "sport")
    assert not (folder.path / "answers.jsonl").exists()


def test_an_answer_is_synced_before_the_next_question_is_told(folder, monkeypatch) -> None:
    synced: list[bytes] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        fsync(file)
        name = os.readlink(f"/proc/self/fd/{file}")
        if name.endswith("answers.jsonl"):
            synced.append(Path(name).read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    desk = Desk(folder)
    key = desk.next(ONE).question.key
    assert not synced
    desk.answer(ONE, key, "sport")
    assert len(synced) == 1 and json.loads(synced[0])["question"] == key


def test_a_full_disk_is_one_sentence_and_keeps_nothing(folder, monkeypatch) -> None:
    desk = Desk(folder)
    key = desk.next(ONE).question.key

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full"):
            desk.answer(ONE, key, "sport")
    assert desk.answer(ONE, key, "sport").question is not None and desk.answers()[key] == "sport"


def test_a_line_that_a_kill_cut_short_costs_no_other(folder) -> None:
    desk = Desk(folder)
    keys = [row["id"] for row in questions()]
    for key in keys[:2]:
        desk.answer(ONE, key, "sport")
    file = folder.path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    (folder.path / "leases.json").write_text('{"q1')
    again = Desk(folder)
    assert again.answers() == {keys[0]: "sport"} and again.next(TWO).question.key == keys[1]


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "q1-0", "answer": "sport", "browser": "x"}',
        '{"question": "KEY", "answer": "tech", "browser": "x"}',
        '{"question": "KEY", "browser": "x"}',
        '{"answer": "sport"}',
    ],
)
def test_answers_to_other_questions_are_refused(folder, capsys, line) -> None:
    (folder.path / "answers.jsonl").write_text(line.replace("KEY", questions()[0]["id"]) + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl holds answers to other questions, or is damaged"):
        Desk(folder)


def test_answers_of_the_file_stand_and_are_not_asked_again(here) -> None:
    write(here / "audit/questions.csv", answered(3))
    desk = Desk(open_folder(Path("audit")))
    keys = [row["id"] for row in questions()]
    turn = desk.next(ONE)
    assert turn.question.key == keys[3] and not turn.undo and len(turn.answers) == 3
    assert list(desk.answers().values()) == [row["label"] for row in answered(3)[:3]]


def test_the_accuracy_is_that_of_the_audits_own_command(folder, capsys) -> None:
    desk = Desk(folder)
    assert folder.accuracy({}) is None
    for row in questions()[:16]:
        desk.answer(ONE, row["id"], "skip" if row["id"].startswith("q3-") else truth(row["text"]))
    figure, anytime = folder.accuracy(desk.answers())
    folder.write(desk.answers())
    assert main(AUDIT) == 0
    found = json.loads(Path("audit/audit.json").read_text())
    assert (figure.estimate, figure.low, figure.high) == tuple(found["accuracy"][name] for name in ("estimate", "low", "high"))
    assert anytime and (found["asked"], found["skipped"], found["anytime"]) == (16, 1, True)
    for row in questions()[16:]:
        desk.answer(ONE, row["id"], truth(row["text"]))
    assert not folder.accuracy(desk.answers())[1]


def test_further_questions_of_the_audit_are_asked_with_the_answers_so_far(folder, capsys) -> None:
    desk = Desk(folder)
    for row in questions():
        desk.answer(ONE, row["id"], truth(row["text"]))
    folder.write(desk.answers())
    assert main([*AUDIT, "--budget", "40"]) == 0
    more = Desk(open_folder(Path("audit")))
    assert len(more.folder.questions) == 40 and more.next(ONE).question.key.startswith("q25-")
    last = questions()[23]
    assert more.undo(ONE, last["id"]).before == truth(last["text"])


def test_a_formula_is_shown_as_it_was_written(here) -> None:
    rows = questions()
    rows[0]["text"], rows[1]["text"], rows[2]["text"] = "'=1+1", "'quoted'", "a = b"
    write(here / "audit/questions.csv", rows)
    folder = open_folder(Path("audit"))
    assert [one.text for one in folder.questions[:3]] == ["=1+1", "'quoted'", "a = b"]
    assert [row["text"] for row in csv_rows(folder.csv({}))[:3]] == ["'=1+1", "'quoted'", "a = b"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found[1:], "lacks question 1; start another audit"),
        (lambda found: [*found[:5], *found[6:]], "lacks question 6; start another audit"),
        (lambda found: [*found, found[0]], "a second time"),
        (lambda found: [found[0] | {"id": "q1-0"}], "which is none of this audit"),
        (lambda found: [found[0] | {"label": "sprot"}], "has the label 'sprot', which is no class; did you mean 'sport'?"),
        (lambda found: [{"id": row["id"], "words": row["text"]} for row in found], "lacks the column id or text"),
    ],
)
def test_changed_questions_are_one_sentence(here, capsys, change, says) -> None:
    write(here / "audit/questions.csv", change(questions()))
    assert says in label_fails(capsys, "audit")


def label_fails(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*LABEL, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("selftrain: ") and len(said.strip().splitlines()) == 1
    return said


TRAIN = ["new", "--training", "bundle", "--documents", "documents.csv"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "FOLDER 'nowhere' holds no questions: neither design.json, of an audit, nor training.json; set another"),
        (["audit", "--budget", "3"], "--budget chooses documents to learn from; add --training BUNDLE"),
        (["new", "--training", "bundle"], "--training needs the documents"),
        (["audit", *TRAIN[1:]], "FOLDER 'audit' is not empty; set a new one"),
        ([*TRAIN, "--budget", "0"], "--budget must be at least 1"),
        ([*TRAIN, "--budget", "121"], "--budget must be at most 120"),
        ([*TRAIN, "--budget", "97", "--apart-from", "audit"], "--budget must be at most 96"),
        ([*TRAIN, "--apart-from", "none"], "'none' holds no questions"),
        ([*TRAIN, "--apart-from", "taught"], "--apart-from must be the folder of an audit (got 'taught')"),
        (["new", "--training", "none", "--documents", "documents.csv"], "There is no folder 'none'"),
        (["new", "--training", "bundle", "--documents", "none.csv"], "none.csv"),
        (["audit", "--host", "0.0.0.0"], "--token-file must be set"),
        ([*TRAIN, "--port", "0"], "--port must be from 1 to 65535"),
        ([*TRAIN, "--token-file", "none"], "none cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(here, capsys, monkeypatch, arguments, says) -> None:
    monkeypatch.delenv("SELFTRAIN_SERVE_TOKEN", raising=False)
    (here / "taught").mkdir()
    write(here / "taught/questions.csv", [{"id": "t1-x", "text": "a text", "label": ""}])
    (here / "taught/training.json").write_text(Choice(classes=("sport", "business"), questions=("t1-x",)).model_dump_json())
    before = {path for path in here.rglob("*") if path.name != "answers.lock"}
    assert says in label_fails(capsys, *arguments)
    assert {path for path in here.rglob("*") if path.name != "answers.lock"} == before
