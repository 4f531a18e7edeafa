"""A pass over many files without Ray: in place of the pool of processes, one worker in this process is asked one part after the other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from many_files import check_result, files_of, rows_of, write_parquet, write_toy_bundle

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card, restate
from selftrain.bundle.promise import PredictionSets, Promise
from selftrain.bundle.reference import Reference
from selftrain.data import parquet
from selftrain.data.tables import open_table
from selftrain.errors import ConfigError, DataError, OutputError, SelfTrainError
from selftrain.passes import prediction
from selftrain.passes.prediction import PredictedFiles, predict_files
from selftrain.passes.worker import STATE, Counts, Predictor

pytestmark = pytest.mark.usefixtures("one_thread")


def test_files_of_all_kinds_are_labeled_as_each_is_by_itself(docs, bundle, here, small_parts, tmp_path, capsys):
    out = tmp_path / "labeled"
    made = predict_files(bundle, docs, out)
    assert "1 other files" in capsys.readouterr().err
    check_result(out, bundle, files_of(docs), tmp_path / "one by one")
    manifest = json.loads((out / "_manifest.json").read_text())
    assert made == PredictedFiles(str(out), 201, made.failed, manifest["counts"]["labels"], len(here.classified), found=False) and made.failed >= 6
    assert made.parts > 12 and manifest["classes"] == ["sport", "politics", "business"] and manifest["text_column"] == "text"
    first = manifest["parts"][0]
    assert first["from"][0] == {"file": str(docs / "a.parquet"), "start": 0, "stop": first["rows"]} and len(manifest["inputs"]) == 6

    here.classified.clear()
    again = predict_files(bundle, docs, out)
    assert again == PredictedFiles(made.out, made.rows, made.failed, made.labels, made.parts, found=True) and not here.classified


def test_a_tree_of_classes_has_its_columns_as_in_one_file(bundle, here, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(bundle, tree)
    restate(tree, read_card(tree).model_copy(update={"parents": (("free time",), ("work",), ("work",))}))
    (tmp_path / "docs").mkdir()
    write_parquet(tmp_path / "docs" / "a.parquet", rows_of("a", 45))
    predict_files(tree, tmp_path / "docs", tmp_path / "labeled")
    check_result(tmp_path / "labeled", tree, files_of(tmp_path / "docs"), tmp_path / "one by one")
    (file,) = (tmp_path / "labeled").glob("part-*")
    assert {"parent", "parent_probability"} <= set(pq.read_table(file).column_names)


def test_a_stopped_pass_goes_on_and_does_nothing_twice(docs, bundle, here, small_parts, tmp_path):
    out = tmp_path / "labeled"
    here.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        predict_files(bundle, docs, out)
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(written) == 5 and not (out / "_manifest.json").exists() and json.loads((out / "_pass.json").read_text())["files"] == 6
    torn, *whole = sorted(written)
    (out / torn).write_bytes((out / torn).read_bytes()[:-20])
    (out / ".0123.tmp").write_bytes(b"of a process that was killed")
    here.stop_after, here.classified = None, []
    made = predict_files(bundle, docs, out)
    assert len(here.classified) == made.parts - 4 and torn in here.classified and not made.found
    assert {name: (out / name).stat().st_mtime_ns for name in whole} == {name: written[name] for name in whole}
    check_result(out, bundle, files_of(docs), tmp_path / "one by one")


def test_a_wrong_file_costs_its_own_rows_until_it_is_taken_out(docs, bundle, here, small_parts, tmp_path, monkeypatch):
    out = tmp_path / "labeled"
    write_parquet(docs / "bad.parquet", [{"id": "x", "text": "goal " * 5000}] * 24, use_dictionary=False, row_group_size=12)
    monkeypatch.setattr(parquet, "PAGE_BYTES", 100_000)
    with pytest.raises(
        DataError, match=r"bad\.parquet, column 'text' has a page of 0 MB, more than any writer makes.* So it is with 1 other parts\. All other rows"
    ):
        predict_files(bundle, docs, out)
    assert not (out / "_manifest.json").exists()
    before = {path.name[-28:]: path.stat().st_mtime_ns for path in out.glob("part-*")}
    (docs / "bad.parquet").unlink()
    here.classified.clear()
    made = predict_files(bundle, docs, out)
    assert not here.classified and made.parts == len(before) and {path.name[-28:]: path.stat().st_mtime_ns for path in out.glob("part-*")} == before
    check_result(out, bundle, files_of(docs), tmp_path / "one by one")


def test_what_is_in_the_output_is_never_mixed_with_another_pass(docs, bundle, here, small_parts, tmp_path):
    out, other = tmp_path / "labeled", write_toy_bundle(tmp_path / "other", seed=1)

    def refused(words: str, **changed) -> None:
        before = sorted(path.name for path in out.iterdir())
        with pytest.raises(OutputError, match=words) as caught:
            predict_files(changed.pop("bundle", bundle), docs, out, **changed)
        assert caught.value.parameter == "out" and str(caught.value).startswith("out") and sorted(path.name for path in out.iterdir()) == before

    here.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        predict_files(bundle, docs, out)
    here.stop_after = None
    for _ in ("begun", "finished"):
        refused("holds the labels by another bundle; pass a new folder", bundle=other)
        refused(r"holds the labels of another column \('text'\)", text_column="id")
        state = (docs / "a.parquet").stat()
        os.utime(docs / "a.parquet", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        refused("holds the labels of other files, or of files that were changed since; pass a new folder")
        os.utime(docs / "a.parquet", ns=(state.st_atime_ns, state.st_mtime_ns))
        predict_files(bundle, docs, out)
    write_parquet(docs / "new.parquet", rows_of("new", 5))
    refused("holds the labels of other files")
    (docs / "new.parquet").unlink()
    (out / "_manifest.json").write_text("[")
    refused("holds a damaged _manifest.json")


@pytest.fixture
def promising(tmp_path) -> Path:
    """A bundle that answers about half of the rows under its promise."""
    folder = write_toy_bundle(tmp_path / "promising")
    scores = sorted(Classifier.load(folder, device="cpu").predict_proba([row["text"] for row in rows_of("a", 45) if row["text"].strip()]).max(axis=1))
    promise = Promise(
        risk=0.05, level=0.95, threshold=(scores[21] + scores[22]) / 2, answered=0.5, documents=44, answers=40, wrong=0, backend="torch", made="now"
    )
    sets = PredictionSets(risk=0.1, level=0.95, threshold=0.3, size=1.5, classes=3, documents=44, answers=40, missed=0, backend="torch", made="now")
    restate(folder, read_card(folder).model_copy(update={"promise": promise, "sets": sets}))
    return folder


def test_a_pass_abstains_and_writes_sets_as_one_file_does(docs, promising, here, small_parts, tmp_path):
    out = tmp_path / "labeled"
    here.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        predict_files(promising, docs, out, abstain=True, sets=True)
    here.stop_after = None
    with pytest.raises(OutputError, match=r"^out .*labeled holds the labels of a pass that abstained; pass a new folder"):
        predict_files(promising, docs, out)
    here.classified.clear()
    made = predict_files(promising, docs, out, abstain=True, sets=True)
    assert len(here.classified) == made.parts - 5, "what is there is counted, and not classified again"
    check_result(out, promising, files_of(docs), tmp_path / "one by one", abstain=True, sets=True)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["sets"] == 0.3
    with pytest.raises(OutputError, match="holds the labels of a pass that wrote sets; pass a new folder"):
        predict_files(promising, docs, out, abstain=True)
    assert manifest["threshold"] == read_card(promising).promise.threshold and manifest["counts"]["abstained"] == made.abstained > 50
    assert predict_files(promising, docs, out, abstain=True, sets=True).abstained == made.abstained
    with pytest.raises(OutputError, match="holds the labels of a pass that abstained"):
        predict_files(promising, docs, out)

    predict_files(promising, docs, tmp_path / "all")
    with pytest.raises(OutputError, match="holds the labels of a pass that did not abstain; pass a new folder"):
        predict_files(promising, docs, tmp_path / "all", abstain=True)


def test_a_pass_says_none_of_these_as_one_file_does(docs, here, small_parts, tmp_path):
    folder, out = write_toy_bundle(tmp_path / "toy"), tmp_path / "labeled"
    reference = Reference(*Classifier.load(folder, device="cpu").embed([row["text"] for row in rows_of("k", 241) if row["text"].strip()]))
    (folder / "reference.safetensors").write_bytes(reference.content())
    restate(folder, read_card(folder).model_copy(update={"reference": reference.facts(reference.probabilities, held_out=False)}))
    with pytest.raises(ConfigError, match="must be a share of the 240 known documents"):
        predict_files(folder, docs, out, none_of_these=0.001)
    made = predict_files(folder, docs, out, none_of_these=0.3)
    check_result(out, folder, files_of(docs), tmp_path / "one by one", none_of_these=0.3)
    assert made.abstained > 0 and json.loads((out / "_manifest.json").read_text())["none_of_these"] == 0.3
    with pytest.raises(OutputError, match="holds the labels of a pass that asked for none of these in this way; pass a new folder"):
        predict_files(folder, docs, out, none_of_these=0.2)


def test_a_pass_of_before_it_could_abstain_is_continued(docs, bundle, here, small_parts, tmp_path):
    out = tmp_path / "labeled"
    made = predict_files(bundle, docs, out)
    manifest = json.loads((out / "_manifest.json").read_text())
    del manifest["threshold"], manifest["sets"], manifest["none_of_these"], manifest["counts"]["abstained"]
    (out / "_manifest.json").write_text(json.dumps(manifest))
    assert predict_files(bundle, docs, out).abstained == 0
    (out / "_manifest.json").unlink()
    state = json.loads((out / STATE).read_text())
    del state["threshold"], state["sets"], state["none_of_these"]
    (out / STATE).write_text(json.dumps(state))
    here.classified.clear()
    assert predict_files(bundle, docs, out) == made and not here.classified


def test_what_cannot_keep_a_promise_is_refused_before_anything_is_written(docs, bundle, promising, here, tmp_path, monkeypatch):
    def refused(folder: Path, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            predict_files(folder, docs, tmp_path / "labeled", abstain=True)
        assert caught.value.parameter == "abstain" and not here.classified

    refused(bundle, "abstain needs a promise")
    with pytest.raises(ConfigError, match="sets need a promise of their own"):
        predict_files(bundle, docs, tmp_path / "labeled", sets=True)
    card = read_card(promising)
    restate(promising, card.model_copy(update={"promise": card.promise.model_copy(update={"backend": "onnx-int8"})}))
    refused(promising, "abstain is not possible with the backend torch")
    assert not (tmp_path / "labeled").exists()
    send = prediction.send
    monkeypatch.setattr(prediction, "send", lambda *what, alone: send(*what, alone=True))  # there is no Ray here to send it by
    monkeypatch.setattr(prediction, "is_alone", lambda: False)  # on a cluster the process that opens the bundle says so
    refused(promising, "abstain is not possible with the backend torch")


def test_rows_are_counted_by_what_became_of_them():
    counts = Counts()
    counts.add(["a", None, None, "b", "a"], [None, "empty", None, None, None])
    counts.add_all(Counts(1, 0, 1, {}))
    assert vars(counts) == {"rows": 6, "failed": 1, "abstained": 2, "labels": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("theirs", r"out must be a new or an empty folder .*theirs', which holds 'file'"),
        ("labels.parquet", "out must be a folder or an address for the labels of many files"),
        ("docs", "out must not lie in the folder that is read"),
        ("docs/more/labeled", "out must not lie in the folder that is read"),
        ("docs/a.parquet/labeled", "out cannot be written"),
        ("ftp://host/labeled", "out must be a path, or an address that begins with s3:// or gs://"),
    ],
)
def test_an_output_that_cannot_be_used_is_one_sentence(docs, bundle, here, tmp_path, monkeypatch, out, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    source = "docs/*.parquet" if out == "docs/a.parquet/labeled" else "docs"
    with pytest.raises(SelfTrainError, match=words) as caught:
        predict_files(bundle, source, out)
    assert caught.value.parameter == "out" and not here.classified


def changed(rows: list[dict], **columns) -> list[dict]:
    return [{name: value for name, value in (row | columns).items() if value is not ...} for row in rows]


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        (
            "x.parquet",
            lambda file: write_parquet(file, changed(rows_of("x", 5), text=..., txt="a")),
            r"text_column 'text' is not a column of .*x\.parquet; did you mean",
        ),
        (
            "x.parquet",
            lambda file: write_parquet(file, changed(rows_of("x", 5), more="a")),
            r"x\.parquet has other columns than .*a\.parquet: it has 'more' too",
        ),
        (
            "x.parquet",
            lambda file: write_parquet(file, changed(rows_of("x", 5), id=...)),
            r"x\.parquet has other columns than .*a\.parquet: it has no 'id'",
        ),
        ("x.parquet", lambda file: write_parquet(file, changed(rows_of("x", 5), id=7)), r"x\.parquet .*: its 'id' is int64 and not string"),
        (
            "x.jsonl",
            lambda file: file.write_text('{"id": 1, "text": "a"}\n{"text": 2, "n": 7}\n'),
            r"c\.jsonl has other columns than .*: it has 'n' too",
        ),
        ("x.csv", lambda file: file.write_text("id,txt\n1,a\n"), r"text_column 'text' is not a column of .*x\.csv"),
        ("x.csv", lambda file: file.touch(), r"x\.csv is empty"),
        ("x.parquet", lambda file: file.write_text("text\n"), r"x\.parquet is not a readable Parquet file"),
        ("x.jsonl", lambda file: file.write_text('{"text": "a"}\nnonsense\n'), r"x\.jsonl is not valid JSON: .* on line 2"),
        ("x.csv.gz", lambda file: file.write_text("text\na\n"), r"x\.csv\.gz is not a readable gzip file"),
    ],
)
def test_a_file_that_does_not_fit_is_named_before_anything_is_written(docs, bundle, here, tmp_path, name, write, words):
    write(docs / name)
    with pytest.raises(DataError, match=words):
        predict_files(bundle, docs, tmp_path / "labeled")
    assert not here.classified and not (tmp_path / "labeled").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing/*.parquet", "source has no file to read"),
        ("docs/*.md", "source has no file to read"),
        ("empty", "source has no file to read"),
        ("docs/*.txt", r"readme\.txt is not a .*\.parquet file; take it out of source"),
    ],
)
def test_nothing_to_read(docs, bundle, here, tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=words):
        predict_files(bundle, source, "labeled")
    assert not (tmp_path / "labeled").exists()


def test_wildcards(docs, bundle, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, rows in (("docs/*.parquet", 45), ("docs/**/*.parquet", 145), ("docs/[ce].*", 25), ("docs/?.json*", 26)):
        assert predict_files(bundle, source, f"labels {rows}").rows == rows


def test_rows_of_json_lines_may_differ_in_their_columns(bundle, here, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.jsonl").write_text('{"text": "goal", "n": null, "file": "theirs"}\n{"text": "vote"}\n')
    (tmp_path / "docs" / "b.jsonl").write_text('{"text": "team", "n": 7}\n')
    predict_files(bundle, tmp_path / "docs", tmp_path / "labeled")
    found = pq.read_table(next((tmp_path / "labeled").glob("part-*")))
    assert found.column("n").to_pylist() == [None, None, 7] and found.column("file").to_pylist() == ["theirs", None, None]
    assert [Path(path).name for path in found.column("predicted_file").to_pylist()] == ["a.jsonl", "a.jsonl", "b.jsonl"]


def test_a_file_that_changes_meanwhile_is_not_half_old_and_half_new(docs, bundle, here, tmp_path, monkeypatch):
    def answers(asked, worker, arguments, **how):
        if worker is Predictor:
            write_parquet(docs / "a.parquet", rows_of("a", 60))
        return here.answers(asked, worker, arguments, **how)

    monkeypatch.setattr(prediction, "answers", answers)
    with pytest.raises(DataError, match=r"a\.parquet was changed after it was found; repeat the command"):
        predict_files(bundle, docs / "*.parquet", tmp_path / "labeled")
    assert not list((tmp_path / "labeled").glob("part-*"))


def test_a_node_that_has_another_folder_of_that_name_is_refused(docs, bundle, here, tmp_path, monkeypatch):
    def answers(asked, worker, arguments, **how):
        if worker is Predictor:
            (tmp_path / "labeled" / "_pass.json").unlink()
        return here.answers(asked, worker, arguments, **how)

    monkeypatch.setattr(prediction, "answers", answers)
    with pytest.raises(OutputError, match=r"out .*labeled is not the same folder on .*; pass a folder that all nodes share, or an address"):
        predict_files(bundle, docs / "*.parquet", tmp_path / "labeled")


def test_progress_where_nobody_looks(docs, bundle, here, small_parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prediction, "_SAY_SECONDS", 0.0)
    here.stop_after = 6
    with pytest.raises(KeyboardInterrupt):
        predict_files(bundle, docs, tmp_path / "labeled")
    here.stop_after = None
    predict_files(bundle, docs, tmp_path / "labeled")
    lines = [line for line in capsys.readouterr().err.splitlines() if "a second" in line]
    assert lines[5].startswith("selftrain: ") and " of 201 texts, " in lines[5]
    assert all(line.endswith(" texts, 0 a second") for line in lines[6:12])  # what was found says nothing of the rate
    assert lines[-1].startswith("selftrain: 201 of 201 texts, ") and not lines[-1].endswith(" 0 a second")


def test_a_range_of_a_table_is_that_part_of_it(docs):
    for file in files_of(docs):
        table = open_table(file, "text")
        rows = [row.cells for row in table.read()]
        for start, stop in ((0, 3), (2, 8), (9, 11), (10, 20), (5, 33), (30, 200), (0, 0), (300, 400)):
            assert [row.cells for row in table.read(start, stop)] == rows[start:stop], (file, start, stop)
        assert [row.cells for row in table.read(7)] == rows[7:]
