"""The losses of the papers, as pure functions named as there.

Shapes: N texts of a batch, L classes. A score is `sim(f(x), f(p))`, already scaled: equation 3 is then a plain softmax. The papers sum over the batch; here
every loss is the mean, so that a learning rate does not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def sharpened_targets(probabilities: torch.Tensor) -> torch.Tensor:
    """Q of LOTClass's self-training (Meng et al. 2020; Xie et al. 2016), `[N, L]`, without gradient: (p_ij^2 / f_j) normalised over j, f_j = sum_i p_ij.

    Squaring sharpens, and dividing by how often a class is predicted keeps large classes from growing larger. A class that no document gets anything of
    stays at zero.

    Args:
        probabilities: P, `[N, L]`, rows that sum to one.
    """
    p = probabilities.detach()
    weights = p**2 / p.sum(dim=0).clamp(min=torch.finfo(p.dtype).tiny)
    return weights / weights.sum(dim=1, keepdim=True)


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


def negative_sampling(logits: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """L_NS3L of NS3L's algorithm 1: the mean over the batch of -log(1 - the probability of the negative labels).

    Computed as a difference of log-sums, which is exact where the probability that is left goes to zero (the authors clamp it at 1e-8 instead). A document
    whose every class is negative gives no loss and no gradient; it is counted in the mean, as are those without negative labels.

    Args:
        logits: `[N, L]`, with gradient.
        negatives: mask `[N, L]`, True for the classes that a document is taken not to belong to.
    """
    left = logits.masked_fill(negatives, -torch.inf)
    decided = ~negatives.all(dim=1)
    safe = torch.where(decided.unsqueeze(1), left, logits)
    return ((torch.logsumexp(logits, dim=1) - torch.logsumexp(safe, dim=1)) * decided).mean()


def supervised_contrastive(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float, weights: torch.Tensor | None = None) -> torch.Tensor:
    """SupCon over one set of embeddings (Khosla et al. 2020, equation 2), which SSC applies to prototypes, labeled and unlabeled examples together.

    Args:
        embeddings: of length one, `[N, D]`; similarities are their dot products over `temperature`.
        labels: `[N]`; the positives of an anchor are the others with its label.
        temperature: T.
        weights: of the anchors, `[N]`; the result is their weighted mean, so only their ratios matter.

    Returns:
        The mean over the anchors that have a positive; zero (with a gradient of zero) when none has.
    """
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    scores = (similarity(embeddings, embeddings) / temperature).masked_fill(itself, -torch.inf)
    positives = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
    counts = positives.sum(dim=1)
    if not bool(counts.any()):
        return embeddings.sum() * 0.0
    log_probability = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    per_anchor = -torch.where(positives, log_probability, 0.0).sum(dim=1) / counts.clamp(min=1)
    shares = (counts > 0).to(per_anchor.dtype) * (1.0 if weights is None else weights)
    return (per_anchor * shares).sum() / shares.sum().clamp(min=torch.finfo(per_anchor.dtype).tiny)


def pool_contrastive(queries: torch.Tensor, pool: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
    """PiCO's contrastive loss (Wang et al. 2022): minus the mean log-share of a query's positives in the pool without itself, the mean over the queries.

    Args:
        queries: of length one, `[N, D]`, with gradient.
        pool: of length one, `[M, D]`; its first N rows are the queries themselves.
        positives: mask `[N, M]`; a query's own place in it does not count.
        temperature: tau.

    Returns:
        A number; a query without a positive adds nothing to the mean over the others.
    """
    itself = torch.eye(len(queries), len(pool), dtype=torch.bool, device=queries.device)
    scores = (similarity(queries, pool) / temperature).masked_fill(itself, float("-inf"))
    log_shares = scores - torch.logsumexp(scores, dim=1, keepdim=True)
    positives = positives & ~itself
    counts = positives.sum(dim=1)
    found = -torch.where(positives, log_shares, 0.0).sum(dim=1) / counts.clamp(min=1)
    return found.sum() / (counts > 0).sum().clamp(min=1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The mean conditional entropy of the predictions (Grandvalet & Bengio 2004)."""
    log_probability = F.log_softmax(logits, dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1).mean()


