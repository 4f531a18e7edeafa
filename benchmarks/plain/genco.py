"""GenCo (arXiv:2304.11872, algorithm 1), written down in plain PyTorch for one data set: what `benchmarks/training.py` compares the library with.

Nothing of selftrain is imported. Texts are tokenised once. There are no rounds to resume from, no reports and no options. The
order of random draws is the library's, so both sides take the same steps and end with the same losses, which the benchmark checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Texts(NamedTuple):
    """What GenCo reads: documents, and what a language model wrote about them."""

    documents: list[str]
    continuations: list[str]  # one a document
    conditional: list[list[str]]  # [document][class]
    prompts: list[list[str]]  # [class][prompt]


class MeanPooled(nn.Module):
    """A transformer, the mean over its tokens, length one."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        super().__init__()
        self.tokenizer, self.model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    def tokens(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """Token ids of each text."""
        found: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        return found

    def forward(self, rows: Sequence[list[int]]) -> Tensor:
        """Embeddings of texts that are tokenised."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return F.normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=-1)

    @torch.no_grad()
    def encode(self, rows: Sequence[list[int]], lengths: Sequence[int], batch_size: int = 64) -> Tensor:
        """Embeddings without dropout, in batches of like `lengths`."""
        self.eval()
        order = sorted(range(len(rows)), key=lambda index: lengths[index])
        parts = [self([rows[index] for index in order[start : start + batch_size]]) for start in range(0, len(order), batch_size)]
        return torch.cat(parts)[torch.tensor(order).argsort()]


class Tokenised:
    """All texts as token ids, once: each a list, with the lengths in characters that batches without gradient are sorted by."""

    def __init__(self, encoder: MeanPooled, texts: Texts, longest: int) -> None:
        self.documents, self.generated = encoder.tokens(texts.documents, longest), encoder.tokens(texts.continuations, longest)
        self.conditional = [encoder.tokens(group, longest) for group in texts.conditional]
        self.conditional_lengths = [[len(text) for text in group] for group in texts.conditional]
        prompts = [prompt for group in texts.prompts for prompt in group]
        self.prompts, self.prompt_lengths = encoder.tokens(prompts, longest), [len(prompt) for prompt in prompts]
        ends = encoder.tokenizer(texts.documents, truncation=True, max_length=longest, return_offsets_mapping=True)["offset_mapping"]
        beginnings = [text[: max(end for _, end in offsets)] for text, offsets in zip(texts.documents, ends, strict=True)]
        joined = [f"{beginning} {continuation}".rstrip() for beginning, continuation in zip(beginnings, texts.continuations, strict=True)]
        self.augmented, self.augmented_lengths = encoder.tokens(joined, 2 * longest), [len(text) for text in joined]


def pseudo_labels(scores: Tensor, size: int) -> tuple[list[list[int]], Tensor]:
    """The `size` most confident documents of each class, and the class of every document."""
    confidence, label_of = scores.softmax(1).max(1)
    order = confidence.argsort(descending=True, stable=True)
    return [order[label_of[order] == label][:size].tolist() for label in range(scores.shape[1])], label_of


def losses_of(encoder: MeanPooled, read: Tokenised, batch: list[int], labels: dict[int, int], targets: dict[int, Tensor], classes: int) -> float:
    """Both losses of a batch (equations 11 and 10); their gradients are added to the weights'."""
    rows = encoder([read.conditional[index][labels[index]] for index in batch])
    prototypes = encoder(read.prompts).view(classes, -1, rows.shape[1]).mean(1)
    q = torch.stack([targets[index] for index in batch])
    g2l = -(q * (rows @ prototypes.T).log_softmax(1)).sum(1).mean()
    g2l.backward()
    queries, keys = encoder([read.documents[index] for index in batch]), encoder([read.generated[index] for index in batch])
    own = torch.tensor([labels[index] for index in batch])
    same = own.unsqueeze(1) == own.unsqueeze(0)
    log_probability = queries @ keys.T - (queries @ queries.T).logsumexp(1, keepdim=True)
    t2g = -((log_probability * same).sum(1) / same.sum(1)).mean()
    t2g.backward()
    return float(g2l.detach() + t2g.detach())


def genco(encoder: MeanPooled, texts: Texts, *, rounds: int, steps: int, per_class: int, seed: int, longest: int = 64) -> list[float]:
    """GenCo with both augmentations; the loss of every step.

    Args:
        encoder: is trained in place.
        texts: see `Texts`.
        rounds: T.
        steps: of a round.
        per_class: documents of each class in a batch.
        seed: of all draws.
        longest: tokens of a text that are read.
    """
    classes, tau = len(texts.prompts), 0.1
    read = Tokenised(encoder, texts, longest)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=5e-5, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / (rounds * steps)))
    losses = []
    for round_ in range(rounds):
        torch.manual_seed(seed * 1_000_003 + round_ * 1_009)
        prompts = encoder.encode(read.prompts, read.prompt_lengths)
        prototypes = prompts.view(classes, -1, prompts.shape[1]).mean(1)
        size = max(1, round((0.2 + 0.5 * round_ / max(1, rounds - 1)) * len(texts.documents) / classes))
        groups, label_of = pseudo_labels(encoder.encode(read.augmented, read.augmented_lengths) @ prototypes.T, size)
        batches = []
        for step in range(steps):
            rng = np.random.default_rng([seed, round_, step])
            drawn = [[group[i] for i in rng.choice(len(group), size=per_class, replace=len(group) < per_class)] for group in groups if group]
            batches.append([index for group in drawn for index in group])
        needed = sorted({index for batch in batches for index in batch})
        labels = {index: int(label_of[index]) for index in needed}
        lengths = [read.conditional_lengths[index][labels[index]] for index in needed]
        written = encoder.encode([read.conditional[index][labels[index]] for index in needed], lengths)
        targets = dict(zip(needed, (written @ prototypes.T / tau).softmax(1), strict=True))
        encoder.train()
        for batch in batches:
            losses.append(losses_of(encoder, read, batch, labels, targets, classes))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
    return losses
