"""An exported bundle computes what the trained one does, with the real ONNX Runtime and OpenVINO, and is whole or as it was."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding
from tiny import WORDS, tiny_backbone

from selftrain.bundle import backends
from selftrain.bundle.backends import BACKENDS, Int8Cost, read_record
from selftrain.bundle.classifier import Classifier, _say_once
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.cli import main
from selftrain.compress import onnx as compiling
from selftrain.compress.graph import Graph, int8_cost, largest_difference
from selftrain.compress.onnx import CheckDocuments, describe_export, export_bundle
from selftrain.errors import BundleError, ConfigError, DataError, MissingExtraError, OutputError
from selftrain.models.bilstm import bilstm

LABELS = ("sport", "tech", "politics")


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of 1 to 30 words, so some are longer than what is read."""
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS.split(), k=chosen.randint(1, 30))) for _ in range(count)]


DOCUMENTS = CheckDocuments(texts(120), "made-up documents")


@pytest.fixture(scope="module", autouse=True)
def _measured_quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "_MEASURED_SECONDS", 0.0)
        patch.setattr(compiling, "_MEASURED_ROUNDS", 2)
        yield


def card(**changes) -> BundleCard:
    return BundleCard(**({"name": "news", "labels": LABELS, "method": "genco", "scale": 10.0, "max_tokens": 16} | changes))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> SentenceTransformer:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(backbone, tmp_path_factory) -> Path:
    prototypes = backbone.encode([f"about {label}" for label in LABELS], convert_to_tensor=True)
    return write_bundle(tmp_path_factory.mktemp("plain") / "bundle", backbone=backbone, prototypes=prototypes, card=card())


@pytest.fixture(scope="module")
def exported(plain, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    export_bundle(plain, DOCUMENTS, out=out, max_accuracy_loss=1.0, threads=1)
    return out


@pytest.fixture
def graph_of_plain(exported, monkeypatch) -> None:
    """An export of `plain` takes the graph of `exported`, which is the same one and takes seconds to make."""
    monkeypatch.setattr(compiling, "write_graph", lambda graph, file: shutil.copy(exported / "onnx" / "model.onnx", file))


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_every_backend_gives_the_same_probabilities(plain, exported) -> None:
    expected = Classifier.load(plain, device="cpu").predict_proba(texts(50, seed=1))
    for name, tolerance in (("torch", 0), ("onnx", 1e-5), ("openvino", 1e-5)):
        opened = Classifier.load(exported, backend=name, threads=1)
        assert opened.backend == name
        found = opened.predict_proba(texts(50, seed=1))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert opened.classes_.tolist() == list(LABELS)
        assert [(len(one.ids), one.truncated) for one in opened.tokenize(["the team", "match " * 40])] == [(4, False), (16, True)]
        assert opened.predict_proba([]).shape == (0, 3)
        with pytest.raises(DataError, match=r"Text 1 of 2.*empty"):
            opened.predict(["fine", " "])


def test_windows_are_read_and_averaged_by_every_backend(plain, graph_of_plain, tmp_path) -> None:
    source = Path(shutil.copytree(plain, tmp_path / "source"))
    (source / "selftrain.json").write_text(json.dumps(json.loads((source / "selftrain.json").read_text()) | {"windows": 2, "format": 2}))
    long = CheckDocuments([" ".join(["the team"] * 12 + [one]) for one in DOCUMENTS.texts], "made-up documents")
    record = export_bundle(source, long, max_accuracy_loss=1.0, backends=("onnx", "onnx-int8"), threads=1)
    assert record.int8 is not None and record.int8.documents == 120  # not windows
    rows = texts(50, seed=1)
    expected = Classifier.load(source, device="cpu", backend="torch").predict_proba(rows)
    assert not np.allclose(expected, Classifier.load(plain, device="cpu").predict_proba(rows), atol=1e-3)
    found = Classifier.load(source, backend="onnx", threads=1)
    np.testing.assert_allclose(found.predict_proba(rows), expected, atol=1e-5)
    assert [(len(one.windows), one.truncated) for one in found.tokenize(["the team", "match " * 40])] == [(1, False), (2, False)]


def test_int8_holds_every_weight_to_half_a_step_and_the_probabilities_nearly(plain, exported) -> None:
    float32, int8 = (onnx.load(exported / "onnx" / name) for name in ("model.onnx", "model_int8.onnx"))
    exact = {one.name: onnx.numpy_helper.to_array(one) for one in float32.graph.initializer}
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in int8.graph.initializer}
    quantized = [name.removesuffix("_quantized") for name in stored if name.endswith("_quantized")]
    assert len(quantized) == 9  # three embeddings, and six matrices of the layer
    for name in quantized:
        scale, zero = stored[f"{name}_scale"], stored[f"{name}_zero_point"].astype(np.float64)
        found = (stored[f"{name}_quantized"].astype(np.float64) - zero) * scale
        assert np.all(np.abs(found - exact[name]) <= 0.5001 * scale), name
        assert np.any(found != exact[name]), name
    rows = texts(50, seed=1)
    expected = Classifier.load(plain, device="cpu").predict_proba(rows)
    difference = np.abs(Classifier.load(exported, backend="onnx-int8", threads=1).predict_proba(rows) - expected)
    # Measured: .016 at most and .004 in the mean; two classes changed for one another are .3 apart.
    assert 0 < difference.max() < 0.05 and difference.mean() < 0.01


