"""A teacher that is right about most texts, and documents of its classes: what a distillation starts from."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import tiny_backbone
from transformers import BertConfig, BertModel

from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.reference import Reference

LABELS = ("sport", "business")
GROUPS = (("sport", "match", "goal", "team", "player", "coach", "league"), ("business", "market", "bank", "profit", "shares", "economy"))


def documents(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """(texts, labels): a text has words of its class and of neither."""
    chosen, texts, labels = random.Random(seed), [], []
    for place in range(count):
        group = place % 2
        words = chosen.choices(GROUPS[group], k=4) + chosen.choices(("the", "and", "with", "about", "film", "music"), k=4)
        chosen.shuffle(words)
        texts.append(" ".join([*words, f"number{place}"]))
        labels.append(LABELS[group])
    return texts, labels


def file_of(folder: Path, count: int, *, labeled: bool) -> Path:
    texts, labels = documents(count)
    pd.DataFrame({"text": texts} | ({"label": labels} if labeled else {})).to_csv(folder / "texts.csv", index=False)
    return folder / "texts.csv"


def make_teacher(folder: Path) -> Path:
    """Three layers, and the mean of a class's texts for its prototype: it gets most texts right, as a trained one does."""
    small = tiny_backbone(folder / "tokenizer")
    torch.manual_seed(1)
    size = len(small.tokenizer)
    config = BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128
    )
    BertModel(config).save_pretrained(folder / "encoder")
    small.tokenizer.save_pretrained(folder / "encoder")
    backbone = SentenceTransformer(modules=[Transformer(str(folder / "encoder"), max_seq_length=32), Pooling(32, "mean")], device="cpu")
    texts, labels = documents(200, seed=1)
    found = backbone.encode(texts, convert_to_tensor=True)
    means = torch.stack([found[[label == name for label in labels]].mean(dim=0) for name in LABELS])
    direction = means - means.mean(dim=0)
    bias = -direction @ means.mean(dim=0)
    scale = 40.0
    card = BundleCard(
        name="news", labels=LABELS, method="genco", similarity="dot", scale=scale, max_tokens=32, llm="a-language-model", encoder="tiny"
    )
    reference = Reference(np.full((200, 2), 0.5, dtype=np.float32), None)
    card = card.model_copy(update={"reference": reference.facts(reference.probabilities, held_out=True)})
    return write_bundle(folder / "run" / "bundle", backbone=backbone, prototypes=direction, bias=scale * bias, card=card, reference=reference)
