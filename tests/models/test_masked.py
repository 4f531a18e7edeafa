"""A masked language model as an encoder: what is refused, what its parts compute, and that what is trained opens as any other bundle."""

import pytest
import torch
from conftest import WORDS
from tiny import tiny_backbone, tiny_masked

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.config import ModelConfig, parse
from selftrain.errors import SelfTrainError
from selftrain.models.masked import open_masked
from selftrain.models.student import Student
from selftrain.models.workers import Workers
from selftrain.runs.run import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_masked(tmp_path_factory.mktemp("masked"), WORDS)


@pytest.fixture
def masked(folder):
    torch.manual_seed(0)
    return open_masked(ModelConfig(masked_lm=str(folder), max_tokens=16)).eval()


def test_what_cannot_be_used_is_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(SelfTrainError, match=r"model\.masked_lm is not set"):
        open_masked(ModelConfig())
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'full'"):
        open_masked(ModelConfig(masked_lm=str(folder), train="head"))
    with pytest.raises(SelfTrainError, match=r"model\.masked_lm: no folder"):
        open_masked(ModelConfig(masked_lm=str(tmp_path / "nowhere")))
    tiny_backbone(tmp_path / "body")
    with pytest.raises(SelfTrainError, match="has no masked language model's head"):
        open_masked(ModelConfig(masked_lm=str(tmp_path / "body")))


def test_the_embedding_is_the_first_tokens_state(masked):
    texts = ["match goal", "bank cash profit market"]
    rows = masked.classify_tokens(masked.tokens_of(texts))
    assert rows.shape[0] == 2 and rows.shape[2] == masked.dimensions
    assert torch.allclose(rows[:, 0], masked.encode(texts), atol=1e-6)
    assert rows.abs().max() < 1  # tanh, and its length is kept


def test_a_long_document_is_the_mean_of_its_windows(folder, masked):
    torch.manual_seed(0)
    two = open_masked(ModelConfig(masked_lm=str(folder), max_tokens=16, windows=2)).eval()
    words = ["match", "goal", "bank", "cash"] * 10
    expected = masked.encode([" ".join(words[:14]), " ".join(words[-14:])]).mean(dim=0)
    torch.testing.assert_close(two.encode([" ".join(words)])[0], expected, atol=1e-6, rtol=1e-5)
    assert two.tokens_of([" ".join(words)]) == masked.tokens_of([" ".join(words)])  # the language model reads the beginning


def test_padding_changes_nothing(masked):
    alone = masked.words(masked.language_model, masked.tokens_of(["match goal"]))
    padded = masked.words(masked.language_model, masked.tokens_of(["match goal", "bank cash profit market price trade"]))
    assert torch.allclose(alone[0], padded[0, : alone.shape[1]], atol=1e-5)


def test_words_and_their_tokens(masked):
    token = masked.word_token("sport")
    assert masked.tokenizer.convert_ids_to_tokens(token) == "sport"
    assert masked.word_token("New York") is None and masked.word_token("zebra") is None


def test_the_language_model_is_not_trained_and_not_saved(masked):
    trained = {id(parameter) for parameter in masked.parameters()}
    assert not any(id(parameter) in trained for parameter in masked.language_model.parameters())
    assert not any("predictions" in name for name in masked.state_dict())


def test_a_trained_classifier_opens_as_a_bundle(masked, tmp_path):
    student = Student(masked, torch.randn(2, masked.dimensions), 1.0, torch.tensor([0.5, -0.5]))
    texts = ["match goal team", "bank cash profit market price"]
    card = BundleCard(name="toy", labels=("sport", "money"), method="lotclass", similarity="dot", max_tokens=16)
    found = Classifier.load(write_bundle(tmp_path / "bundle", backbone=masked.export(), prototypes=student.weights, bias=student.bias, card=card))
    assert torch.allclose(torch.from_numpy(found.predict_proba(texts)).double(), student.predict(texts), atol=1e-6)


@pytest.mark.parametrize(("size", "total"), [(1, 5), (2, 5), (3, 2)])
def test_parts_of_a_batch_average_to_its_mean(size, total):
    losses = torch.arange(1.0, total + 1)
    parts = [Workers(rank, size).part(total) for rank in range(size)]
    found = sum(float(losses[rows].sum()) * factor for rows, factor in parts) / size
    assert found == pytest.approx(float(losses.mean()))
    assert all(rows for rows, _ in parts)


def test_a_run_is_refused_before_it_starts_and_takes_ray_where_it_is_not(folder, tmp_path, monkeypatch):
    (tmp_path / "documents.jsonl").write_text("\n".join(f'{{"text": "match goal {number}"}}' for number in range(40)), encoding="utf-8")
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))
    monkeypatch.chdir(folder.parent)
    document = {
        "data": {"source": str(tmp_path / "documents.jsonl"), "classes": ["sport", "money"], "test_documents": 10},
        "model": {"encoder": str(tmp_path / "encoder")},
        "method": {"name": "pesco"},
        "variants": {"LOTClass": {"method": {"name": "lotclass"}}},
    }
    with pytest.raises(SelfTrainError, match=r"model\.masked_lm is not set"):
        prepare(parse(document))
    document["model"] |= {"train": "head", "masked_lm": folder.name}
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'full'"):
        prepare(parse(document))
    document["variants"]["LOTClass"]["model"] = {"train": "full"}
    prepared = prepare(parse(document))
    assert prepared.needs_ray()
    assert prepared.variants["LOTClass"].experiment.model.masked_lm == str(folder)  # whole, since workers run in other folders


def test_words_at_some_places_are_those_of_all_places(masked):
    """The output layer is asked about fewer tokens, and nothing changes, neither there nor for the model."""
    model = masked.language_model
    rows = masked.tokens_of(["the team and the bank", "a goal"])
    places = torch.zeros(2, max(map(len, rows)), dtype=torch.bool)
    places[0, [1, 3]] = places[1, 2] = True
    before = masked.words(model, rows)
    torch.testing.assert_close(masked.words_at(model, rows, places), before[places])
    torch.testing.assert_close(masked.words(model, rows), before)
    assert masked.words_at(model, rows, torch.zeros_like(places)).shape == (0, before.shape[-1])