def test_the_record_says_what_was_chosen_and_measured(exported) -> None:
    record = read_record(exported)
    assert record is not None
    assert [entry.backend for entry in record.measured] == list(BACKENDS)
    assert record.chosen == max(record.measured, key=lambda entry: entry.one * entry.many).backend
    assert all(entry.one > 0 and entry.many > 0 and entry.size_mb > 0 for entry in record.measured)
    assert {entry.backend for entry in record.measured if 0 < entry.difference <= record.tolerance} == {"onnx", "openvino"}
    assert set(record.files) == {"model.onnx", "model_int8.onnx", "tokenizer.json"}
    assert record.int8 is not None and record.int8.figure == "agreement" and record.int8.documents == 120
    assert record.machine == backends.this_machine()
    words = describe_export(record)
    assert f"chosen: {record.chosen}" in words and "openvino" in words and "120 documents of made-up documents" in words
    assert {path.suffix for path in exported.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md", ".onnx"}


def test_the_recorded_backend_is_opened(copied, capsys) -> None:
    record = json.loads((copied / "backend.json").read_text())
    for name in BACKENDS:
        (copied / "backend.json").write_text(json.dumps(record | {"chosen": name}))
        assert Classifier.load(copied).backend == name
    assert capsys.readouterr().err.count("selftrain:") == 0


def test_a_graph_is_opened_without_pytorch(copied) -> None:
    record = json.loads((copied / "backend.json").read_text())
    (copied / "backend.json").write_text(json.dumps(record | {"chosen": "onnx"}))
    code = "import sys; from selftrain.cli import main; code = main(sys.argv[1:]); print(code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "--bundle", str(copied), "about sport"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["0 []"], done.stderr


def test_on_another_machine_pytorch_is_used_and_the_reason_is_said_once(copied, capsys) -> None:
    record = json.loads((copied / "backend.json").read_text())
    record |= {"chosen": "onnx", "machine": record["machine"] | {"cpu": "Another One"}}
    (copied / "backend.json").write_text(json.dumps(record))
    _say_once.cache_clear()
    assert [Classifier.load(copied).backend for _ in range(2)] == ["torch", "torch"]
    said = capsys.readouterr().err
    assert said.count("opened with PyTorch instead of onnx") == 1 and "Another One" in said
    assert Classifier.load(copied, backend="onnx").backend == "onnx"


def test_a_missing_package_is_named_with_the_command_that_installs_it(copied, capsys, monkeypatch) -> None:
    record = json.loads((copied / "backend.json").read_text())
    (copied / "backend.json").write_text(json.dumps(record | {"chosen": "onnx"}))
    found = backends.importlib.util.find_spec
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    _say_once.cache_clear()
    assert Classifier.load(copied).backend == "torch"
    assert "pip install 'selftrain[export]'" in capsys.readouterr().err
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed; pip install 'selftrain\[export\]'"):
        Classifier.load(copied, backend="onnx")
    with pytest.raises(MissingExtraError, match="onnxruntime"):
        export_bundle(copied, DOCUMENTS)


def test_damage_is_one_sentence(copied) -> None:
    graph = copied / "onnx" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    for name in ("onnx", "openvino"):
        with pytest.raises(BundleError, match=r"model\.onnx is not the file that selftrain export wrote"):
            Classifier.load(copied, backend=name)
    assert Classifier.load(copied, backend="torch").backend == "torch"
    graph.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read"):
        Classifier.load(copied, backend="onnx")
    graph.write_bytes(whole)
    (copied / "onnx" / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not the file"):
        Classifier.load(copied, backend="onnx")
    (copied / "backend.json").write_text("{")
    with pytest.raises(BundleError, match=r"backend\.json is damaged"):
        Classifier.load(copied)
    assert Classifier.load(copied, backend="torch").backend == "torch"


def test_a_backend_that_is_not_there_is_said(plain, copied) -> None:
    with pytest.raises(ConfigError, match=r"^backend 'onxx' is not one; did you mean 'onnx'"):
        Classifier.load(plain, backend="onxx")
    with pytest.raises(BundleError, match="has no graph for the backend onnx; run selftrain export"):
        Classifier.load(plain, backend="onnx")
    with pytest.raises(ConfigError, match=r"^device must be cpu"):
        Classifier.load(copied, backend="onnx", device="cuda")
    with pytest.raises(ConfigError, match=r"^threads must be at least 1 \(got 0\)"):
        Classifier.load(copied, threads=0)
    with pytest.raises(ConfigError, match=r"^backends 'openvin' .*did you mean 'openvino'"):
        export_bundle(plain, DOCUMENTS, backends=("openvin",))
    with pytest.raises(ConfigError, match=r"^backends must hold at least one"):
        export_bundle(plain, DOCUMENTS, backends=("torch",))


def test_int8_beyond_the_limit_is_refused_with_both_numbers(plain, graph_of_plain, tmp_path) -> None:
    # The tiny encoder's random weights do not survive 8 bits: that some documents change their class is sure, not luck.
    out = tmp_path / "not" / "there" / "all"
    record = export_bundle(plain, DOCUMENTS, out=out, max_accuracy_loss=0.0, threads=1)
    assert record.int8 is not None and record.int8.after < record.int8.before == 1.0
    assert f"int8 is refused: agreement {record.int8.after:.4f} after against 1.0000 before" in describe_export(record)
    assert "onnx-int8" not in [entry.backend for entry in record.measured]
    assert not (out / "onnx" / "model_int8.onnx").exists()
    with pytest.raises(BundleError, match="has no graph for the backend onnx-int8 \\(int8 is refused: agreement"):
        Classifier.load(out, backend="onnx-int8")
    with pytest.raises(BundleError, match=r"int8 is refused: agreement 0\.\d+ after against 1\.0000.*nothing was written"):
        export_bundle(plain, DOCUMENTS, out=tmp_path / "alone", max_accuracy_loss=0.0, backends=("onnx-int8",), threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["not"]


def test_the_cost_of_int8_is_in_accuracy_where_there_are_labels() -> None:
    before, after = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 1, 0]]
    assert int8_cost(before, after, np.array([0, 1, 1, 1, 0]), 0.1) == Int8Cost(figure="accuracy", before=0.75, after=0.75, limit=0.1, documents=4)
    assert not int8_cost(before, after, np.array([0, 1, 1, 1]), 0.0).refused
    assert int8_cost(before, after, None, 0.4) == Int8Cost(figure="agreement", before=1.0, after=0.5, limit=0.4, documents=4)
    assert int8_cost(before, after, None, 0.4).refused and not int8_cost(before, after, None, 0.5).refused


def test_a_graph_that_computes_something_else_leaves_nothing(plain, tmp_path, monkeypatch) -> None:
    copy = Path(shutil.copytree(plain, tmp_path / "bundle"))
    before = sorted(path.name for path in copy.iterdir())
    forward = Graph.forward

    def wrong(self, input_ids, attention_mask):
        return forward(self, input_ids, torch.ones_like(attention_mask))  # reads the padding too

    monkeypatch.setattr(Graph, "forward", wrong)
    with pytest.raises(BundleError, match=r"differs from PyTorch by .* the tolerance is 0.0001; nothing was written"):
        export_bundle(copy, DOCUMENTS, threads=1)
    assert sorted(path.name for path in copy.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_check_reads_every_length_and_batch_size() -> None:
    seen: list[tuple[int, set[int]]] = []

    class Watching:
        name = "watching"

        def __call__(self, ids, mask):
            seen.append((len(ids), set(mask.sum(axis=1).tolist())))
            return np.full((len(ids), 2), 0.5)

    rows = [list(range(1, length + 1)) for length in (3, 9, 24, 30, 30)]
    assert largest_difference(Watching(), Watching(), rows, 0, 24) == 0.0
    assert {size for size, _ in seen} >= {1, 2, 32 - 27} and max(size for size, _ in seen) <= 32
    assert set().union(*(lengths for _, lengths in seen)) >= set(range(1, 25))


def test_a_second_export_replaces_the_first(copied, graph_of_plain) -> None:
    export_bundle(copied, DOCUMENTS, backends=("onnx",), threads=1)
    assert {path.name for path in (copied / "onnx").iterdir()} == {"model.onnx", "tokenizer.json"}
    with pytest.raises(BundleError, match="no graph for the backend onnx-int8"):
        Classifier.load(copied, backend="onnx-int8")
    assert [path.name for path in copied.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_head_with_bias_is_in_the_graph(tmp_path, similarity) -> None:
    trunk = tiny_backbone(tmp_path / "tiny")
    torch.manual_seed(0)
    layer = Dense(32, 32, init_weight=0.3 * torch.randn(32, 32), init_bias=torch.randn(32), use_residual=True)
    encoder = SentenceTransformer(modules=[*trunk, layer], device="cpu")
    facts = card(similarity=similarity, scale=3.0)
    folder = write_bundle(tmp_path / "bundle", backbone=encoder, prototypes=torch.randn(3, 32), bias=torch.tensor([1.0, -1.0, 0.5]), card=facts)
    expected = Classifier.load(folder, device="cpu").predict_proba(texts(40))
    export_bundle(folder, DOCUMENTS, backends=("onnx", "openvino"), threads=1)
    for name in ("onnx", "openvino"):
        np.testing.assert_allclose(Classifier.load(folder, backend=name).predict_proba(texts(40)), expected, atol=1e-5)


def test_a_static_encoder_is_exported_and_reads_what_sentence_transformers_does(backbone, tmp_path) -> None:
    tokenizer = compiling.reader_of(backbone, 16).without_special_tokens()
    torch.manual_seed(0)
    encoder = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    weights, bias = torch.randn(3, 8), torch.randn(3)
    folder = write_bundle(tmp_path / "bundle", backbone=encoder, prototypes=weights, bias=bias, card=card(similarity="dot", scale=1.0))
    logits = SentenceTransformer(str(folder), device="cpu").encode(texts(40)) @ weights.numpy().T + bias.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Classifier.load(folder, device="cpu").predict_proba(texts(40)), expected, atol=1e-5)
    export_bundle(folder, DOCUMENTS, backends=("onnx", "openvino"), threads=1)
    for name in ("onnx", "openvino"):
        np.testing.assert_allclose(Classifier.load(folder, backend=name).predict_proba(texts(40)), expected, atol=1e-5)


def test_a_bilstm_is_no_graph(tmp_path) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=bilstm(WORDS.split(), hidden=4), prototypes=torch.randn(3, 8), card=card(similarity="dot"))
    with pytest.raises(BundleError, match="no ONNX graph is made of it"):
        export_bundle(folder, DOCUMENTS)
    assert not (folder / "onnx").exists()


def test_what_cannot_be_asked_for_is_said(plain, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"^out .*is not an empty folder"):
        export_bundle(plain, DOCUMENTS, out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"^out cannot be written .*not a directory; a part of the path is a file"):
        export_bundle(plain, DOCUMENTS, out=tmp_path / "file" / "bundle")
    with pytest.raises(DataError, match="5 documents, too few to judge int8"):
        export_bundle(plain, CheckDocuments(texts(5), "five"))
    with pytest.raises(DataError, match="has no document"):
        export_bundle(plain, CheckDocuments([], "none"))
    with pytest.raises(ConfigError, match=r"^max_accuracy_loss must be .*got 5\)"):
        export_bundle(plain, DOCUMENTS, max_accuracy_loss=5)


def test_the_command_measures_on_a_file_with_labels(plain, graph_of_plain, tmp_path, capsys) -> None:
    labels = Classifier.load(plain, device="cpu").predict(DOCUMENTS.texts)
    labels[:12] = ""  # a document without a label is left out
    pd.DataFrame({"body": DOCUMENTS.texts, "topic": labels}).to_csv(tmp_path / "mail.csv", index=False)
    asked = ["export", str(plain), "--out", str(tmp_path / "out"), "--documents", str(tmp_path / "mail.csv"), "--text-column", "body"]
    assert main([*asked, "--label-column", "topic", "--max-accuracy-loss", "1", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "chosen: " in printed and str(tmp_path / "out") in printed
    record = read_record(tmp_path / "out")
    assert record is not None and record.int8 is not None
    assert record.int8.figure == "accuracy" and record.int8.before == 1.0 and 100 <= record.int8.documents <= 108
    assert main([*asked, "--label-column", "topic"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["nowhere/bundle"], "There is no folder"),
        (["a_model"], "registered model.*pass a folder for a copy of it with --out"),
        (["BUNDLE"], "--documents must be passed, because the bundle does not say what it was trained on"),
        (["BUNDLE", "--label-column", "topic"], "pass it with --documents FILE"),
        (["BUNDLE", "--documents", "none.csv"], "No such file"),
        (["BUNDLE", "--backends", "onxx"], "--backends 'onxx' is not one; did you mean 'onnx'"),
        (["BUNDLE", "--max-accuracy-loss", "5"], "--max-accuracy-loss must be a share"),
        (["BUNDLE", "--threads", "0"], r"--threads must be at least 1 \(got 0\)"),
    ],
)
def test_a_wrong_command_is_one_sentence(plain, asked, words, capsys) -> None:
    assert main(["export", *(str(plain) if word == "BUNDLE" else word for word in asked)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(words, said)


def test_every_backend_is_warmed_up_and_then_measured_in_as_many_rounds_as_are_wanted() -> None:
    calls: dict[str, int] = {"one": 0, "other": 0}

    def counted(name: str):
        def compute(ids, mask):
            calls[name] += 1

        return compute

    compiling.measure({name: counted(name) for name in calls}, [[1, 2, 3]] * 40, 0)
    assert calls == dict.fromkeys(calls, (1 + compiling._MEASURED_ROUNDS) * (5 + 3))
