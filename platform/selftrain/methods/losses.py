"""The losses of the papers, as pure functions named as there.

Shapes: N texts of a batch, L classes. A score is `sim(f(x), f(p))`, already scaled: equation 3 is then a plain softmax. The papers sum over the batch; here
every loss is the mean, so that a learning rate does not depend on the batch size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def similarity(texts: torch.Tensor, others: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """sim of GenCo's equation 1, `[N, M]`: the dot product times `scale` (a cosine where the embeddings have length one)."""
    return scale * texts @ others.T


def soft_targets(scores: torch.Tensor, tau: float) -> torch.Tensor:
    """Q of GenCo's equation 4, `[N, L]`, without gradient: softmax(scores / tau); tau -> 0 gives one-hot pseudo-labels, tau = 1 gives P itself."""
    if not 0 < tau <= 1:
        raise ValueError(f"tau must lie in (0, 1], not {tau}")
    return F.softmax(scores.detach() / tau, dim=-1)


def text_to_label(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """L_t2l of GenCo's equation 5, and L_g2l of equation 11 when the texts are conditional ones: the cross-entropy of Q and P.

    Args:
        scores: `[N, L]`, with gradient.
        targets: Q, `[N, L]`, rows that sum to one.
    """
    return -(targets * F.log_softmax(scores, dim=-1)).sum(dim=-1).mean()


def text_to_generated(
    texts: torch.Tensor,
    generated: torch.Tensor,
    text_labels: torch.Tensor,
    generated_labels: torch.Tensor,
    scale: float,
    *,
    denominator: str = "texts",
) -> torch.Tensor:
    """L_t2g of GenCo's equation 10: texts are drawn to the generated texts of their own pseudo-label.

    Args:
        texts: embeddings of the batch's texts I, `[N, D]`.
        generated: embeddings of its generated texts, `[M, D]`.
        text_labels: pseudo-labels of the texts, `[N]`.
        generated_labels: pseudo-labels of the documents that the generated texts continue, `[M]`; A(i) are those equal to text i's.
        scale: factor of the similarity.
        denominator: `texts` sums over the batch's texts, as printed in the paper; `generated` over its generated texts, as in the released code.

    Returns:
        The mean over the texts with a non-empty A(i); zero (with a gradient of zero) when there are none.
    """
    positives = text_labels.unsqueeze(1) == generated_labels.unsqueeze(0)
    counts = positives.sum(dim=1)
    if not bool(counts.any()):
        return (texts.sum() + generated.sum()) * 0.0
    pairs = similarity(texts, generated, scale)
    against = {"texts": texts, "generated": generated}[denominator]
    log_probability = pairs - torch.logsumexp(similarity(texts, against, scale), dim=1, keepdim=True)
    per_text = -(log_probability * positives).sum(dim=1) / counts.clamp(min=1)
    return per_text[counts > 0].mean()