def confident_cross_entropy(logits: torch.Tensor, guide: torch.Tensor, threshold: float) -> torch.Tensor:
    """Cross-entropy of `logits` with the classes that `guide` predicts with at least `threshold`; the mean over the whole batch, as FixMatch counts.

    Args:
        logits: `[N, L]`, with gradient.
        guide: `[N, L]` logits whose gradient is not used (of the weak view in FixMatch, of the same pass in pseudo-labeling).
        threshold: smallest probability of the pseudo-label.
    """
    confidence, labels = torch.softmax(guide.detach(), dim=1).max(dim=1)
    return (F.cross_entropy(logits, labels, reduction="none") * (confidence >= threshold)).mean()


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 KL(teacher || student) at temperature T, the mean over the batch (Hinton et al. 2015); no gradient reaches the teacher.

    T^2 keeps the size of the gradient where T changes.

    Args:
        logits: of the student, `[N, L]`, with gradient.
        teacher: its logits, `[N, L]`; log-probabilities serve as well.
        temperature: T.
    """
    target = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean", log_target=True)


def customized_soft_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The soft labels of USKD (Yang et al. 2023), from the prediction s itself, without gradient.

    Args:
        logits: `[N, L]`.
        labels: `[N]`, class indices.

    Returns:
        Of the label, `[N]`: s_y^2 + 1 - the batch's mean of s_y^2, which is 1 on average. Of the other classes, `[N, L]`: in proportion to 1 / rank, the rank
        in the whole prediction, with sum one and zero for the label (no other class: all zero).
    """
    logits = logits.detach()
    squares = torch.softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1) ** 2
    ranks = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    zipf = (1.0 / ranks.to(logits)) * (F.one_hot(labels, logits.shape[1]) == 0)
    return squares + 1.0 - squares.mean(), zipf / zipf.sum(dim=1, keepdim=True).clamp(min=torch.finfo(zipf.dtype).tiny)


