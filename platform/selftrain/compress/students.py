"""The students of `selftrain distill`.

    shallow   some layers of the teacher's transformer, evenly spaced, trained further
    static    one vector a token and their mean: no transformer at all

Both minimise KL(teacher || student). The static one starts as model2vec's do: every token of the vocabulary goes through the teacher's encoder alone, the principal
components are kept, and frequent tokens are weighted down by SIF, a / (a + p), of "A Simple but Tough-to-Beat Baseline for Sentence Embeddings" (ICLR 2017); p is
counted on the texts here. model2vec itself is not used: its distillation needs transformers below 5.4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from selftrain.bundle.format import BundleCard
from selftrain.bundle.pytorch import features_of
from selftrain.bundle.tokens import FastReader, padded
from selftrain.errors import BundleError
from selftrain.runtime.progress import progress_bar

SIF = 1e-4  # a of the weights of the tokens
DIMENSIONS = 256  # of a static student, where the teacher has more
_STATIC_EPOCHS, _STATIC_BATCH, _STATIC_RATE = 20, 64, 3e-3
_SHALLOW_EPOCHS, _SHALLOW_BATCH, _SHALLOW_RATE = 3, 32, 1e-4


class Teacher(NamedTuple):
    """The trained classifier, the texts to learn from as it reads them, and its probabilities on them."""

    backbone: SentenceTransformer
    reader: FastReader
    card: BundleCard
    weights: torch.Tensor  # [classes, dimensions]
    bias: torch.Tensor | None  # [classes]
    rows: Sequence[Sequence[int]]  # token ids of each text
    soft: torch.Tensor  # [texts, classes], probabilities


@dataclass(frozen=True)
class DistilledStudent:
    """A trained student: its encoder, weights `[classes, dimensions]` and bias `[classes]`, and how its card differs from the teacher's."""

    backbone: SentenceTransformer
    weights: torch.Tensor
    bias: torch.Tensor | None
    changes: Mapping[str, Any]


def static_student(teacher: Teacher) -> DistilledStudent:
    """A student of one vector a token; see the top of this file."""
    backbone, reader, card, _, _, rows, soft = teacher
    tokenizer = reader.without_special_tokens()
    special = set(reader([""])[0].ids)
    bare = [[token for token in row if token not in special] for row in rows]
    vectors = _token_vectors(backbone, reader, tokenizer.get_vocab_size())
    counts = np.bincount(np.fromiter((token for row in bare for token in row), np.int64), minlength=len(vectors)).astype(np.float64) + 1.0
    vectors = _principal(vectors) * (SIF / (SIF + counts / counts.sum()))[:, None]
    vectors /= np.linalg.norm(vectors, axis=1).mean()

    module = StaticEmbedding(tokenizer, embedding_weights=torch.from_numpy(vectors).float())
    module.embedding.sparse = True
    head = torch.nn.Linear(vectors.shape[1], soft.shape[1])
    sparse, dense = torch.optim.SparseAdam(list(module.embedding.parameters()), lr=_STATIC_RATE), torch.optim.Adam(head.parameters(), lr=_STATIC_RATE)

    def logits(indices: Sequence[int]) -> torch.Tensor:
        lengths = torch.tensor([len(bare[index]) for index in indices])
        ids = torch.tensor([token for index in indices for token in bare[index]], dtype=torch.long)
        found: torch.Tensor = head(module.embedding(ids, lengths.cumsum(0) - lengths))
        return found

    def fade(share: float) -> None:
        for optimizer in (sparse, dense):
            optimizer.param_groups[0]["lr"] = _STATIC_RATE * (1 - share)

    _learn("static", logits, soft, (sparse, dense), fade, epochs=_STATIC_EPOCHS, batch=_STATIC_BATCH)
    module.embedding.sparse = False
    changes = {"similarity": "dot", "scale": 1.0, "encoder": f"static embeddings of {card.encoder or 'the teacher'}", "encoder_fingerprint": ""}
    return DistilledStudent(SentenceTransformer(modules=[module], device="cpu"), head.weight.detach(), head.bias.detach(), changes)


