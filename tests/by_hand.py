"""What a training step is worked out by hand with: an encoder that fits on a line, softmax, and AdamW as its paper prints it. Nothing here is of ours but the
interface that the encoder fills.

f(x) = W c(x) / |W c(x)|, where c(x) counts the words of the text. All of it is float64, so that a step and its derivation agree to ten digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from selftrain.models.encoder import TextEncoder

CLASSES = ("sport", "money", "film")
WORDS = "sport money film about news match goal team bank share profit actor scene music more then day"
TEXTS = (
    "match goal team day",
    "goal goal match",
    "team match more goal",
    "bank share day",
    "profit bank more bank",
    "share profit then",
    "actor scene film",
    "music actor more",
    "scene scene music day",
    "team bank scene",
    "day more then",
)
TAILS = ("then team goal", "share more profit", "scene day music", "bank then bank", "actor film team")  # continuations


class LinearEncoder(TextEncoder):
    """f(x) as above; `max_tokens` are words.

    Args:
        words: the vocabulary, in one string; other words count nothing.
        dimensions: rows of W.
        seed: of W.
        max_tokens: words of a text that are read.
        normalize: false leaves W c(x) as it is.
    """

    def __init__(self, words: str, *, dimensions: int = 3, seed: int = 0, max_tokens: int = 12, normalize: bool = True) -> None:
        torch.nn.Module.__init__(self)
        self.words = {word: place for place, word in enumerate(dict.fromkeys(words.split()))}
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(dimensions, len(self.words), dtype=torch.float64, generator=generator))
        self.max_tokens, self.batch_size, self.normalize = max_tokens, 4, normalize

    @property
    def dimensions(self) -> int:
        return len(self.weight)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def cut(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[: self.max_tokens]) for text in texts]

    def forward(self, texts: Sequence[str], max_tokens: int | None = None) -> torch.Tensor:
        rows = torch.stack([counts(text, self.words, max_tokens or self.max_tokens) for text in texts]) @ self.weight.T
        return rows / rows.square().sum(dim=1, keepdim=True).sqrt() if self.normalize else rows


def counts(text: str, words: Mapping[str, int], longest: int) -> torch.Tensor:
    """c(x), `[words]`."""
    found = [0.0] * len(words)
    for word in text.split()[:longest]:
        if (place := words.get(word.strip(".:").lower())) is not None:
            found[place] += 1.0
    return torch.tensor(found, dtype=torch.float64)


def embedded(weight: torch.Tensor, words: Mapping[str, int], text: str, longest: int = 12, *, unit: bool = True) -> torch.Tensor:
    """f(x), `[dimensions]`, with the gradient of `weight`."""
    row = weight @ counts(text, words, longest)
    return row / row.square().sum().sqrt() if unit else row


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """e^s_j / sum_c e^s_c of one row of scores."""
    return torch.exp(scores) / torch.exp(scores).sum()


def rounds_of(hand: Any) -> tuple[list[Any], list[torch.Tensor], list[SimpleNamespace]]:
    """Losses of every step, W after each, and what every refresh left, of a training by hand: it has `options`, `refresh`, `step` and `weight`."""
    losses, weights, refreshed = [], [], []
    for round_ in range(hand.options.rounds):
        hand.refresh(round_)
        refreshed.append(SimpleNamespace(**vars(hand)))
        for step in range(hand.options.steps_per_round):
            losses.append(hand.step(round_, step))
            weights.append(hand.weight)
    return losses, weights, refreshed


class AdamW:
    """Algorithm 2 of Loshchilov & Hutter 2019 (beta 0.9 and 0.999, epsilon 1e-8): `step` returns the weights after a step on their gradient.

    Args:
        rate: the learning rate of step t, from 0.
        decay: of the weights, times the rate.
        clip: longest that the gradient of all weights together may be.
        kept: names of weights that do not decay.
    """

    def __init__(self, rate: Callable[[int], float], decay: float, clip: float | None = None, kept: Sequence[str] = ()) -> None:
        self.rate, self.decay, self.clip, self.kept, self.steps = rate, decay, clip, kept, 0
        self.first: dict[str, torch.Tensor] = {}
        self.second: dict[str, torch.Tensor] = {}

    def step(self, weights: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights after the step; those without a gradient stay as they are."""
        rate, after = self.rate(self.steps), dict(weights)
        self.steps += 1
        length = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
        shorter = 1.0 if self.clip is None else min(1.0, self.clip / (length + 1e-6))  # torch adds the millionth
        for name, gradient in gradients.items():
            g = gradient * shorter
            self.first[name] = 0.9 * self.first.get(name, torch.zeros_like(g)) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, torch.zeros_like(g)) + 0.001 * g**2
            m, v = self.first[name] / (1 - 0.9**self.steps), self.second[name] / (1 - 0.999**self.steps)
            decay = 0.0 if name in self.kept else self.decay
            after[name] = weights[name] - rate * (m / (v.sqrt() + 1e-8) + decay * weights[name])
        return after


class SGD:
    """SGD with momentum as Sutskever et al. 2013 have it with a constant rate: v <- mu v + g, w <- w - rate (g + mu v), or w - rate v without looking ahead.

    Args:
        rate: the learning rate of step t, from 0.
        decay: of the weights, times the weights, part of the gradient.
        momentum: mu.
        nesterov: whether to look ahead.
        kept: names of weights that do not decay.
    """

    def __init__(self, rate: Callable[[int], float], decay: float, momentum: float, nesterov: bool, kept: Sequence[str] = ()) -> None:
        self.rate, self.decay, self.momentum, self.nesterov, self.kept, self.steps = rate, decay, momentum, nesterov, kept, 0
        self.velocity: dict[str, torch.Tensor] = {}

    def step(self, weights: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights after the step."""
        rate, after = self.rate(self.steps), dict(weights)
        self.steps += 1
        for name, gradient in gradients.items():
            g = gradient if name in self.kept else gradient + self.decay * weights[name]
            v = self.velocity[name] = self.momentum * self.velocity.get(name, torch.zeros_like(g)) + g
            after[name] = weights[name] - rate * (g + self.momentum * v if self.nesterov else v)
        return after


def falling(rate: float, total: int) -> Callable[[int], float]:
    """The rate falls in a line from `rate` at step 0 to nothing after the last of `total` steps."""
    return lambda step: rate * (total - step) / total


def gradient_of(loss: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """dloss/dweight; `loss` is one that the test wrote out."""
    variable = weight.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(variable), variable)
    return found


def differences_of(loss: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """dloss/dweight by central differences: no derivative at all is taken on trust."""
    found = torch.zeros_like(weight)
    for place in range(weight.numel()):
        up, down = weight.detach().clone(), weight.detach().clone()
        up.view(-1)[place] += step
        down.view(-1)[place] -= step
        found.view(-1)[place] = (float(loss(up)) - float(loss(down))) / (2 * step)
    return found
