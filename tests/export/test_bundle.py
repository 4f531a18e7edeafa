"""A bundle comes back as it was written, opens elsewhere, holds no pickle, and is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny import tiny_backbone

from selftrain.errors import UserError
from selftrain.export.bundle import BundleCard, BundleMetrics, model_card, read_card, read_prototypes, write_bundle

LABELS = ("sport", "tech", "politics")


def card(**changes) -> BundleCard:
    facts = {
        "name": "news",
        "labels": LABELS,
        "label_prompts": tuple((f"It is about {label}.",) for label in LABELS),
        "method": "genco",
        "max_tokens": 16,
        "data": "bbc",
        "data_fingerprint": "abc123",
        "llm": "a-language-model",
        "llm_fingerprint": "def456",
        "metrics": BundleMetrics(accuracy=0.93125, macro_f1=0.9, ece=None, documents=1000),
        "experiment": {"method": {"name": "genco", "tau": 0.1}},
    }
    return BundleCard(**(facts | changes))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> SentenceTransformer:
    return tiny_backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def prototypes() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)), dim=1)


def test_round_trip_is_exact_to_the_bit(tmp_path: Path, backbone, prototypes) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card())
    assert read_card(folder) == card(created=read_card(folder).created)
    assert torch.equal(read_prototypes(folder, read_card(folder))[0], prototypes)
    opened = SentenceTransformer(str(folder), device="cpu")
    for (name, before), (_, after) in zip(backbone.state_dict().items(), opened.state_dict().items(), strict=True):
        assert torch.equal(before, after), name
    # Whoever opens the folder without selftrain reads as many tokens as the classifier does, and the caller's own encoder is left as it was.
    assert opened.max_seq_length == 16
    assert backbone.max_seq_length == 64


def test_holds_no_pickle_and_nothing_half_written(tmp_path: Path, backbone, prototypes) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"selftrain.json", "prototypes.safetensors", "model.safetensors", "README.md"} <= {path.name for path in files}
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_write_keeps_the_old_bundle(tmp_path: Path, backbone, prototypes, monkeypatch) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card(name="old"))

    def no_space(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("selftrain.export.bundle.save_file", no_space)
    with pytest.raises(OSError, match="no space"):
        write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card(name="new"))
    assert read_card(folder).name == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    monkeypatch.undo()
    write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card(name="new"))
    assert read_card(folder).name == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_never_overwrites_what_is_no_bundle(tmp_path: Path, backbone, prototypes) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a bundle"):
        write_bundle(tmp_path / "mine", backbone=backbone, prototypes=prototypes, card=card())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_prototypes_have_to_fit_the_labels(tmp_path: Path, backbone, prototypes) -> None:
    with pytest.raises(ValueError, match="one row a class"):
        write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes[:2], card=card())
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_card(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a selftrain bundle: it has no selftrain\.json"):
        read_card(tmp_path)
    (tmp_path / "selftrain.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_card(tmp_path)
    (tmp_path / "selftrain.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match=r"format 99.*upgrade"):
        read_card(tmp_path)


def test_damaged_prototypes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prototypes\.safetensors cannot be read"):
        read_prototypes(tmp_path, card())
    (tmp_path / "prototypes.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_prototypes(tmp_path, card())
    save_file({"prototypes": torch.zeros(2, 32)}, str(tmp_path / "prototypes.safetensors"))
    with pytest.raises(UserError, match="3 classes"):
        read_prototypes(tmp_path, card())


def test_model_card_says_what_the_card_says() -> None:
    text = model_card(card())
    for fact in (
        "news",
        "sport",
        "It is about tech.",
        "genco",
        "bbc",
        "abc123",
        "a-language-model",
        "0.9313",
        "1,000",
        "no label of any document",
        "16 tokens",
    ):
        assert fact in text, fact
    assert "Expected calibration error" not in text
    assert "Unknown: the test documents have no labels." in model_card(card(metrics=BundleMetrics()))
    assert "no label of any document" not in model_card(card(supervision="all"))
