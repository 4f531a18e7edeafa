"""The classifier computes equation 3 of GenCo, and refuses what is not a list of texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.pytorch import open_backbone
from selftrain.bundle.texts import problem_with
from selftrain.errors import BundleError, ConfigError, DataError

TEXTS = ["the team won the match", "a phone and a chip", "the minister lost the vote in the election " * 5, "music"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder(backbone, tmp_path_factory) -> Path:
    prototypes = backbone.encode(["about sport", "about tech", "about politics"], convert_to_tensor=True)
    card = BundleCard(name="news", labels=("sport", "tech", "politics"), method="genco", scale=10.0, max_tokens=16)
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", backbone=backbone, prototypes=prototypes, card=card)


@pytest.fixture(scope="module")
def classifier(folder) -> Classifier:
    return Classifier.load(folder, device="cpu", batch_size=2)


def test_probabilities_are_equation_3(folder, classifier, backbone) -> None:
    # By an independent way: sentence-transformers' own encode, one text at a time, and NumPy.
    backbone.max_seq_length = 16
    try:
        embeddings = np.stack([backbone.encode(text) for text in TEXTS]).astype(np.float64)
    finally:
        backbone.max_seq_length = 64
    prototypes = backbone.encode(["about sport", "about tech", "about politics"]).astype(np.float64)
    powers = np.exp(10.0 * embeddings @ prototypes.T)
    expected = powers / powers.sum(axis=1, keepdims=True)
    found = classifier.predict_proba(TEXTS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classifier.predict(TEXTS).tolist() == np.array(["sport", "tech", "politics"])[expected.argmax(axis=1)].tolist()
    assert classifier.classes_.tolist() == ["sport", "tech", "politics"]


def test_the_scale_multiplies_a_dot_product_too(backbone) -> None:
    backbone.max_seq_length = 64
    prototypes = torch.zeros(2, 32)
    prototypes[0, 0] = 3.0
    card = BundleCard(name="x", labels=("a", "b"), method="m", similarity="dot", scale=2.0)
    embedding = backbone.encode("music")
    expected = 1 / (1 + np.exp(-2.0 * 3.0 * float(embedding[0])))
    np.testing.assert_allclose(Classifier(backbone, prototypes, card).predict_proba(["music"])[0], [expected, 1 - expected], atol=1e-5)


@given(order=st.permutations(range(len(TEXTS))))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_belongs_to_its_text(classifier, order) -> None:
    np.testing.assert_allclose(classifier.predict_proba([TEXTS[index] for index in order]), classifier.predict_proba(TEXTS)[order], atol=1e-6)


def test_takes_any_list_of_texts(classifier) -> None:
    expected = classifier.predict(TEXTS).tolist()
    for texts in (tuple(TEXTS), np.array(TEXTS), pd.Series(TEXTS), iter(TEXTS)):
        assert classifier.predict(texts).tolist() == expected
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 3)


def test_refuses_what_is_no_text(classifier) -> None:
    with pytest.raises(DataError, match=r"predict\(\[text\]\)"):
        classifier.predict("one text")
    with pytest.raises(DataError, match=r"^texts must be .*got int\)"):
        classifier.predict(3)
    for bad, words in ((None, "not a string but NoneType"), (1.5, "float"), ("  \n", "empty"), ("a\x00b", "binary"), ("\ud800", "Unicode")):
        with pytest.raises(DataError, match=f"Text 1 of 3.*{words}"):
            classifier.predict(["fine", bad, "fine"])


@given(st.text())
def test_what_has_no_problem_is_a_text(text: str) -> None:
    if problem_with(text) is None:
        assert text.strip() and text.encode("utf-8")
    else:
        assert not text.strip() or "\x00" in text or any(0xD800 <= ord(one) < 0xE000 for one in text)


def test_a_damaged_encoder_is_one_sentence(folder, tmp_path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy)
    (copy / "modules.json").write_text("{")
    with pytest.raises(BundleError, match=r"modules\.json is not the file that was written"):
        Classifier.load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        Classifier.load(copy)


def test_a_batch_on_a_cpu_holds_as_many_tokens_as_keep_a_core_busy(classifier) -> None:
    assert classifier.most_tokens == 1024


def test_a_bias_is_added_to_the_scaled_similarities(backbone) -> None:
    prototypes = backbone.encode(["about sport", "about tech"], convert_to_tensor=True)
    card = BundleCard(name="x", labels=("a", "b"), method="m", scale=10.0)
    plain = Classifier(backbone, prototypes, card).predict_proba(TEXTS)
    found = Classifier(backbone, prototypes, card, bias=torch.tensor([0.0, 2.0])).predict_proba(TEXTS)
    np.testing.assert_allclose(found[:, 1] / found[:, 0], np.exp(2.0) * plain[:, 1] / plain[:, 0], rtol=1e-6)


def test_weights_of_another_shape_than_the_settings_are_one_sentence(folder, tmp_path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(settings | {"intermediate_size": 48}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"config\.json says that \S+ has shape \(48.*, and the weights have \(64"):
        open_backbone(copy, "cpu")


def test_pytorch_computes_with_as_many_threads_as_are_wanted(folder) -> None:
    before = torch.get_num_threads()
    try:
        with pytest.raises(ConfigError, match=r"threads must be at least 1 \(got 0\)"):
            Classifier.load(folder, device="cpu", threads=0)
        for threads in (2, 1):
            Classifier.load(folder, device="cpu", threads=threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
