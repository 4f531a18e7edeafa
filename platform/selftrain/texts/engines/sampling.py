"""One token drawn for each row of logits, with little work on a CPU: what `vllm_plugin` gives vLLM there.

vLLM 0.32 draws a random number for every token of the vocabulary and takes the largest sum of logit and noise. With the 262,144 tokens of Gemma 3 that is a third
of a step. The inverse of the cumulative distribution takes one random number a row, and the distribution is the same: the weights are summed in blocks, the
number says which block holds the token, and only that block is looked at token by token.
"""

from __future__ import annotations

import torch

BLOCK = 512  # weights that are summed to one: about the root of a large vocabulary, so that neither step has much to do


def draw(logits: torch.Tensor) -> torch.Tensor:
    """Tokens drawn from the softmax of `logits`.

    Args:
        logits: float32 [N, V]; overwritten, since memory for another matrix of that size costs more than the arithmetic. -inf: never drawn.

    Returns:
        int64 [N].
    """
    weights = logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()
    return tokens_at(weights, torch.rand(len(weights), dtype=torch.float64))


def tokens_at(weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The token of each row up to which its weights, in order, add up to more than a share of their sum.

    Args:
        weights: float32 [N, V], at least 0, and one in each row above it.
        shares: float64 [N], from 0 to below 1.

    Returns:
        int64 [N]; never a token without weight.
    """
    tokens = weights.shape[1]
    whole = tokens // BLOCK
    sums = weights[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).sum(dim=-1)
    if whole * BLOCK < tokens:
        sums = torch.cat([sums, weights[:, whole * BLOCK :].sum(dim=-1, keepdim=True)], dim=1)
    block, rest = _first_above(sums.double(), shares.unsqueeze(1))
    places = block * BLOCK + torch.arange(BLOCK)
    inside = weights.gather(1, places.clamp(max=tokens - 1)).double().masked_fill_(places >= tokens, 0)
    return (block * BLOCK + _first_above(inside, rest)[0]).squeeze(1).clamp_(max=tokens - 1)


def _first_above(weights: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the sum so far exceeds the shares [N, 1] of all, and which share of the weight there is left: int64 and float64 [N, 1]."""
    sums = weights.cumsum(dim=-1)
    target = shares * sums[:, -1:]  # below the sum even when rounded, as is the share that is left
    found = torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[1] - 1)  # a row of NaN has no such place
    here = weights.gather(1, found)
    return found, (target - (sums.gather(1, found) - here)) / here
