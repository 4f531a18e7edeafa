"""A static student is opened and computed without PyTorch, as PyTorch computes it; a damaged one is refused in a sentence."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import WORDS, tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.errors import BundleError

WITHOUT_TORCH = """
import sys
from selftrain.cli import main
code = main(["predict", "--bundle", sys.argv[1], "about sport"])
print(code, sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""


def without_torch(bundle: Path) -> str:
    """The last line of a prediction: its exit code, and what was imported of what takes seconds."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(bundle)], capture_output=True, text=True, timeout=120)
    return (done.stdout.splitlines() or [done.stderr])[-1]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> SentenceTransformer:
    tokenizer = tiny_backbone(tmp_path_factory.mktemp("tiny")).tokenizer.backend_tokenizer
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")


def written(student: SentenceTransformer, folder: Path, *, bias: bool = True, **changes) -> Path:
    generator = torch.Generator().manual_seed(1)
    prototypes, offset = torch.randn(3, 8, generator=generator), torch.randn(3, generator=generator)
    card = BundleCard(name="news", labels=("sport", "tech", "politics"), method="genco", scale=2.0, max_tokens=6, **changes)
    return write_bundle(folder / "bundle", backbone=student, prototypes=prototypes, card=card, bias=offset if bias else None)


@pytest.mark.parametrize(("similarity", "bias"), [("cosine", True), ("dot", True), ("dot", False)])
def test_numpy_gives_what_pytorch_gives(student, tmp_path, similarity, bias):
    folder = written(student, tmp_path, bias=bias, similarity=similarity)
    ours, torchs = Classifier.load(folder), Classifier.load(folder, backend="torch")
    assert (
        (ours.backend, torchs.backend) == ("numpy", "torch") and ours.most_tokens == torchs.most_tokens and ours.most_padding == torchs.most_padding
    )
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, 20))) for _ in range(200)]
    assert np.abs(ours.predict_proba(texts) - torchs.predict_proba(texts)).max() < 1e-6
    assert [tokens.ids for tokens in ours.tokenize(texts)] == [tokens.ids for tokens in torchs.tokenize(texts)]
    no_tokens, some = ours.classify([[], [5, 7]]), ours.classify([[5, 7]])
    assert no_tokens[0] == pytest.approx(torchs.classify([[], [5, 7]])[0], abs=1e-6) and no_tokens[1] == pytest.approx(some[0], abs=1e-12)
    assert no_tokens.sum(axis=1) == pytest.approx(1)


def test_the_mean_and_the_softmax_by_hand():
    from selftrain.bundle.static import StaticBackend

    vectors = np.array([[0, 0], [3, 0], [0, 4]], np.float32)
    backend = StaticBackend(vectors, np.array([[1.0, 0], [0, 1]]), np.array([0.0, 1]), 2.0, cosine=True)
    ids, mask = np.array([[1, 2, 0], [2, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]])
    # The means are (1.5, 2) and (0, 4), of length one (.6, .8) and (0, 1); logits 2 p . f + b are 1.2 and 2.6, 0 and 3.
    for found, difference in zip(backend(ids, mask), (1.4, 3.0), strict=True):
        assert found == pytest.approx([1 / (1 + np.exp(difference)), 1 / (1 + np.exp(-difference))], rel=1e-6)


def test_pytorch_is_not_imported(student, tmp_path):
    assert without_torch(written(student, tmp_path)) == "0 []"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tensors: {"embedding.weight": tensors["embedding.weight"][:5]}, "token ids up to"),
        (lambda tensors: {"embedding.weight": tensors["embedding.weight"][:, :4].contiguous()}, "have 8 dimensions, and its encoder gives 4"),
        (lambda tensors: {"embedding.weight": tensors["embedding.weight"] * torch.nan}, "not finite"),
        (lambda tensors: {"weight": tensors["embedding.weight"]}, "holds other tensors than those of a static encoder"),
    ],
)
def test_damage_is_one_sentence(student, tmp_path, damage, said):
    folder = written(student, tmp_path)
    card = folder / "selftrain.json"
    save_file(damage(load_file(str(folder / "model.safetensors"))), str(folder / "model.safetensors"))
    card.write_text(json.dumps(json.loads(card.read_text()) | {"files": {}}))  # as of a bundle from before files were listed
    with pytest.raises(BundleError, match=said):
        Classifier.load(folder)
