"""None of these: a bundle says which texts fit none of its classes, by the documents that it keeps."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from endpoint import known_texts, make_bundle

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import read_card, restate
from selftrain.bundle.handover import distilled_card
from selftrain.bundle.promise import NoneOfThese
from selftrain.bundle.reference import Reference
from selftrain.bundle.typicality import known_documents
from selftrain.cli import main
from selftrain.errors import BundleError, ConfigError

NONSENSE = ["<script>alert(9)</script>", "{{7*7}}${7*7}", "%00%00' OR 1=1 --", "x" * 60]
PROMISE = NoneOfThese(
    risk=0.05,
    level=0.95,
    threshold=0.0312,
    documents=4000,
    answers=100,
    wrong=1,
    none=7,
    caught=3,
    backend="torch",
    made="2026-11-30T00:00:00+00:00",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "news", known=known_texts())


def test_nonsense_gets_no_answer_and_texts_like_the_known_ones_do(bundle) -> None:
    classifier = Classifier.load(bundle, device="cpu")
    like = known_texts(400)[240:]
    assert (classifier.predict(NONSENSE) != None).all()  # noqa: E711
    assert (classifier.predict(NONSENSE, none_of_these=0.01) == None).all()  # noqa: E711
    found = classifier.predict(like, none_of_these=0.05)
    answered = found != None  # noqa: E711
    assert answered.mean() > 0.85 and (found[answered] == classifier.predict(like)[answered]).all()
    probabilities, typicality = classifier.typicality([*like, *NONSENSE])
    assert (probabilities == classifier.predict_proba([*like, *NONSENSE])).all()
    assert (answered == (typicality[:160] > 0.05)).all() and (typicality[160:] == 1 / 241).all()
    assert classifier.typicality([])[1].shape == (0,)


def test_a_file_and_the_terminal_say_none_of_these(bundle, tmp_path, capsys) -> None:
    texts = [known_texts(1)[0], NONSENSE[0], " "]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    asked = ["predict", "--bundle", str(bundle), "--none-of-these", "0.01"]
    assert main([*asked, "--file", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")]) == 0
    good, none, empty = csv.DictReader((tmp_path / "out.csv").open(newline=""))
    assert good["label"] and good["none_of_these"] == "False" and float(good["typicality"]) > 0.01
    assert none["label"] == "" == none["error"] and none["none_of_these"] == "True" and float(none["typicality"]) == pytest.approx(1 / 241)
    assert float(none["probability"]) > 0 and empty["error"] == "empty" and empty["none_of_these"] == "" == empty["typicality"]
    capsys.readouterr()
    assert main([*asked, *texts[:2]]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{good['label']}\t") and second.startswith("none of these\t")


def test_what_cannot_say_it_says_why(bundle, tmp_path, capsys) -> None:
    classifier, without = Classifier.load(bundle, device="cpu"), Classifier.load(make_bundle(tmp_path / "without"), device="cpu")
    for wanted, said in ((0.001, "below 1 and at least one of them"), (1.0, "below 1"), (float("nan"), "below 1"), ("promise", "has no promise")):
        with pytest.raises(ConfigError, match=said) as refused:
            classifier.none_threshold(wanted)
        assert refused.value.parameter == "none_of_these"
    with pytest.raises(ConfigError, match="this bundle keeps none"):
        without.predict(NONSENSE, none_of_these=0.01)
    card = read_card(bundle)
    with pytest.raises(ConfigError, match="backend onnx, a graph that gives no embeddings"):
        known_documents(bundle, card.reference, card.labels, "onnx")
    assert main(["predict", "--bundle", str(tmp_path / "without"), "--none-of-these", "0.01", "a text"]) == 2
    assert "selftrain: --none-of-these needs documents to compare with" in capsys.readouterr().err


def test_a_promise_is_the_threshold(tmp_path) -> None:
    folder = make_bundle(tmp_path / "news", known=known_texts())
    restate(folder, read_card(folder).model_copy(update={"none_of_these": PROMISE}))
    classifier = Classifier.load(folder, device="cpu")
    assert classifier.none_threshold("promise") == PROMISE.threshold and classifier.none_threshold(0.2) == 0.2
    assert PROMISE.sentence == (
        "at most 5 % of the texts are of a class and taken for none of these (with 95 % confidence), where those with a typicality of at most 0.0312 are; "
        "of 7 documents of no class that were asked about, 3 are"
    )
    assert f"Asked for none of these: {PROMISE.sentence}." in (folder / "README.md").read_text()
    assert distilled_card(read_card(folder), "static", {}).none_of_these is None


def test_documents_that_do_not_fit_the_bundle_are_refused(tmp_path) -> None:
    reference = Reference(np.full((240, 3), 1 / 3), np.ones((240, 3)))
    folder = make_bundle(tmp_path / "narrow")
    (folder / "reference.safetensors").write_bytes(reference.content())
    restate(folder, read_card(folder).model_copy(update={"reference": reference.facts(reference.probabilities, held_out=False)}))
    with pytest.raises(BundleError, match="do not fit it"):
        Classifier.load(folder, device="cpu").typicality(["a text"])
