"""Students of a real teacher: they learn its answers, are bundles like any other, and are whole or absent."""

from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from taught import LABELS, documents, file_of
from tiny import WORDS

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import labels_of, load_documents
from selftrain.bundle.format import BundleCard, read_card, write_bundle
from selftrain.bundle.reference import read_reference
from selftrain.bundle.tokens import BATCH_START_TOKENS, BATCH_TOKENS_CPU, reader_of
from selftrain.cli import main
from selftrain.compress import distill as distilling
from selftrain.compress import students, tiers
from selftrain.compress.distill import generated_texts
from selftrain.compress.students import layers_of
from selftrain.errors import BundleError, ConfigError, DataError
from selftrain.models.bilstm import bilstm
from selftrain.texts.cache import Completion, TextCache


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    file = file_of(folder, 700, labeled=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students, "DIMENSIONS", 16)
        corpus, truth = load_documents(read_card(teacher), file, label_column="label", test_documents=200)
        result = distilling.distill(teacher, (corpus, truth), out=folder / "out", layers=2)
    assert result.folder == folder / "out"
    assert "learned from 500 texts" in result.note and "200 documents against labels" in result.note
    return result.folder


def test_students_answer_nearly_as_the_teacher_does(teacher, distilled) -> None:
    texts, labels = documents(300, seed=7)
    expected = Classifier.load(teacher, device="cpu").predict(texts)
    assert (expected == labels).mean() > 0.9  # the teacher is worth learning from
    # A static student computes no padding, and large batches are quicker for it.
    for name, most_padding, most_tokens in (("static", math.inf, math.inf), ("shallow", BATCH_START_TOKENS, BATCH_TOKENS_CPU)):
        student = Classifier.load(distilled / name, device="cpu")
        assert (student.predict(texts) == expected).mean() > 0.9, name
        assert (student.most_padding, student.most_tokens) == (most_padding, most_tokens)
        together = student.predict_proba([texts[0], "team " * 30])
        assert together == pytest.approx(np.vstack([student.predict_proba([texts[0]]), student.predict_proba(["team " * 30])]), abs=1e-6)


def test_a_student_has_a_reference_of_its_own(distilled) -> None:
    """Of the documents that it is measured on, as it sees them itself."""
    texts, _ = documents(700)
    for name, dimensions in (("static", 16), ("shallow", 32)):
        card, student = read_card(distilled / name), Classifier.load(distilled / name, device="cpu")
        facts = card.reference
        assert facts is not None and (facts.documents, facts.kept, facts.held_out) == (200, 200, True)
        kept = read_reference(distilled / name / "reference.safetensors", facts, card.labels)
        probabilities, embeddings = student.embed(texts)
        assert kept.embeddings is not None and embeddings is not None and kept.embeddings.shape == (200, dimensions)
        nearest = np.abs(embeddings.astype(np.float32)[:, None] - kept.embeddings.astype(np.float32)).sum(axis=2).argmin(axis=0)
        assert np.abs(embeddings[nearest] - kept.embeddings).max() < 2e-3 and np.abs(probabilities[nearest] - kept.probabilities).max() < 1e-3


