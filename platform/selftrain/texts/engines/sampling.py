"""One token drawn for each row of logits, with little work on a CPU: what `vllm_plugin` gives vLLM there.

vLLM 0.32 draws a random number for every token of the vocabulary and takes the largest sum of logit and noise. With the 262,144 tokens of Gemma 3 that is a third
of a step. The inverse of the cumulative distribution takes one random number a row, and the distribution is the same: the weights are summed in blocks, the
number says which block holds the token, and only that block is looked at token by token.

For top-k and top-p vLLM sorts the vocabulary. Here the largest weights are, and the whole row only where they are not enough to say what is kept.
"""

from __future__ import annotations

import torch

LARGEST = 1024  # weights that are sorted first; a language model's next token is among the likeliest hundreds nearly always
BLOCK = 512  # weights that are summed to one: about the root of a large vocabulary, so that neither step has much to do


def draw(logits: torch.Tensor, top_k: torch.Tensor | None = None, top_p: torch.Tensor | None = None) -> torch.Tensor:
    """Tokens drawn from the softmax of `logits`.

    Args:
        logits: float32 [N, V]; overwritten, since memory for another matrix of that size costs more than the arithmetic. -inf: never drawn.
        top_k: int [N], the number of likeliest tokens that are drawn from; V: all.
        top_p: float [N], above 0: of those, the likeliest that make up this share are drawn from, at least one; 1: all.

    Returns:
        int64 [N].
    """
    weights = logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()
    shares = torch.rand(len(weights), dtype=torch.float64)
    if top_k is None and top_p is None:
        return tokens_at(weights, shares)
    rows, tokens = weights.shape
    top_k = torch.full((rows,), tokens) if top_k is None else top_k.long()
    top_p = torch.ones(rows, dtype=torch.float64) if top_p is None else top_p.double()
    limited = (top_k < tokens) | (top_p < 1)
    if limited.all():
        return tokens_among_likeliest(weights, shares, top_k, top_p)
    found = tokens_at(weights, shares)
    if limited.any():
        found[limited] = tokens_among_likeliest(weights[limited], shares[limited], top_k[limited], top_p[limited])
    return found


def tokens_among_likeliest(
    weights: torch.Tensor, shares: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, largest: int = LARGEST
) -> torch.Tensor:
    """As `tokens_at`, of the tokens that `draw` draws from, likeliest first; `largest` weights of a row are sorted before the whole row is."""
    rows, tokens = weights.shape
    largest = min(largest, tokens)
    values, places = weights.topk(largest)
    values = values.double().masked_fill_(torch.arange(largest) >= top_k.unsqueeze(1), 0)
    total = torch.where(top_k <= largest, values.sum(dim=-1), _block_sums(weights).sum(dim=-1))
    above = values.cumsum(dim=-1) - values
    kept = values.masked_fill(above >= (top_p * total).unsqueeze(1), 0)
    found = places.gather(1, _first_above(kept, shares.unsqueeze(1))[0]).squeeze(1)
    # The sum of the likeliest k is known where k is no more than what was sorted; else p of all has to end there.
    unsettled = (top_k > largest) & ((top_k < tokens) | (kept[:, -1] > 0)) if largest < tokens else torch.zeros(rows, dtype=torch.bool)
    if unsettled.any():
        found[unsettled] = tokens_among_likeliest(weights[unsettled], shares[unsettled], top_k[unsettled], top_p[unsettled], tokens)
    return found


def tokens_at(weights: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The token of each row up to which its weights, in order, add up to more than a share of their sum.

    Args:
        weights: float32 [N, V], at least 0, and one in each row above it.
        shares: float64 [N], from 0 to below 1.

    Returns:
        int64 [N]; never a token without weight.
    """
    tokens = weights.shape[1]
    block, rest = _first_above(_block_sums(weights), shares.unsqueeze(1))
    places = block * BLOCK + torch.arange(BLOCK)
    inside = weights.gather(1, places.clamp(max=tokens - 1)).double().masked_fill_(places >= tokens, 0)
    return (block * BLOCK + _first_above(inside, rest)[0]).squeeze(1).clamp_(max=tokens - 1)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """float64 [N, V / BLOCK rounded up]."""
    whole = weights.shape[1] // BLOCK
    sums = weights[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).sum(dim=-1)
    if whole * BLOCK < weights.shape[1]:
        sums = torch.cat([sums, weights[:, whole * BLOCK :].sum(dim=-1, keepdim=True)], dim=1)
    return sums.double()


def _first_above(weights: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the sum so far exceeds the shares [N, 1] of all, and which share of the weight there is left: int64 and float64 [N, 1]."""
    sums = weights.cumsum(dim=-1)
    target = shares * sums[:, -1:]  # below the sum even when rounded, as is the share that is left
    found = torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[1] - 1)  # a row of NaN has no such place
    here = weights.gather(1, found)
    return found, (target - (sums.gather(1, found) - here)) / here