def candidate_likelihood(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """CC's loss (Feng et al. 2020, equation 8 with uniform sets): -log of the probability that the label is one of the candidates, the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        candidates: `[N, L]`, one for every class of a document's set and zero for the others; at least one a row.
    """
    log_probabilities = F.log_softmax(logits, dim=1).masked_fill(candidates == 0, float("-inf"))
    return -torch.logsumexp(log_probabilities, dim=1).mean()


def negative_candidates(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """PLCR's supervised part (Wu et al. 2022): -sum of log(1 - p_j) over the classes that are no candidates, the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        candidates: `[N, L]`, as in `candidate_likelihood`.
    """
    # log(1 - p_j) is the log of the other classes' sum: no difference of nearly equal numbers.
    others = logits.unsqueeze(1).expand(-1, logits.shape[1], -1).masked_fill(torch.eye(logits.shape[1], device=logits.device).bool(), float("-inf"))
    rest = torch.logsumexp(others, dim=2) - torch.logsumexp(logits, dim=1, keepdim=True)
    return -((candidates == 0) * rest).sum(dim=1).mean()


def agreed_labels(logits: torch.Tensor, candidates: torch.Tensor | None = None) -> torch.Tensor:
    """u of SEAL's equation 16: the geometric mean of the views' predictions, normalised; with `candidates` over these alone (Wu et al. 2022).

    Args:
        logits: `[K, N, L]`, a document's K views.
        candidates: `[N, L]`, as in `candidate_likelihood`.

    Returns:
        `[N, L]`, rows that sum to one.
    """
    mean = F.log_softmax(logits, dim=2).mean(dim=0)
    if candidates is not None:
        mean = mean.masked_fill(candidates == 0, float("-inf"))
    return torch.softmax(mean, dim=1)


def consistency(logits: torch.Tensor, agreed: torch.Tensor) -> torch.Tensor:
    """Equation 15 of SEAL, and PLCR's regulariser: the sum over K views of KL(u || f(x^k)), the mean over the batch.

    Args:
        logits: `[K, N, L]`.
        agreed: u, `[N, L]`, rows that sum to one.
    """
    log_agreed = agreed.clamp(min=torch.finfo(agreed.dtype).tiny).log()
    return (agreed * (log_agreed - F.log_softmax(logits, dim=2))).sum(dim=2).mean(dim=1).sum()


def bidirectional_divergence(logits: torch.Tensor, others: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """l^pl of SEAL's equation 13, KL(s || f) + KL(f || s), the mean over the batch; gradients reach both sides.

    Args:
        logits: of f, `[N, L]`.
        others: logits of the soft pseudo-labels s, `[N, L]`.
        temperature: of both; the result is multiplied with its square (SEAL's released code; the paper has none, which is 1).
    """
    one, two = F.log_softmax(logits / temperature, dim=1), F.log_softmax(others / temperature, dim=1)
    # The two divergences add up to sum_j (p_j - q_j) (log p_j - log q_j).
    return temperature**2 * ((one.exp() - two.exp()) * (one - two)).sum(dim=1).mean()


def rank_probabilities(scores: torch.Tensor, steepness: float = 2.0) -> torch.Tensor:
    """Q of SEAL's equation 14, `[N, L, L]`: entry [i, j, k] is the probability that class k has the j-th highest score of row i.

    An odd-even transposition network with L layers sorts each row; a comparison swaps two neighbours to the degree arctan(steepness * difference) / pi + 1/2,
    the Cauchy distribution (Petersen et al. 2022, Differentiable Top-k Classification Learning). Rows and columns of Q sum to one; steepness -> infinity
    gives the hard sort.

    Args:
        scores: `[N, L]`, with gradient.
        steepness: inverse temperature of a comparison.
    """
    count = scores.shape[1]
    values = scores
    places = torch.eye(count, dtype=scores.dtype, device=scores.device).expand(len(scores), count, count)
    for layer in range(count):
        left = torch.arange(layer % 2, count - 1, 2, device=scores.device)
        right = left + 1
        ahead = steepness * (values[:, left] - values[:, right])
        # arctan(-ahead) + pi / 2 and its rest, both written so that the smaller share keeps its digits: the sum would round to 0 or 1 far out.
        swap, stay = (torch.atan2(torch.ones_like(ahead), side) / torch.pi for side in (ahead, -ahead))
        # [N, L, L], the identity but for the neighbours that this layer compares
        exchange = torch.diag_embed(torch.ones_like(scores).index_fill(1, left, 0.0).index_fill(1, right, 0.0))
        for rows, columns, share in ((left, left, stay), (right, right, stay), (left, right, swap), (right, left, swap)):
            exchange = exchange.index_put((torch.arange(len(scores), device=scores.device).unsqueeze(1), rows, columns), share)
        values = (exchange @ values.unsqueeze(2)).squeeze(2)
        places = exchange @ places
    return places


def top_k_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, prior: Sequence[float], steepness: float = 2.0) -> torch.Tensor:
    """l^t of SEAL's equation 14, -log(sum_k P(k) sum_{j <= k} Q_{j, y}), the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        labels: y, `[N]`.
        prior: P(1), P(2), ...: how much it counts that the label is among the first k. Fewer entries than classes: being among all says nothing.
        steepness: of the sorting network.

    Raises:
        ValueError: `prior` does not sum to one, or has as many entries as there are classes.
    """
    if len(prior) >= logits.shape[1]:
        raise ValueError(f"the prior has {len(prior)} entries; with {logits.shape[1]} classes at most {logits.shape[1] - 1} say something")
    if abs(sum(prior) - 1.0) > 1e-6 or min(prior) < 0:
        raise ValueError(f"the prior must be probabilities that sum to one, not {tuple(prior)}")
    own = rank_probabilities(logits, steepness).gather(2, labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)).squeeze(2)  # Q_{j, y}, [N, L]
    among_first = own.cumsum(dim=1)[:, : len(prior)]
    found = (among_first * among_first.new_tensor(list(prior))).sum(dim=1)
    return -found.clamp(min=torch.finfo(found.dtype).tiny).log().mean()


def reverse_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, log_zero: float = -10.0) -> torch.Tensor:
    """RCE of Wang et al. 2019, SunGen's outer loss (section 3.1): -sum_k p_k log q(k), where q is one-hot and log 0 is taken as the constant A.

    It is -A (1 - p_y): the same as `mean_absolute_error` but for the factor -A / 2, and bounded, so that a wrong label cannot pull without end.

    Args:
        logits: `[N, L]`, with gradient.
        labels: `[N]`, class indices.
        log_zero: A, below zero (SunGen's code: about -10; Wang et al.: -4).

    Returns:
        The mean over the batch.
    """
    others = F.one_hot(labels, logits.shape[1]) == 0
    # The sum over the other classes rather than 1 - p_y, which would lose its digits as p_y nears one.
    return -log_zero * (torch.softmax(logits, dim=1) * others).sum(dim=1).mean()


def mean_absolute_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """MAE of Ghosh et al. 2017: sum_k |p_k - q(k)| with a one-hot q, which is 2 (1 - p_y); the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        labels: `[N]`, class indices.
    """
    return (torch.softmax(logits, dim=1) - F.one_hot(labels, logits.shape[1])).abs().sum(dim=1).mean()