def shallow_student(teacher: Teacher, *, layers: int) -> DistilledStudent:
    """A student of `layers` of the teacher's layers, the first and the last among them."""
    backbone, reader, card, weights, bias, rows, soft = teacher
    student = copy.deepcopy(backbone)
    owner, stack = layers_of(student)
    kept = sorted({round(float(place)) for place in np.linspace(0, len(stack) - 1, layers)}) if layers > 1 else [0]
    name = next(name for name, child in owner.named_children() if child is stack)
    setattr(owner, name, torch.nn.ModuleList([stack[index] for index in kept]))
    student[0].auto_model.config.num_hidden_layers = len(kept)
    device = student.device
    head = torch.nn.ParameterDict({"weights": torch.nn.Parameter(weights.clone().float()), "bias": torch.nn.Parameter(torch.zeros(len(weights)))})
    if bias is not None:
        head["bias"].data.copy_(bias)
    head.to(device)
    optimizer = torch.optim.AdamW([*student.parameters(), *head.parameters()], lr=_SHALLOW_RATE, weight_decay=0.01)

    def logits(indices: Sequence[int]) -> torch.Tensor:
        ids, mask = (torch.from_numpy(array).to(device) for array in padded([rows[index] for index in indices], reader.padding))
        embeddings = student(features_of(student, ids, mask))["sentence_embedding"]
        if card.similarity == "cosine":
            embeddings = F.normalize(embeddings, dim=-1)
        return card.scale * embeddings @ head["weights"].T + head["bias"]

    def fade(share: float) -> None:
        optimizer.param_groups[0]["lr"] = _SHALLOW_RATE * min(1.0, share / 0.1 + 0.01) * (1 - share)

    student.train()
    _learn("shallow", logits, soft.to(device), (optimizer,), fade, epochs=_SHALLOW_EPOCHS, batch=_SHALLOW_BATCH, lengths=[len(row) for row in rows])
    student.eval()
    changes = {"encoder": f"{len(kept)} layers of {card.encoder or 'the teacher'}", "encoder_fingerprint": ""}
    return DistilledStudent(student, head["weights"].detach().cpu(), head["bias"].detach().cpu(), changes)


def layers_of(backbone: SentenceTransformer) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """(module, its list of layers): the transformer's stack.

    Raises:
        BundleError: none has as many layers as the model's configuration says.
    """
    model = backbone[0].auto_model
    count = getattr(model.config, "num_hidden_layers", 0)
    for module in model.modules():
        for child in module.children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return module, child
    raise BundleError(f"The encoder's layers were not found ({type(model).__name__}); distill into the student static instead.")


def _learn(
    name: str,
    logits: Callable[[Sequence[int]], torch.Tensor],
    soft: torch.Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    fade: Callable[[float], None],
    *,
    epochs: int,
    batch: int,
    lengths: Sequence[int] | None = None,
) -> None:
    """Minimise KL(soft || student).

    Args:
        name: of the student, for the progress bar.
        logits: logits `[texts, classes]` of the texts with these indices.
        soft: the teacher's probabilities `[texts, classes]`.
        optimizers: all of them take every step.
        fade: sets the learning rate, given the share of the steps that is over, 0 to 1.
        epochs: passes over the texts.
        batch: texts in a step.
        lengths: of the texts in tokens; if given, texts of similar length share a batch.
    """
    steps = epochs * -(-len(soft) // batch)
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    done = 0
    with progress_bar(f"student {name}", "step", steps) as bar:
        for _ in range(epochs):
            order = torch.randperm(len(soft), generator=generator).tolist()
            if lengths is not None:  # sorted inside of wide windows: little padding, and still another order in every epoch
                window = 32 * batch
                order = [index for at in range(0, len(order), window) for index in sorted(order[at : at + window], key=lengths.__getitem__)]
            groups = [order[at : at + batch] for at in range(0, len(order), batch)]
            for turn in torch.randperm(len(groups), generator=generator).tolist():
                group = groups[turn]
                fade(done / steps)
                loss = F.kl_div(F.log_softmax(logits(group), dim=-1), soft[group], reduction="batchmean")
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                done += 1
                bar.update()


def _token_vectors(backbone: SentenceTransformer, reader: FastReader, count: int) -> np.ndarray:
    """The encoder's embedding of every token alone, between the special tokens, `[count, dimensions]`."""
    before, after = reader.special_tokens()
    parts = []
    backbone.eval()
    with torch.inference_mode(), progress_bar("tokens through the encoder", "token", count) as bar:
        for start in range(0, count, 512):
            rows = [[*before, token, *after] for token in range(start, min(count, start + 512))]
            ids = torch.tensor(rows, device=backbone.device)
            parts.append(backbone(features_of(backbone, ids, torch.ones_like(ids)))["sentence_embedding"].float().cpu().numpy())
            bar.update(len(rows))
    return np.concatenate(parts).astype(np.float64)


def _principal(vectors: np.ndarray) -> np.ndarray:
    """The coordinates on the principal components, at most `DIMENSIONS` of them."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # by rising variance
    return centred @ directions[:, ::-1][:, :DIMENSIONS]
