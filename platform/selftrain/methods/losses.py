"""The equations of the papers, as pure functions named as there. Numbers in brackets are arXiv's.

    paper                              equation                     function
    GenCo (2304.11872)                 equation 1                   similarity
    GenCo                              equation 4                   zero_shot/genco.py: soft_targets
    GenCo                              equation 5                   text_to_label
    GenCo                              equation 10                  text_to_generated
    GenCo                              equation 11                  text_to_label
    GenCo                              section 3.4                  zero_shot/selection.py: most_confident_per_class
    GenCo                              section 3.4                  zero_shot/selection.py: growing_size
    LOTClass (2010.07245)              Q of self-training           zero_shot/lotclass.py: sharpened_targets
    NS3L (1911.05166)                  algorithm 1                  few_labels/ns3l.py: negative_sampling
    NS3L                               table 6                      few_labels/ns3l.py: choose_negatives
    SupCon (2004.11362)                equation 2                   supervised_contrastive
    SSC (2409.07292)                   unified loss                 few_labels/ssc.py: unified_contrastive
    FixMatch (2001.07685)              unlabeled loss               confident_cross_entropy
    MarginMatch (2308.09037)           pseudo-margin                few_labels/multimatch.py: pseudo_margins
    EntMin (Grandvalet & Bengio 2004)  conditional entropy          few_labels/vat.py: entropy
    Hinton et al. (1503.02531)         T^2 KL(teacher || student)   distillation
    USKD (2303.13005)                  customized soft labels       soft_labels/uskd.py: customized_soft_labels
    SEAL (ICML 2024)                   equation 3                   soft_labels/seal.py: LearnedObjective
    SEAL                               equation 13                  soft_labels/seal.py: bidirectional_divergence
    SEAL                               equation 14                  soft_labels/top_k.py: strongest
    SEAL                               equation 14                  soft_labels/top_k.py: rank_probabilities
    SEAL                               equation 14                  soft_labels/top_k.py: top_k_cross_entropy
    SEAL                               equation 15                  consistency
    SEAL                               equation 16                  agreed_labels
    CC (2007.08929)                    equation 8                   candidate_likelihood
    PLCR (ICML 2022)                   supervised loss              candidate_labels/plcr.py: negative_candidates
    PiCO (2201.08984)                  contrastive loss             candidate_labels/pico.py: pool_contrastive
    VALEN (2110.12911)                 reconstruction               candidate_labels/valen.py: reconstruction
    VALEN                              divergence from the prior    candidate_labels/valen.py: dirichlet_divergence
    IDGP (2204.03845)                  posterior of the label       candidate_labels/idgp.py: label_posterior
    IDGP                               likelihood of the set        candidate_labels/idgp.py: generation_likelihood
    SunGen (2205.12679)                section 3.1                  reverse_cross_entropy
    SunGen                             table 7                      noisy_labels/sungen.py: mean_absolute_error
    SunGen                             algorithm 1                  noisy_labels/sungen.py: learn_weights
    SunGen                             equation 11                  bilevel.py: meta_gradient
    SunGen                             section 3.1                  noisy_labels/sungen.py: inclusion_probabilities

A function without a file is below; one that a single method uses is in that method's file. Shapes: N texts of a batch, L classes. A score is
`sim(f(x), f(p))`, already scaled: equation 3 of GenCo is then a plain softmax. The papers sum over the batch; here every loss is the mean, so that a learning
rate does not depend on the batch size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def similarity(texts: torch.Tensor, others: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """sim of GenCo's equation 1, `[N, M]`: the dot product times `scale` (a cosine where the embeddings have length one).

    Args:
        texts: embeddings, `[N, D]`.
        others: embeddings of prompts or of other texts, `[M, D]`.
        scale: factor of the similarity.
    """
    return scale * texts @ others.T


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


def supervised_contrastive(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float, weights: torch.Tensor | None = None) -> torch.Tensor:
    """SupCon over one set of embeddings (Khosla et al. 2020, arXiv:2004.11362, equation 2).

    SSC applies it to prototypes, labeled and unlabeled examples together.

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


def confident_cross_entropy(logits: torch.Tensor, guide: torch.Tensor, threshold: float) -> torch.Tensor:
    """The unlabeled loss of FixMatch: cross-entropy of `logits` with the classes that `guide` predicts with at least `threshold`, the mean over the whole batch.

    Args:
        logits: `[N, L]`, with gradient.
        guide: `[N, L]` logits whose gradient is not used (of the weak view in FixMatch, of the same pass in pseudo-labeling).
        threshold: smallest probability of the pseudo-label.
    """
    confidence, labels = torch.softmax(guide.detach(), dim=1).max(dim=1)
    return (F.cross_entropy(logits, labels, reduction="none") * (confidence >= threshold)).mean()


def distillation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 KL(teacher || student) at temperature T, the mean over the batch (Hinton et al. 2015, arXiv:1503.02531); no gradient reaches the teacher.

    T^2 keeps the size of the gradient where T changes.

    Args:
        logits: of the student, `[N, L]`, with gradient.
        teacher: its logits, `[N, L]`; log-probabilities serve as well.
        temperature: T.
    """
    target = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(F.log_softmax(logits / temperature, dim=1), target, reduction="batchmean", log_target=True)


def candidate_likelihood(logits: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """CC's loss (Feng et al. 2020, equation 8 with uniform sets): -log of the probability that the label is one of the candidates, the mean over the batch.

    Args:
        logits: `[N, L]`, with gradient.
        candidates: `[N, L]`, one for every class of a document's set and zero for the others; at least one a row.
    """
    log_probabilities = F.log_softmax(logits, dim=1).masked_fill(candidates == 0, float("-inf"))
    return -torch.logsumexp(log_probabilities, dim=1).mean()


def agreed_labels(logits: torch.Tensor, candidates: torch.Tensor | None = None) -> torch.Tensor:
    """u of SEAL's equation 16: the geometric mean of the views' predictions, normalised; with `candidates` over these alone, as in PLCR.

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
    """SEAL's equation 15, and PLCR's regulariser: the sum over K views of KL(u || f(x^k)), the mean over the batch.

    Args:
        logits: `[K, N, L]`.
        agreed: u, `[N, L]`, rows that sum to one.
    """
    log_agreed = agreed.clamp(min=torch.finfo(agreed.dtype).tiny).log()
    return (agreed * (log_agreed - F.log_softmax(logits, dim=2))).sum(dim=2).mean(dim=1).sum()


def reverse_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, log_zero: float = -10.0) -> torch.Tensor:
    """RCE of Wang et al. 2019 (arXiv:1908.06112), SunGen's outer loss (section 3.1): -sum_k p_k log q(k), q one-hot and log 0 taken as the constant A.

    It is -A (1 - p_y), and bounded, so that a wrong label cannot pull without end.

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