def test_students_learn_the_answers_to_windows(teacher, tmp_path, monkeypatch) -> None:
    source = Path(shutil.copytree(teacher, tmp_path / "source"))
    card = json.loads((source / "selftrain.json").read_text())
    (source / "selftrain.json").write_text(json.dumps(card | {"max_tokens": 12, "windows": 2, "format": 2}))
    seen = []
    monkeypatch.setattr(distilling, "static_student", lambda given: seen.append(given) or (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        distilling.distill(source, file_of(tmp_path, 120, labeled=False), students=("static",), out=tmp_path / "out")
    (given,) = seen
    assert len(given.rows) == len(given.soft) == 2 * 108  # a document has 15 tokens or more, and a tenth of them is held out


def test_students_are_smaller_and_their_cards_say_what_they_are(teacher, distilled) -> None:
    static, shallow = (read_card(distilled / name) for name in ("static", "shallow"))
    assert static.method == "distilled from genco (static)" and static.similarity == "dot" and static.labels == LABELS
    assert shallow.encoder == "2 layers of tiny" and shallow.name == "news_shallow"
    for card in (static, shallow):
        assert card.metrics.documents == 200 and card.metrics.accuracy is not None and card.metrics.accuracy > 0.9
    opened = SentenceTransformer(str(distilled / "shallow"), device="cpu")
    assert len(layers_of(opened)[1]) == 2
    assert SentenceTransformer(str(distilled / "static"), device="cpu").get_embedding_dimension() == 16
    parameters = [
        sum(tensor.numel() for tensor in SentenceTransformer(str(place), device="cpu").parameters()) for place in (teacher, distilled / "static")
    ]
    assert parameters[1] < parameters[0]
    assert {path.suffix for path in distilled.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md", ".svg"}


def test_the_shallow_student_starts_from_the_first_and_the_last_layer(teacher, monkeypatch) -> None:
    monkeypatch.setattr(students, "_learn", lambda *_, **__: None)
    backbone = SentenceTransformer(str(teacher), device="cpu")
    before = [layer.attention.self.query.weight.clone() for layer in layers_of(backbone)[1]]
    reader = reader_of(backbone, 32)
    taught = students.Teacher(backbone, reader, read_card(teacher), torch.zeros(2, 32), None, [[1]], torch.zeros(1, 2))
    student = students.shallow_student(taught, layers=2)
    after = [layer.attention.self.query.weight for layer in layers_of(student.backbone)[1]]
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[2])
    assert len(layers_of(backbone)[1]) == 3


def test_all_tiers_are_in_the_table_and_the_picture(distilled) -> None:
    document = json.loads((distilled / "tiers.json").read_text())
    assert document["figure"] == "accuracy" and document["documents"] == 200 and document["learned_from"] == 500
    assert [tier["name"] for tier in document["tiers"]] == ["teacher (torch)", "static (numpy)", "shallow (torch)"]
    assert all(tier["texts_per_second"] > 0 and tier["size_mb"] > 0 and tier["right"] > 0.9 for tier in document["tiers"])
    picture = (distilled / "tiers.svg").read_text()
    ElementTree.fromstring(picture)
    assert not re.search(r'(href|src)="(?!#|data:)', picture)


def test_the_language_models_row_is_taken_from_the_run(teacher, tmp_path) -> None:
    file = file_of(tmp_path, 200, labeled=True)
    corpus, truth = load_documents(read_card(teacher), file, label_column="label", test_documents=50)
    labels = labels_of(corpus.test, dict(truth.test))
    run = teacher.parent / "metrics.json"
    row = {"variant": "language model", "documents": 40, "scores": {"accuracy": 0.6}, "inference_ms": 500.0}
    metrics = {
        "rows": [row],
        "data": {"fingerprint": corpus.fingerprint},
        "asked": {"llm": "a-language-model"},
    }
    try:
        run.write_text(json.dumps(metrics))
        (tier,), note = tiers.language_model_tier(teacher, corpus, labels)
        assert (tier.name, tier.right, tier.texts_per_second) == ("a-language-model (zero-shot)", 0.6, 2.0) and "40 of the documents" in note
        run.write_text(json.dumps(metrics | {"rows": [row | {"inference_ms": None}]}))
        assert tiers.language_model_tier(teacher, corpus, labels)[0][0].texts_per_second is None
        run.write_text(json.dumps(metrics | {"data": {"fingerprint": "another"}}))
        found, note = tiers.language_model_tier(teacher, corpus, labels)
        assert found == [] and "on other documents" in note
        run.write_text("{")
        with pytest.raises(DataError, match=r"metrics\.json is damaged"):
            tiers.language_model_tier(teacher, corpus, labels)
    finally:
        run.unlink()


def test_generated_texts_of_these_documents_are_learned_from(teacher, tmp_path) -> None:
    corpus, _ = load_documents(read_card(teacher), file_of(tmp_path, 60, labeled=False))
    cache = TextCache(tmp_path / "cache")
    facts = {"label": "", "sample": 0, "cut_off": False, "prompt_tokens": 1, "generated_tokens": 1}
    own, other = corpus.unlabeled.ids[0], "0" * 16
    asked = [
        (own, "input", " a text "),
        (own, "conditional", "b"),
        (own, "conditional", "b"),
        (own, "classify", "sport"),
        (own, "input", " "),
        (other, "input", "c"),
    ]
    cache.add([Completion(key=str(place), document_id=id_, kind=kind, text=text, **facts) for place, (id_, kind, text) in enumerate(asked)])
    card = read_card(teacher)
    at = card.model_copy(update={"experiment": {"augment": {"cache": str(tmp_path / "cache")}}})
    assert generated_texts(at, corpus) == ["a text", "b"]
    assert generated_texts(at.model_copy(update={"llm": None}), corpus) == []
    assert generated_texts(at.model_copy(update={"experiment": {"augment": {"cache": str(tmp_path / "none")}}}), corpus) == []
    assert not (tmp_path / "none").exists()


def test_the_command_measures_agreement_without_labels(teacher, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(students, "_STATIC_EPOCHS", 2)
    out = tmp_path / "out"
    asked = ["distill", str(teacher), "--documents", str(file_of(tmp_path, 200, labeled=False)), "--student", "static", "--out", str(out)]
    assert main([*asked, "--max-documents", "100"]) == 0
    printed = capsys.readouterr().out
    assert (
        re.search(r"tier +agreement", printed)
        and "learned from 90 texts" in printed
        and "measured on 10 documents against the teacher's answers" in printed
    )
    assert {path.name for path in out.iterdir()} == {"static", "tiers.json", "tiers.svg"}
    assert read_card(out / "static").metrics.accuracy is None
    assert main(["predict", "--bundle", str(out / "static"), "the team and the coach"]) == 0
    assert main(asked) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--layers", "3"], "--layers must be from 1 to 2, since the teacher has 3 (got 3)"),
        (["--max-documents", "40"], "has 36 documents to learn from, fewer than 50"),
        (["--max-documents", "0"], "--max-documents must be at least 1 (got 0)"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence_and_leaves_nothing(teacher, tmp_path, capsys, extra, words) -> None:
    file = file_of(tmp_path, 200, labeled=False)
    assert main(["distill", str(teacher), "--documents", str(file), "--out", str(tmp_path / "out"), *extra]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_student_that_there_is_not(teacher, tmp_path) -> None:
    corpus, truth = load_documents(read_card(teacher), file_of(tmp_path, 100, labeled=False))
    with pytest.raises(ConfigError, match=r"^students 'statik' is not one; did you mean 'static'"):
        distilling.distill(teacher, (corpus, truth), students=("statik",), out=tmp_path / "out")


def test_texts_of_a_language_model_are_learned_from_too(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(students, "_STATIC_EPOCHS", 1)
    result = distilling.distill(
        teacher, file_of(tmp_path, 100, labeled=False), generated=["a team", "a bank"], students=("static",), out=tmp_path / "out"
    )
    assert "learned from 92 texts" in result.note  # and 10 of 100 are held out


def test_what_is_no_transformer_has_nothing_smaller(teacher, distilled, tmp_path) -> None:
    corpus, truth = load_documents(read_card(teacher), file_of(tmp_path, 100, labeled=False))
    card = BundleCard(name="words", labels=LABELS, method="sungen", similarity="dot")
    words = write_bundle(tmp_path / "bilstm", backbone=bilstm(WORDS.split(), hidden=4), prototypes=torch.randn(2, 8), card=card)
    for folder in (words, distilled / "static"):
        with pytest.raises(BundleError, match="is not a transformer"):
            distilling.distill(folder, (corpus, truth), students=("static",), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_that_fails_leaves_nothing(teacher, tmp_path, monkeypatch) -> None:
    corpus, truth = load_documents(read_card(teacher), file_of(tmp_path, 100, labeled=False))

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(students, "_learn", no_memory)
    with pytest.raises(MemoryError):
        distilling.distill(teacher, (corpus, truth), students=("static",), out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["texts.csv"]


def test_the_same_seed_gives_the_same_student(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(students, "_STATIC_EPOCHS", 2)
    corpus, truth = load_documents(read_card(teacher), file_of(tmp_path, 100, labeled=False))
    found = []
    for name in ("first", "second"):
        distilling.distill(teacher, (corpus, truth), students=("static",), out=tmp_path / name)
        found.append(Classifier.load(tmp_path / name / "static", device="cpu").predict_proba(documents(20)[0]))
    np.testing.assert_array_equal(*found)
