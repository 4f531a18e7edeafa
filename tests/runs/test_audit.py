"""An audit from the command line: questions, answers, figures; what has changed in between is refused, and nothing is half written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.cli import main
from selftrain.runs import audit

SPORT, BUSINESS = "the team and its coach won match", "the bank and the market lost profit"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a bundle, 120 documents, and the questions of an audit with a budget of 24."""
    folder = tmp_path_factory.mktemp("audit")
    backbone = tiny_backbone(folder / "encoder")
    prototypes = torch.nn.functional.normalize(
        torch.stack([backbone.encode([f"{text} {n}" for n in range(60)], convert_to_tensor=True).mean(dim=0) for text in (SPORT, BUSINESS)]), dim=-1
    )
    write_bundle(folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="toy", labels=("sport", "business"), method="x"))
    write(folder / "documents.csv", [{"text": f"{text} {n}", "n": n} for n in range(60) for text in (SPORT, BUSINESS)])
    assert main(["audit", str(folder / "bundle"), "--documents", str(folder / "documents.csv"), "--budget", "24"]) == 0
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, with links to what is `made` and a copy of the audit."""
    monkeypatch.chdir(tmp_path)
    for name in ("bundle", "documents.csv"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "audit").mkdir()
    for name in ("questions.csv", "design.json"):
        (tmp_path / "audit" / name).write_bytes((made / "audit" / name).read_bytes())
    return tmp_path


def write(file: Path, rows: list[dict]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def questions(file: Path | str = "audit/questions.csv") -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def answered(count: int = 24, **other: str) -> list[dict[str, str]]:
    """The questions, with the truth as the answer of the first `count`; `other` is q3="skip"."""
    rows = questions()
    for place, row in enumerate(rows):
        row["label"] = ("sport" if row["text"].startswith(SPORT) else "business") if place < count else ""
        row["label"] = other.get(f"q{place + 1}", row["label"])
    return rows


def read(*more: str, answers: str = "answers.csv", documents: str = "documents.csv") -> int:
    return main(["audit", "bundle", "--documents", documents, "--answers", answers, *more])


def fails(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["audit", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("selftrain: ") and len(said.strip().splitlines()) == 1
    return said


def test_questions_are_what_the_design_asks_and_show_no_prediction(here) -> None:
    rows = questions()
    design = json.loads(Path("audit/design.json").read_text())
    assert len(rows) == 24 == len({row["id"] for row in rows}) and all(row["label"] == "" for row in rows)
    assert set(rows[0]) == {"id", "text", "label"}
    assert [row["id"] for row in rows] == [f"q{place + 1}-{question['id']}" for place, question in enumerate(design["questions"][:24])]
    assert sum(map(sum, design["counts"])) == 120 == len(design["questions"])


def test_answers_give_the_figures(here, capsys) -> None:
    write(here / "answers.csv", answered())
    assert read() == 0
    said = capsys.readouterr().out
    found = json.loads((here / "audit/audit.json").read_text())
    assert found["asked"] == 24 == found["planned"] and not found["anytime"] and found["documents"] == 120
    # the prototypes are means of texts of either class, which the encoder tells apart but for a few
    accuracy = found["accuracy"]
    assert 0.9 < accuracy["estimate"] <= accuracy["high"] <= 1 and 0.7 < accuracy["low"] < 0.95
    assert f"accuracy {accuracy['estimate']:.3f} (0." in said and "from 24 answers on 120 documents" in said
    assert said.split("\n\nreport")[0] in (here / "audit/audit.md").read_text()
    assert sorted(path.name for path in (here / "audit").iterdir()) == ["audit.json", "audit.md", "design.json", "questions.csv"]


def test_some_of_the_answers_are_enough_and_holes_count_as_skipped(here) -> None:
    write(here / "answers.csv", answered(16, q3="skip", q5="", q7="None of these "))
    assert read() == 0
    found = json.loads((here / "audit/audit.json").read_text())
    assert (found["asked"], found["skipped"], found["anytime"]) == (16, 2, True)
    assert found["none_of_these"]["estimate"] > 0 and found["accuracy"]["estimate"] < 1


def test_more_questions_go_on_where_the_first_ended(here) -> None:
    write(here / "answers.csv", answered(24, q3="skip"))
    assert read("--budget", "40") == 0
    more = questions("audit/questions-40.csv")
    assert [row["label"] for row in more[:24]] == [row["label"] for row in answered(24, q3="skip")]
    assert len(more) == 40 and all(row["label"] == "" for row in more[24:]) and more[:24] == answered(24, q3="skip")
    for row in more[24:]:
        row["label"] = "sport" if row["text"].startswith(SPORT) else "business"
    write(here / "answers.csv", more)
    assert read() == 0
    found = json.loads((here / "audit/audit.json").read_text())
    assert (found["asked"], found["planned"], found["anytime"]) == (40, 24, True)


def test_a_spreadsheets_file_is_read(here) -> None:
    rows = answered()
    lines = ["id;text;label", *(f"{row['id']};{row['text']};{row['label'].upper()}" for row in reversed(rows))]
    (here / "answers.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert read() == 0
    assert json.loads((here / "audit/audit.json").read_text())["asked"] == 24


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [row | {"label": ""} for row in rows], "holds no answer; write one of sport, business, none of these, skip"),
        (lambda rows: [rows[0] | {"label": "sprot"}], "Line 2 of answers.csv has the label 'sprot', which is no class; did you mean 'sport'?"),
        (lambda rows: [rows[0] | {"id": "q1-0"}], "Line 2 of answers.csv has the id 'q1-0'"),
        (lambda rows: [rows[0], rows[0]], "Line 3 of answers.csv answers"),
        (lambda rows: [{"id": row["id"], "topic": "sport"} for row in rows], "lacks the column id or label"),
        (lambda rows: [{"label": "sport"} for _ in rows], "lacks the column id or label"),
    ],
)
def test_answers_of_another_kind_are_one_sentence(here, capsys, change, says) -> None:
    write(here / "answers.csv", change(answered()))
    assert says in fails(capsys, "bundle", "--documents", "documents.csv", "--answers", "answers.csv")
    assert sorted(path.name for path in (here / "audit").iterdir()) == ["design.json", "questions.csv"]


def test_changed_documents_and_bundles_are_refused(here, capsys) -> None:
    write(here / "answers.csv", answered())
    write(here / "other.csv", [{"text": f"{SPORT} {n}"} for n in range(60)])
    ours = ["--documents", "documents.csv", "--answers", "answers.csv"]
    assert "does not hold the documents" in fails(capsys, "bundle", "--documents", "other.csv", "--answers", "answers.csv")
    write_bundle(
        here / "second",
        backbone=tiny_backbone(here / "encoder", seed=1),
        prototypes=torch.eye(32)[:2],
        card=BundleCard(name="toy", labels=("sport", "business"), method="x"),
    )
    assert "is not the bundle" in fails(capsys, "second", *ours, "--out", "audit")
    design = json.loads(Path("audit/design.json").read_text())
    for damaged, why in (
        ("{", "is damaged"),
        (json.dumps(design | {"counts": [[1]]}), "do not fit"),
        (json.dumps(design | {"questions": design["questions"] * 2}), "do not fit"),
        (json.dumps(design | {"planned": 0}), "is damaged"),
    ):
        Path("audit/design.json").write_text(damaged)
        assert why in fails(capsys, "bundle", *ours)
    Path("audit/design.json").unlink()
    assert "--out 'audit' holds no design.json" in fails(capsys, "bundle", *ours, "--out", "audit")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--documents", "documents.csv"], "There is no folder 'nowhere'"),
        (["bundle", "--documents", "none.csv"], "none.csv"),
        (["bundle", "--documents", "documents.csv", "--text-column", "txt"], "'text'"),
        (["bundle", "--documents", "documents.csv", "--budget", "3"], "--budget must be at least 20"),
        (["bundle", "--documents", "documents.csv", "--budget", "121"], "--budget must be at most 120"),
        (["bundle", "--documents", "documents.csv", "--out", "audit"], "--out 'audit' holds an audit already"),
        (["bundle", "--documents", "documents.csv", "--out", "full"], "--out 'full' is not an empty folder"),
        (["bundle", "--documents", "documents.csv", "--out", "x.parquet"], "--out must be a new folder"),
        (["bundle", "--documents", "documents.csv", "--answers", "none.csv"], "No such file: none.csv"),
        (["bundle", "--documents", "documents.csv", "--answers", "x.parquet"], "--answers must be a .csv"),
        (["bundle", "--documents", "documents.csv", "--answers", "audit/questions.csv", "--seed", "1"], "--seed chooses the questions"),
        (["bundle"], "--documents"),
    ],
)
def test_bad_input_is_one_sentence(here, capsys, arguments, says) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine").touch()
    (here / "x.parquet").write_text("PAR1")
    before = sorted(here.rglob("*"))
    where = [] if "--out" in arguments or "--answers" in arguments else ["--out", "new"]
    assert says in fails(capsys, *arguments, *where)
    assert sorted(here.rglob("*")) == before


def test_a_failure_leaves_nothing_half_written(here, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "_write_questions", full)
    before = sorted(here.rglob("*"))
    assert main(["audit", "bundle", "--documents", "documents.csv", "--budget", "24", "--out", "new"]) == 2
    assert sorted(here.rglob("*")) == before


def test_more_questions_than_the_design_has_are_refused(here, capsys) -> None:
    write(here / "answers.csv", answered())
    said = fails(capsys, "bundle", "--documents", "documents.csv", "--answers", "answers.csv", "--budget", "121")
    assert "--budget must be at most 120" in said and not (here / "audit/audit.json").exists()
