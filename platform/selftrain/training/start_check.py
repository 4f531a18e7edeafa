"""Whether training left something worse than it began with, told without a label: the classifier that it started from is then handed over.

Self-training on equally many documents of every class takes documents of the large classes for the small ones where classes are skewed, and texts or class names
that mislead do so everywhere. Such documents lie among those of their true class. So of two labelings, that of the start and that of the end, the better one more
often gives a document the class of its nearest neighbours, in the embeddings that the start has of them. The share alone would praise a classifier that knows one
class, so agreement above chance must not fall either. How often this is right: docs/howto/harm.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from selftrain.evaluation.neighbours import Agreement, nearest, neighbour_agreement
from selftrain.methods.base import Method
from selftrain.training.loop import Fitted

FEWEST = 100  # documents: of fewer, the share says little
MOST = 1000  # documents that are looked at, evenly spread over the corpus


def worse_than(before: Agreement, after: Agreement) -> bool:
    """Whether training is taken to have made the labels worse; as good is good enough."""
    return after.share < before.share or after.above_chance < before.above_chance


def better_of_both(fitted: Fitted, start: Callable[[], Method]) -> Fitted:
    """`fitted`, or the method as it was before its first round where labels of neighbours agree less after training, as a share or above chance.

    The last round's figures get `neighbours_agree` and `neighbours_agree_above_chance`, the same of the start, and `start_kept` (1 or 0). A training that has
    them has decided before.

    Args:
        fitted: a training that is over.
        start: makes the same method anew, as it was before the first round.
    """
    documents = fitted.method.corpus.unlabeled
    if len(documents) < FEWEST or not fitted.rounds or "start_kept" in fitted.rounds[-1]:
        return fitted
    untrained = start()
    untrained.encoder.eval()
    contents = [documents.contents[index] for index in range(0, len(documents), -(-len(documents) // MOST))]
    embeddings = untrained.encoder.encode(contents)
    neighbours = nearest(embeddings.cpu().numpy())
    before, after = (
        neighbour_agreement(neighbours, probabilities.argmax(dim=1).cpu().numpy())
        for probabilities in (untrained.student().probabilities(embeddings), fitted.student.predict(contents))
    )
    worse = worse_than(before, after)
    seen = {"neighbours_agree": after.share, "neighbours_agree_above_chance": after.above_chance}
    seen |= {"neighbours_agree_start": before.share, "neighbours_agree_above_chance_start": before.above_chance, "start_kept": float(worse)}
    last = fitted.rounds[-1] | seen
    return replace(fitted, method=untrained if worse else fitted.method, rounds=[*fitted.rounds[:-1], last])
