"""A bundle comes back as it was written, opens elsewhere, holds no pickle, and is whole or absent."""

from __future__ import annotations

import errno
import json
import os
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, BundleMetrics, installed_versions, read_card, read_prototypes, write_bundle
from selftrain.bundle.model_card import model_card
from selftrain.errors import BundleError, OutputError
from selftrain.models.bilstm import bilstm
from selftrain.models.head import HeadEncoder

LABELS = ("sport", "tech", "politics")
NAMES = {one.metadata["Name"] for one in distributions()}


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
    found = read_card(folder)
    assert found == card(created=found.created, files=found.files)
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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card(name="new"))
    assert read_card(folder).name == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    monkeypatch.undo()
    write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card(name="new"))
    assert read_card(folder).name == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_put_in_its_place_leaves_the_old_one_there(tmp_path: Path, backbone, prototypes, monkeypatch) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card(name="old"))
    rename, moved = Path.rename, []

    def refuses(self: Path, target: Path) -> Path:
        moved.append(self.name)
        if ".partial-" in self.name:  # the old one has made room already
            assert not folder.exists()
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(OutputError, match="the disk is gone"):
        write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card(name="new"))
    assert [name.partition("-")[0] for name in moved] == ["bundle", ".bundle.partial", ".bundle.old"]
    assert read_card(folder).name == "old" and torch.equal(read_prototypes(folder, card())[0], prototypes)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert backbone.max_seq_length == 64


def test_what_a_killed_write_left_is_no_hindrance(tmp_path: Path, backbone, prototypes) -> None:
    left = tmp_path / f".bundle.partial-{os.getpid()}"  # of a process that had the same number
    left.mkdir()
    (left / "left.bin").write_bytes(b"half")
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card())
    assert not (folder / "left.bin").exists() and [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_may_go_into_an_empty_folder_and_into_folders_that_are_not_there(tmp_path: Path, backbone, prototypes) -> None:
    (tmp_path / "empty").mkdir()
    assert read_card(write_bundle(tmp_path / "empty", backbone=backbone, prototypes=prototypes, card=card())).name == "news"
    assert read_card(write_bundle(tmp_path / "a" / "b" / "c", backbone=backbone, prototypes=prototypes, card=card())).name == "news"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="not a bundle"):
        write_bundle(tmp_path / "file", backbone=backbone, prototypes=prototypes, card=card())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("of_card", "of_encoder", "expected"), [(16, 64, 16), (100, 64, 64), (16, None, 16)])
def test_a_bundle_reads_as_many_tokens_as_the_card_says_and_the_encoder_can(
    tmp_path: Path, backbone, prototypes, of_card, of_encoder, expected, monkeypatch
):
    monkeypatch.setattr(backbone[0], "max_seq_length", of_encoder)
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card(max_tokens=of_card))
    assert SentenceTransformer(str(folder), device="cpu").max_seq_length == expected
    assert backbone.max_seq_length == of_encoder


def test_a_bias_comes_back_and_has_to_fit(tmp_path: Path, backbone, prototypes) -> None:
    bias = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card(), bias=bias)
    read = read_prototypes(folder, card())[1]
    assert read is not None and torch.equal(read, bias.detach())
    write_bundle(folder, backbone=backbone, prototypes=prototypes, card=card())
    assert read_prototypes(folder, card())[1] is None
    save_file({"prototypes": torch.zeros(3, 32), "bias": torch.zeros(2)}, str(folder / "prototypes.safetensors"))
    with pytest.raises(BundleError, match=r"bias of shape \(2,\).*3 classes"):
        read_prototypes(folder, card())
    save_file({"prototypes": torch.zeros(3)}, str(folder / "prototypes.safetensors"))
    with pytest.raises(BundleError, match=r"shape \(3,\).*3 classes"):
        read_prototypes(folder, card())


def test_a_newer_minor_version_opens_and_the_card_is_plain_text(tmp_path: Path, backbone, prototypes) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card(name="Müll – 日本"))
    text = (folder / "selftrain.json").read_text(encoding="utf-8")
    assert '{\n  "format": 1,\n  "name": "Müll – 日本",\n' in text and text.endswith("}\n")
    (folder / "selftrain.json").write_text(text.replace("{", '{"added_later": 1,', 1), encoding="utf-8")
    assert read_card(folder).name == "Müll – 日本"
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(read_card(folder))


def test_the_versions_are_those_of_what_computes() -> None:
    assert installed_versions() == {
        name: version(name) for name in ("selftrain", "torch", "transformers", "sentence-transformers", "safetensors") if name in NAMES
    }
    assert {"torch", "transformers", "sentence-transformers", "safetensors"} <= installed_versions().keys()


