"""Whether the texts of a language model can be trusted, told without a label: a run asks it once, before its first step.

A text that was written for a class should read like that class. The encoder as it is, which saw none of the texts, files each of the first round's conditional
texts under a class; where that is too seldom the one that it was written for, the texts say little about their labels, and training on them teaches the wrong
thing. Several classes make a hit by chance rarer, so agreement is counted above chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextCheck:
    """What was seen of the first round's conditional texts, and what it is held against."""

    texts: int  # that were looked at
    filed: float  # share of them that the encoder as it is files under the label that they were written for
    needed: float  # share from which on texts are used

    @property
    def used(self) -> bool:
        """Whether texts are used. Without a text there is nothing to use."""
        return self.texts > 0 and self.filed >= self.needed

    def figures(self) -> dict[str, float]:
        """What the first round reports of it; `evaluation.decisions` makes a sentence of it."""
        return {"texts_checked": float(self.texts), "texts_filed": self.filed, "texts_filed_needed": self.needed, "texts_used": float(self.used)}


def check_texts(hits: Sequence[bool], classes: int, agreement: float) -> TextCheck:
    """Decide on texts by how many of them are filed under their label.

    Args:
        hits: of each text, whether it is filed under the label that it was written for.
        classes: L.
        agreement: the least agreement above chance, of a share s it is (s - 1/L) / (1 - 1/L): 0 is chance, 1 is every text.
    """
    chance = 1 / classes
    return TextCheck(len(hits), sum(hits) / len(hits) if hits else 0.0, chance + agreement * (1 - chance))
