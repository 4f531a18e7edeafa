"""SEAL's task loss: the differentiable top-k cross-entropy of Petersen et al. 2022 (arXiv:2206.07290), in the form that SEAL's released code calls.

Equation 14 is -log(sum_k P(k) sum_{j <= k} Q_{j, y}). Q_{j, k}, the probability that class k has the j-th highest score, comes from a soft sorting network. Such a
network blurs what it moves, and it moves a score at most one place a layer, so the true class and the strongest others alone are sorted, and the part for
the first place comes from a softmax (their `top1_mode` "sm", without which training is unstable, as their code says).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from selftrain.errors import ConfigError

SORTED = 8  # m: the true class and the seven strongest others (as SEAL calls it)
STEEPNESS = 2.0  # inverse temperature of a comparison (likewise)
SMOOTHING = 1e-7  # what the probability under the logarithm is kept away from 0 and 1 by, as released


def rank_probabilities(scores: torch.Tensor, steepness: float = STEEPNESS, columns: int | None = None) -> torch.Tensor:
    """Q of SEAL's equation 14, `[N, M, columns]`: entry [i, j, k] is the probability that column k has the j-th highest score of row i.

    An odd-even transposition network with M layers sorts each row upwards; its first layer compares columns 0 and 1, 2 and 3, and so on. A comparison swaps two
    neighbours to the degree arctan(steepness * difference) / pi + 1/2, the Cauchy distribution. Rows and columns of Q sum to one; steepness ->
    infinity gives the hard sort. The order of the columns matters where it is finite.

    Args:
        scores: `[N, M]`, with gradient.
        steepness: inverse temperature of a comparison.
        columns: so many of the first columns alone; None: all.
    """
    count = scores.shape[1]
    places = torch.eye(count, dtype=scores.dtype, device=scores.device)[:, :columns].expand(len(scores), -1, -1)
    rows = torch.cat([scores.unsqueeze(2), places], dim=2)  # [N, M, 1 + columns]: what stands at a place, and where it is from
    for layer in range(count):
        first = layer % 2
        end = first + (count - first) // 2 * 2
        left, right = rows[:, first:end:2], rows[:, first + 1 : end : 2]
        ahead = steepness * (right[:, :, :1] - left[:, :, :1])
        # arctan(-ahead) + pi / 2 and its rest, both written so that the smaller share keeps its digits: the sum would round to 0 or 1 far out.
        swap, stay = (torch.atan2(torch.ones_like(ahead), side) / torch.pi for side in (ahead, -ahead))
        compared = torch.stack([stay * left + swap * right, swap * left + stay * right], dim=2).flatten(1, 2)
        rows = torch.cat([rows[:, :first], compared, rows[:, end:]], dim=1)
    return rows[:, :, 1:].flip(1)  # the network's last place is the highest


def strongest(logits: torch.Tensor, labels: torch.Tensor, count: int = SORTED) -> torch.Tensor:
    """The scores that SEAL's equation 14 sorts, `[N, M]`: that of the label first, then the largest of the others, downwards; all where there are fewer.

    Args:
        logits: `[N, L]`, with gradient.
        labels: y, `[N]`.
        count: m.
    """
    own = logits.gather(1, labels.unsqueeze(1))
    others = logits.scatter(1, labels.unsqueeze(1), float("-inf"))
    return torch.cat([own, others.topk(min(count, logits.shape[1]) - 1, dim=1).values], dim=1)


def top_k_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, prior: Sequence[float], steepness: float = STEEPNESS) -> torch.Tensor:
    """l^t of SEAL's equation 14, -log(sum_k P(k) sum_{j <= k} Q_{j, y}), the mean over the batch.

    Of the label and the seven strongest other classes (`strongest`): P(1) is weighed with their softmax, the rest with the sorting network.

    Args:
        logits: `[N, L]`, with gradient.
        labels: y, `[N]`.
        prior: P(1), P(2), ...: how much it counts that the label is among the first k. Fewer entries than scores are sorted: being among all says nothing.
        steepness: of the sorting network.

    Raises:
        ConfigError: `prior` does not sum to one, or has as many entries as there are classes or scores that are sorted.
    """
    scores = strongest(logits, labels)
    if len(prior) >= scores.shape[1]:
        raise ConfigError(
            f"prior must have fewer entries than scores are sorted, {scores.shape[1]} of {logits.shape[1]} classes (got {len(prior)})",
            parameter="prior",
        )
    if abs(sum(prior) - 1.0) > 1e-6 or min(prior) < 0:
        raise ConfigError(f"prior must be probabilities that sum to 1 (got {tuple(prior)})", parameter="prior")
    among_first = rank_probabilities(scores, steepness, columns=1)[:, : len(prior), 0].cumsum(dim=1)  # sum_{j <= k} Q_{j, y}, [N, K]
    found = prior[0] * torch.softmax(scores, dim=1)[:, 0] + (among_first * among_first.new_tensor(list(prior)))[:, 1:].sum(dim=1)
    return -(found * (1.0 - 2.0 * SMOOTHING) + SMOOTHING).log().mean()
