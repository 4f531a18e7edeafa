"""An encoder whose every number can be written out, and what a step by hand is made of: all in float64, by plain formulas and none of the package's.

A document is a bag of the words below, `x` `[5]`; the encoder is one residual layer with embeddings of length one, and a linear classifier follows:

    z = x + W x + b,    e = z / |z|,    logits = C e + c

A net is the list [W, b, C, c] here. Gradients of a loss that a test wrote out are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from selftrain.config import parse
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.data.texts import no_texts
from selftrain.methods.base import Method
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import Encoder

WORDS = ("goal", "bank", "film", "vote", "chip")
TEXTS = (
    "goal goal bank chip",
    "bank film film vote vote",
    "goal vote chip chip film",
    "bank bank bank goal film",
    "film vote chip goal goal goal",
    "vote vote bank chip film",
    "chip chip goal bank bank vote",
)
Net = list[torch.Tensor]  # W [5, 5], b [5], C [L, 5], c [L]


class ResidualEncoder(Encoder):
    """See the module's docstring; the layer starts where `seed` says, away from zero."""

    tensors = True
    default_rate = 0.03

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(len(WORDS), len(WORDS))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.layer.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    @property
    def dimensions(self) -> int:
        return len(WORDS)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def inputs(self, documents: Sequence[str]) -> torch.Tensor:
        return bags(documents)

    def of_inputs(self, rows: torch.Tensor) -> torch.Tensor:
        return F.normalize(rows + self.layer(rows), dim=1)

    def forward(self, documents: Sequence[str]) -> torch.Tensor:
        return self.of_inputs(self.inputs(documents))

    def encode(self, documents: Sequence[str]) -> torch.Tensor:
        with torch.no_grad():
            return self(documents)


def bags(documents: Sequence[str]) -> torch.Tensor:
    """How often each word is in each document, `[N, 5]`."""
    return torch.tensor([[float(text.split().count(word)) for word in WORDS] for text in documents], dtype=torch.float64)


def corpus_of(classes: int = 3, texts: Sequence[str] = TEXTS, **more: Any) -> Corpus:
    """A corpus of `texts`, whose ids are their places; `granted`, `candidates` and the like by place in `more`."""
    given = {name: {str(place): value for place, value in values.items()} for name, values in more.items()}
    labels = tuple(Label(f"class{number}", f"class{number}", "") for number in range(classes))
    return Corpus(
        name="toy",
        labels=labels,
        prompts=("{label}",),
        unlabeled=Documents(tuple(str(place) for place in range(len(texts))), tuple(texts)),
        test=Documents(),
        **given,
    )


def build(corpus: Corpus, name: str, *, seed: int = 0, encoder: Encoder | None = None, **options: Any) -> Any:
    """The method around a `ResidualEncoder`; torch's random numbers start anew, so that nets of several methods start alike."""
    torch.manual_seed(7)
    return resolve(parse({"method": {"name": name, **options}})).build(corpus, encoder or ResidualEncoder(), seed=seed)


def steps_of(method: Method, rounds: int | None = None) -> list[dict[str, float]]:
    """Train for `rounds` (default: all) as the training loop does; the figures of every step."""
    figures = []
    for round_ in range(method.rounds if rounds is None else rounds):
        method.refresh(round_, no_texts)
        method.encoder.train()
        figures += [method.step(round_, step) for step in range(method.steps(round_))]
    return figures


def net_of(encoder: torch.nn.Module, classifier: torch.nn.Module) -> Net:
    """A copy of the numbers of a net."""
    return [value.detach().clone() for value in (*encoder.parameters(), *classifier.parameters())]


def embeddings(net: Net, rows: torch.Tensor) -> torch.Tensor:
    """e of the module's docstring, `[N, 5]`."""
    z = rows + rows @ net[0].T + net[1]
    return z / (z * z).sum(1, keepdim=True).sqrt()


def logits(net: Net, rows: torch.Tensor) -> torch.Tensor:
    """`[N, L]`."""
    return embeddings(net, rows) @ net[2].T + net[3]


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the classes, `[N, L]`."""
    powers = torch.exp(scores - scores.max(1, keepdim=True).values)
    return powers / powers.sum(1, keepdim=True)


def cross_entropies(scores: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """-log p_y of every document, `[N]`."""
    return torch.stack([-torch.log(p[y]) for p, y in zip(softmax(scores), labels, strict=True)])


def gradient(loss: Callable[[Net], torch.Tensor], at: Net) -> Net:
    """Of `loss`, at `at`."""
    there = [value.detach().clone().requires_grad_() for value in at]
    return list(torch.autograd.grad(loss(there), there))


def by_differences(loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, step: float = 1e-5) -> torch.Tensor:
    """The gradient of `loss` at the vector `at` by central differences."""
    found = torch.zeros_like(at)
    for place in range(len(at)):
        away = torch.zeros_like(at)
        away[place] = step
        found[place] = (loss(at + away) - loss(at - away)).detach() / (2 * step)
    return found


class Adam:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019); with `steps`, the rate falls linearly to zero over so many."""

    def __init__(self, rate: float, decay: float = 0.0, steps: int | None = None) -> None:
        self.rate, self.decay, self.steps = rate, decay, steps
        self.done = 0
        self.first: Net = []
        self.second: Net = []

    def step(self, values: Net, slopes: Net) -> Net:
        """`values` after one step."""
        rate = self.rate if self.steps is None else self.rate * (1 - self.done / self.steps)
        self.done += 1
        if self.done == 1:
            self.first, self.second = [torch.zeros_like(value) for value in values], [torch.zeros_like(value) for value in values]
        self.first = [0.9 * m + 0.1 * slope for m, slope in zip(self.first, slopes, strict=True)]
        self.second = [0.999 * v + 0.001 * slope**2 for v, slope in zip(self.second, slopes, strict=True)]
        moved = []
        for value, m, v in zip(values, self.first, self.second, strict=True):
            shift = (m / (1 - 0.9**self.done)) / ((v / (1 - 0.999**self.done)).sqrt() + 1e-8)
            moved.append(value - rate * self.decay * value - rate * shift)
        return moved


def drawn(seed: int | Sequence[int], count: int, size: int) -> list[int]:
    """The places of a step's labeled documents: the first draw of its stream of random numbers."""
    return np.random.default_rng(seed).choice(count, size=size, replace=count < size).tolist()


def assert_equal(found: Mapping[str, Net], expected: Mapping[str, Net], *, relative: float = 1e-7) -> None:
    """Every tensor of `found` is that of `expected` (to rounding, or to what differences can tell)."""
    assert found.keys() == expected.keys()
    for name in found:
        for place, (one, other) in enumerate(zip(found[name], expected[name], strict=True)):
            assert one.dtype == other.dtype == torch.float64 and one.shape == other.shape
            assert torch.allclose(one, other, rtol=relative, atol=1e-10), f"{name}[{place}]: {(one - other).abs().max():.3g} apart"


def differ(one: Net, other: Net, least: float = 1e-6) -> bool:
    """Whether any number of two nets is further apart than rounding."""
    return any(bool((a - b).abs().max() > least) for a, b in zip(one, other, strict=True))