def test_never_overwrites_what_is_no_bundle(tmp_path: Path, backbone, prototypes) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a bundle"):
        write_bundle(tmp_path / "mine", backbone=backbone, prototypes=prototypes, card=card())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_prototypes_have_to_fit_the_labels(tmp_path: Path, backbone, prototypes) -> None:
    with pytest.raises(ValueError, match="one row a class"):
        write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes[:2], card=card())
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no folder"):
        read_card(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"is not a selftrain bundle, it has no selftrain\.json"):
        read_card(tmp_path)
    (tmp_path / "selftrain.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        read_card(tmp_path)
    (tmp_path / "selftrain.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(BundleError, match=r"format 99.*upgrade"):
        read_card(tmp_path)


def test_damaged_prototypes_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"prototypes\.safetensors cannot be read"):
        read_prototypes(tmp_path, card())
    (tmp_path / "prototypes.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        read_prototypes(tmp_path, card())
    save_file({"prototypes": torch.zeros(2, 32)}, str(tmp_path / "prototypes.safetensors"))
    with pytest.raises(BundleError, match="3 classes"):
        read_prototypes(tmp_path, card())


def test_model_card_says_what_the_card_says() -> None:
    facts = {"created": "2024-05-06T07:08:09+00:00", "versions": {"torch": "2.0", "selftrain": "1.0"}, "encoder": "minilm", "scale": 20.0}
    text = model_card(card(label_prompts=(("It is about sport.", "Sport."), ()), **facts))
    assert text == (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")


def test_model_card_of_a_bundle_that_knows_little() -> None:
    bare = model_card(BundleCard(name="x", labels=("a", "b"), method="uskd", supervision="all", created="now", versions={}))
    assert "Unknown: the test documents have no labels.\n" in bare and "| Accuracy" not in bare
    assert "the learner saw labels of the training documents (supervision: all)." in bare
    assert "- Data: unnamed (fingerprint unknown).\n- Encoder at the start: unknown (fingerprint unknown)." in bare
    assert "wrote texts for training: none." in bare and "## Classes\n\n- a\n- b\n" in bare
    assert "(fingerprint unknown), no longer needed" in model_card(BundleCard(name="x", labels=("a", "b"), method="genco", llm="gemma"))
    only = model_card(card(metrics=BundleMetrics(ece=0.0, documents=12)))
    assert "On 12 labeled test documents:\n\n| | |\n|---|---|\n| Expected calibration error | 0.0000 |\n" in only and "Accuracy" not in only


def test_a_bundle_from_before_cards_listed_their_files_opens_and_is_held_to_all_the_rest(tmp_path: Path, backbone, prototypes) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card())
    before = Classifier.load(folder).predict_proba(["the team won"])
    document = json.loads((folder / "selftrain.json").read_text())
    listed = document.pop("files")
    assert set(listed) == {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {"selftrain.json", "README.md"}
    (folder / "selftrain.json").write_text(json.dumps(document))
    assert (Classifier.load(folder).predict_proba(["the team won"]) == before).all()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"pytorch_model\.bin is not a file of a bundle"):
        Classifier.load(folder)


def test_what_is_added_to_a_bundle_later_is_not_held_against_it(tmp_path: Path, backbone, prototypes) -> None:
    folder = write_bundle(tmp_path / "bundle", backbone=backbone, prototypes=prototypes, card=card())
    (folder / "README.md").write_text("my notes")
    (folder / "MLmodel").write_text("flavors: {}")
    (folder / "registered_model_meta").write_text("model_name: news")
    Classifier.load(folder)


def test_every_encoder_that_is_trained_here_makes_a_bundle_that_opens(tmp_path: Path, backbone) -> None:
    words = bilstm(["team", "bank", "match"], word_dimensions=8, hidden=4)
    for name, encoder, dimensions in (("head", HeadEncoder(backbone, max_tokens=16).export(), 32), ("words", words, 8)):
        folder = write_bundle(tmp_path / name, backbone=encoder, prototypes=torch.eye(3, dimensions), card=card())
        assert Classifier.load(folder).predict_proba(["the team won"]).shape == (1, 3)


def test_settings_that_name_code_are_left_out_of_a_bundle(tmp_path: Path, prototypes) -> None:
    encoder = tiny_backbone(tmp_path / "encoder")
    encoder[0].auto_model.config.auto_map = {"AutoModel": "remote.Model"}
    folder = write_bundle(tmp_path / "bundle", backbone=encoder, prototypes=prototypes, card=card())
    assert "auto_map" not in (folder / "config.json").read_text()
    Classifier.load(folder)
