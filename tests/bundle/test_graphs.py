"""A bundle with a graph beside its weights is opened as its record says; the graph is made by hand, and tells a text by the number of its tokens."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiny import tiny_backbone

from selftrain.bundle.backends import FOLDER, INPUTS, OUTPUT, RECORD, TOKENIZER, BackendRecord, sha256, this_machine
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.tokens import FastReader, reader_of
from selftrain.errors import BundleError, ConfigError


def write_graph(file: Path) -> None:
    """Probabilities 1 - 1/tokens and 1/tokens."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["there", "columns"], ["tokens"], keepdims=1),
        helper.make_node("Reciprocal", ["tokens"], ["second"]),
        helper.make_node("Sub", ["one", "second"], ["first"]),
        helper.make_node("Concat", ["first", "second"], [OUTPUT], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "length"]) for name in INPUTS]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["texts", 2])]
    constants = [helper.make_tensor("columns", TensorProto.INT64, [1], [1]), helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])]
    graph = helper.make_graph(nodes, "by hand", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("graph")
    backbone = tiny_backbone(home / "encoder")
    card = BundleCard(name="toy", labels=("long", "short"), method="genco", max_tokens=16)
    folder = write_bundle(home / "bundle", backbone=backbone, prototypes=torch.eye(2, 32), card=card)
    (folder / FOLDER).mkdir()
    write_graph(folder / FOLDER / "model.onnx")
    reader = reader_of(backbone, 16)
    assert isinstance(reader, FastReader)
    reader.save(folder / FOLDER / TOKENIZER)
    files = {name: sha256(folder / FOLDER / name) for name in ("model.onnx", TOKENIZER)}
    record = BackendRecord(
        chosen="onnx", machine=this_machine(), threads=1, measured=(), tolerance=1e-4, documents="none", files=files, created="today"
    )
    (folder / RECORD).write_text(record.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_the_recorded_graph_is_opened_and_asked(folder) -> None:
    for classifier in (
        Classifier.load(folder, device="cpu"),
        Classifier.load(folder, backend="onnx"),
        Classifier.load(folder, backend="onnx", threads=1),
    ):
        assert classifier.backend == "onnx"
        # With the marks at the beginning and the end.
        np.testing.assert_allclose(classifier.predict_proba(["match", "the team of the match"]), [[2 / 3, 1 / 3], [6 / 7, 1 / 7]], rtol=1e-6)
        assert classifier.predict(["match"]).tolist() == ["long"]
    assert Classifier.load(folder, device="cpu", backend="torch").backend == "torch"


def test_where_the_package_is_missing_pytorch_is_opened(folder, monkeypatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "onnxruntime" else found(name, package))
    assert Classifier.load(folder, device="cpu").backend == "torch"


def test_a_damaged_record_is_said_and_no_hindrance_to_pytorch(folder) -> None:
    (folder / RECORD).write_text("{", encoding="utf-8")
    for backend in (None, "onnx"):
        with pytest.raises(BundleError, match=rf"{RECORD} is damaged .*or delete it to use PyTorch"):
            Classifier.load(folder, device="cpu", backend=backend)
    assert Classifier.load(folder, device="cpu", backend="torch").backend == "torch"


def test_a_graph_is_computed_on_the_cpu_and_pytorch_on_any_device(folder) -> None:
    with pytest.raises(ConfigError, match=r"device must be cpu or None with the backend onnx \(got 'cuda'\)"):
        Classifier.load(folder, device="cuda", backend="onnx")
    assert Classifier.load(folder, device="cpu:0", backend="torch").backend == "torch"
