"""An audit from the command line: questions, answers, figures; what has changed in between is refused, and nothing is half written."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import torch
from audits import BUSINESS, SPORT, answered, questions, write
from object_store import new_bucket, s3_server
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import BundleCard, read_card, restate, write_bundle
from selftrain.bundle.reference import Reference
from selftrain.cli import main
from selftrain.evaluation.audit.confidence import ASSUMED_ACCURACY, confidence_among_neighbours, confidence_at
from selftrain.evaluation.audit.design import plan
from selftrain.runs import audit_files
from selftrain.runs.register import register


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


def test_strata_go_by_what_documents_with_alike_words_say(here) -> None:
    design = json.loads(Path("audit/design.json").read_text())
    documents, _ = load_documents(read_card(here / "bundle"), "documents.csv", test_documents=0)
    probabilities, texts = Classifier.load("bundle").predict_proba(documents.unlabeled.contents), documents.unlabeled.contents
    guesses = confidence_among_neighbours(probabilities, texts, ASSUMED_ACCURACY), confidence_at(probabilities, ASSUMED_ACCURACY)
    ours, by_confidence = (plan(probabilities.argmax(axis=1), 1 - guess, budget=24, seed=0) for guess in guesses)
    chosen = [(documents.unlabeled.ids[index], int(ours.strata[index])) for index in ours.order]
    assert [(question["id"], question["stratum"]) for question in design["questions"]] == chosen
    assert ours.strata.tolist() != by_confidence.strata.tolist()


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

    monkeypatch.setattr(audit_files, "_write_questions", full)
    before = sorted(here.rglob("*"))
    assert main(["audit", "bundle", "--documents", "documents.csv", "--budget", "24", "--out", "new"]) == 2
    assert sorted(here.rglob("*")) == before


def test_more_questions_than_the_design_has_are_refused(here, capsys) -> None:
    write(here / "answers.csv", answered())
    said = fails(capsys, "bundle", "--documents", "documents.csv", "--answers", "answers.csv", "--budget", "121")
    assert "--budget must be at most 120" in said and not (here / "audit/audit.json").exists()


@pytest.fixture
def own(made, tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, with the documents and a bundle of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    (tmp_path / "documents.csv").symlink_to(made / "documents.csv")
    return tmp_path


def plan_promise(*more: str) -> int:
    return main(["audit", "bundle", "--documents", "documents.csv", "--budget", "60", "--promise", "0.2", *more])


def answer(count: int = 60, **other: str) -> None:
    write(Path("answers.csv"), answered(count, **other))


def test_a_promise_goes_into_the_bundle_and_is_kept_by_predict(own, capsys) -> None:
    assert plan_promise() == 0
    said = capsys.readouterr().out
    assert said.startswith("60 questions") and said.splitlines()[-1].endswith("questions.csv --promise 0.2")
    before = {file.name: file.read_bytes() for file in Path("bundle").iterdir() if file.is_file()}
    answer()
    assert read("--promise", "0.2") == 0
    said = capsys.readouterr().out
    promise = read_card("bundle").promise
    assert promise is not None and (promise.risk, promise.level, promise.documents) == (0.2, 0.95, 120) and promise.backend == "torch"
    assert f"Promise: {promise.sentence}. It rests on " in said
    assert promise.sentence.startswith("at most 20 % of the answers are wrong (with 95 % confidence), where texts")
    assert promise.sentence in Path("audit/audit.md").read_text() and promise.sentence in Path("bundle/README.md").read_text()
    after = {file.name: file.read_bytes() for file in Path("bundle").iterdir() if file.is_file()}
    assert {name for name in before if before[name] != after[name]} == {"selftrain.json", "README.md"} and set(before) == set(after)
    assert sorted(file.name for file in own.iterdir()) == ["answers.csv", "audit", "bundle", "documents.csv"]
    # the answers of the audit can be read again: its fingerprint is that of what the bundle computes
    assert read("--promise", "0.2") == 0
    capsys.readouterr()

    classifier = Classifier.load("bundle", device="cpu")
    texts = [row["text"] for row in documents()]
    scores = classifier.predict_proba(texts).max(axis=1)
    assert (scores >= promise.threshold).mean() == pytest.approx(promise.answered)
    surest, least = texts[int(scores.argmax())], texts[int(scores.argmin())]
    restated = read_card("bundle").model_dump(mode="json")
    restated["promise"]["threshold"] = float(np.median(scores))
    Path("bundle/selftrain.json").write_text(json.dumps(restated))
    assert Classifier.load("bundle", device="cpu").predict([surest, least], abstain=True).tolist() == [*classifier.predict([surest]), None]
    assert main(["predict", "--bundle", "bundle", "--abstain", surest, least]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == classifier.predict([surest])[0] and lines[1][0] == "-" and float(lines[1][1]) < np.median(scores)
    assert main(["predict", "--bundle", "bundle", "--file", "documents.csv", "--out", "labeled.csv", "--abstain"]) == 0
    rows = questions("labeled.csv")
    assert [row["label"] == "" for row in rows] == [float(row["probability"]) < np.median(scores) for row in rows]
    assert 0 < sum(row["label"] == "" for row in rows) < len(rows) and all(row["error"] == "" for row in rows)


def documents() -> list[dict[str, str]]:
    return questions("documents.csv")


def test_answers_that_support_no_promise_say_what_would(own, capsys) -> None:
    assert plan_promise() == 0
    answer(59)
    card = Path("bundle/selftrain.json").read_bytes()
    assert read("--promise", "0.2") == 2
    assert "No promise of 20 %: it takes the answers to all 60 planned questions, and 1 are open." in capsys.readouterr().out
    wrong = {f"q{place}": "none of these" for place in range(1, 31)}
    answer(60, **wrong)
    assert read("--promise", "0.2") == 2
    said = capsys.readouterr().out
    assert "are against the prediction, and at most" in said and "accuracy 0." in said
    answer(60)
    assert read("--promise", "0.01") == 2
    said = capsys.readouterr().out
    assert (
        "No promise of 1 %: 60 answers of this audit cannot support it, even if all agree with the prediction; " in said
        and "can be promised now" in said
    )
    assert Path("bundle/selftrain.json").read_bytes() == card and "No promise of 1 %" in Path("audit/audit.md").read_text()


def test_sets_go_into_the_bundle_and_are_kept_by_predict(own, capsys) -> None:
    assert main(["audit", "bundle", "--documents", "documents.csv", "--budget", "60", "--sets", "0.2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("questions.csv --sets 0.2")
    asked = json.loads(Path("audit/design.json").read_text())["questions"][:60]
    assert set(Counter(question["stratum"] for question in asked).values()) == {10}
    answer(60, q1="none of these", q2="skip")
    assert read("--sets", "0.2", "--promise", "0.2") == 0
    said, card = capsys.readouterr().out, read_card("bundle")
    sets = card.sets
    assert card.promise is not None and sets is not None, "both are kept"
    assert (sets.risk, sets.level, sets.documents, sets.answers, sets.classes, sets.backend) == (0.2, 0.95, 120, 60, 2, "torch")
    assert f"Sets: {sets.sentence}. It rests on 60 answers, {sets.missed} of them not in the set" in said and 2 <= sets.missed <= 6
    assert sets.sentence in Path("audit/audit.md").read_text() and sets.sentence in Path("bundle/README.md").read_text()

    classifier = Classifier.load("bundle", device="cpu")
    rows = documents()
    probabilities = classifier.predict_proba([row["text"] for row in rows])
    threshold = float(np.sort(probabilities.min(axis=1))[30])  # the second class is in a set of three quarters of the documents
    restate(Path("bundle"), card.model_copy(update={"sets": sets.model_copy(update={"threshold": threshold})}))
    found = Classifier.load("bundle", device="cpu").predict_sets([row["text"] for row in rows])
    assert [names[0] for names in found] == classifier.predict([row["text"] for row in rows]).tolist()
    assert Counter(map(len, found)) == {1: 30, 2: 90}
    alone = next(index for index, names in enumerate(found) if len(names) == 1)
    assert main(["predict", "--bundle", "bundle", "--sets", rows[alone]["text"]]) == 0
    assert capsys.readouterr().out.split("\t")[2:] == [found[alone][0], f"{rows[alone]['text']}\n"]
    assert main(["predict", "--bundle", "bundle", "--file", "documents.csv", "--out", "labeled.csv", "--sets"]) == 0
    assert [json.loads(row["set"]) for row in questions("labeled.csv")] == found


def test_answers_that_support_no_sets_say_why(own, capsys) -> None:
    plan = ["audit", "bundle", "--documents", "documents.csv", "--sets"]
    assert "--sets must be a share of sets without the true class above 0 and below 1, such as 0.1 (got 1)" in fails(capsys, *plan[1:], "1")
    assert main([*plan, "0.05", "--budget", "30"]) == 2
    assert "--budget must be about 70 questions for sets of 0.05 even if every prediction is right (got 30)" in capsys.readouterr().err
    assert "--sets writes into the bundle, so BUNDLE must be a folder" in fails(capsys, "models:/toy@champion", *plan[2:], "0.1")
    assert main(["predict", "--bundle", "bundle", "--sets", "a text"]) == 2
    assert "--sets need a promise of their own, and this bundle states none; audit the bundle for sets first." in capsys.readouterr().err
    assert main([*plan, "0.2", "--budget", "60"]) == 0
    card = Path("bundle/selftrain.json").read_bytes()
    answer(59)
    assert read("--sets", "0.2") == 2
    assert "No sets of 20 %: they take the answers to all 60 planned questions, and 1 are open." in capsys.readouterr().out
    answer(60, **{f"q{place}": "none of these" for place in range(1, 9)})
    assert read("--sets", "0.2") == 2
    why = "8 of 60 answers are of none of the classes or skipped, which no set holds, and at most 6 may be missed; 25 % can be promised now."
    assert f"No sets of 20 %: {why}" in capsys.readouterr().out
    answer()
    assert read("--sets", "0.01") == 2
    assert "No sets of 1 %: 60 answers of this audit cannot support them, even if every prediction is right; 7.5 % can" in capsys.readouterr().out
    assert Path("bundle/selftrain.json").read_bytes() == card


NONSENSE = "<script>alert"


def keep_documents() -> None:
    """Make the bundle keep 240 documents like those of the audit."""
    classifier, card = Classifier.load("bundle", device="cpu"), read_card("bundle")
    probabilities, embeddings = classifier.embed([f"{text} {n}" for n in range(120) for text in (SPORT, BUSINESS)])
    reference = Reference(probabilities, embeddings)
    Path("bundle/reference.safetensors").write_bytes(reference.content())
    restate(Path("bundle"), card.model_copy(update={"reference": reference.facts(probabilities, held_out=False)}))


def test_none_of_these_goes_into_the_bundle_and_is_kept_by_predict(own, capsys) -> None:
    plan = ["audit", "bundle", "--documents", "documents.csv", "--budget", "60", "--none-of-these"]
    assert main([*plan, "0.2"]) == 2
    assert "--none-of-these needs documents to compare with, and this bundle keeps none" in capsys.readouterr().err
    assert "--none-of-these must be a share of texts of a class that are taken for none" in fails(capsys, *plan[1:], "1")
    keep_documents()
    rows = [*documents(), *({"text": f"{NONSENSE}({n})</script>", "n": n} for n in range(20))]
    Path("documents.csv").unlink()
    write(Path("documents.csv"), rows)
    assert main([*plan[:4], "--budget", "30", *plan[6:], "0.05"]) == 2
    assert "--budget must be about 70 questions for --none-of-these of 0.05" in capsys.readouterr().err
    assert main([*plan, "0.2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("questions.csv --none-of-these 0.2")
    none = {f"q{place}": "none of these" for place, row in enumerate(questions(), 1) if row["text"].startswith(NONSENSE)}
    answer(59, **{place: label for place, label in none.items() if place != "q60"})
    card = Path("bundle/selftrain.json").read_bytes()
    assert read("--none-of-these", "0.2") == 2 and Path("bundle/selftrain.json").read_bytes() == card
    assert "No promise of 20 % for none of these: it takes the answers to all 60 planned questions, and 1 are open." in capsys.readouterr().out
    answer(60, **none)
    assert read("--none-of-these", "0.2") == 0
    said, promise = capsys.readouterr().out, read_card("bundle").none_of_these
    assert promise is not None and (promise.risk, promise.level, promise.documents, promise.answers) == (0.2, 0.95, 140, 60)
    assert promise.none == len(none) == promise.caught > 0 and f"None of these: {promise.sentence}. It rests on 60 answers" in said
    assert promise.sentence in Path("audit/audit.md").read_text()

    classifier = Classifier.load("bundle", device="cpu")
    asked = [row["text"] for row in questions()]
    typicality = classifier.typicality(asked)[1]
    assert promise.wrong == sum(one <= promise.threshold and not text.startswith(NONSENSE) for one, text in zip(typicality, asked, strict=True)) <= 6
    found = classifier.predict([row["text"] for row in rows], none_of_these="promise")
    assert all(name is None for name in found[120:]) and sum(name is None for name in found[:120]) <= 0.2 * 140
    assert main(["predict", "--bundle", "bundle", "--none-of-these", "promise", rows[-1]["text"]]) == 0
    assert capsys.readouterr().out.startswith("none of these\t")
    assert read("--none-of-these", "0.01") == 2
    assert "No promise of 1 % for none of these: 60 answers of this audit cannot support it, whatever they are; " in capsys.readouterr().out


def test_a_promise_wants_the_folder_of_a_bundle(own, capsys) -> None:
    assert "BUNDLE must be a folder (got 'models:/toy@champion')" in fails(
        capsys, "models:/toy@champion", "--documents", "documents.csv", "--promise", "0.2"
    )


def test_impossible_promises_are_refused_before_anything_is_written(own, capsys) -> None:
    assert "--promise must be a share of wrong answers above 0 and below 1, such as 0.05 (got 1)" in fails(
        capsys, "bundle", "--documents", "documents.csv", "--promise", "1"
    )
    capsys.readouterr()
    assert main(["audit", "bundle", "--documents", "documents.csv", "--budget", "30", "--promise", "0.05"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--budget must be about 80 questions for a promise of 0.05 even if every prediction is right (got 30)" in said
    assert not Path("audit").exists()
    assert main(["predict", "--bundle", "bundle", "--abstain", "a text"]) == 2
    assert "--abstain needs a promise, and this bundle states none; audit the bundle with a promise first." in capsys.readouterr().err


def test_an_audit_of_before_promises_gives_figures_and_no_promise(here, capsys) -> None:
    design = json.loads(Path("audit/design.json").read_text())
    for key in ("backend", "thresholds", "above"):
        del design[key]
    for question in design["questions"]:
        del question["score"]
    Path("audit/design.json").write_text(json.dumps(design))
    write(here / "answers.csv", answered())
    assert read() == 0
    assert "by a version without promises; start another audit" in fails(
        capsys, "bundle", "--documents", "documents.csv", "--answers", "answers.csv", "--promise", "0.2"
    )


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


def test_a_registered_bundle_is_audited_in_an_object_store(here, server, tmp_path, monkeypatch, capsys) -> None:
    bucket, files = new_bucket(server, monkeypatch), s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    register(here / "bundle", "toy", promote=True, uri=(uri := f"sqlite:///{tmp_path}/mlflow.db"))
    pq.write_table(csv_table("documents.csv"), "documents.parquet")
    files.put_file("documents.parquet", f"{bucket}/documents/part-0.parquet")
    words = ["models:/toy@champion", "--documents", f"{bucket}/documents/", "--out", f"{bucket}/audit", "--tracking-uri", uri]
    assert main(["audit", *words, "--budget", "24"]) == 0
    assert f"24 questions about 120 documents: {bucket}/audit/questions.csv" in (said := capsys.readouterr().out)
    assert f"--answers {bucket}/audit/questions.csv --out {bucket}/audit" in said
    assert sorted(name.rpartition("/")[2] for name in files.ls(f"{bucket}/audit")) == ["design.json", "questions.csv"]
    assert questions(fetched(files, f"{bucket}/audit/questions.csv")) == questions(), "those of the folder and the file"
    assert f"--out '{bucket}/audit' holds an audit already; pass its answers" in fails(capsys, *words)

    write(Path("answers.csv"), answered())
    files.put_file("answers.csv", f"{bucket}/answers.csv")
    design = files.info(f"{bucket}/audit/design.json")["LastModified"]
    assert main(["audit", *words, "--answers", f"{bucket}/answers.csv"]) == 0
    said = capsys.readouterr().out
    assert f"report     {bucket}/audit/audit.md" in said
    assert read() == 0
    here_said = capsys.readouterr().out
    assert said.partition("report")[0] == here_said.partition("report")[0] != ""
    assert files.cat_file(f"{bucket}/audit/audit.json") == Path("audit/audit.json").read_bytes()
    assert files.info(f"{bucket}/audit/design.json")["LastModified"] == design, "what has not changed is not written again"

    assert f"--answers must be a file that exists (got '{bucket}/none.csv')." in fails(capsys, *words, "--answers", f"{bucket}/none.csv")
    files.pipe_file(f"{bucket}/empty.csv", b"id,text,label\n")
    assert f"{bucket}/empty.csv" in fails(capsys, *words, "--answers", f"{bucket}/empty.csv")
    assert "has no model 'toys' (it has: toy)" in fails(capsys, "models:/toys@champion", *words[1:])


def csv_table(file: str) -> pa.Table:
    with Path(file).open(newline="", encoding="utf-8") as opened:
        return pa.Table.from_pylist(list(csv.DictReader(opened)))


def fetched(files: s3fs.S3FileSystem, address: str) -> Path:
    files.get_file(address, "fetched.csv")
    return Path("fetched.csv")


@pytest.mark.parametrize(
    ("bundle", "says"),
    [
        (
            "s3://bucket/bundle",
            "BUNDLE must be a folder, or a registered one: models:/NAME@champion or models:/NAME/VERSION (got 's3://bucket/bundle').",
        ),
        ("models:/toy", "BUNDLE must be models:/NAME@ALIAS or models:/NAME/VERSION (got 'models:/toy')."),
    ],
)
def test_a_bundle_of_another_address_is_one_sentence(here, capsys, bundle, says) -> None:
    assert says in fails(capsys, bundle, "--documents", "documents.csv")
    assert sorted(path.name for path in here.iterdir()) == ["audit", "bundle", "documents.csv"]
