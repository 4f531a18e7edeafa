"""NS3L: negative sampling in semi-supervised learning (Chen et al. 2020), alone.

Algorithm 1: a class whose predicted probability is below T is taken as a negative label, and the loss is -log(1 - what the negative labels get), without a
pseudo-label for any class. Its loss is an option of the whole family (`ns3l_weight`): `{name: vat, ns3l_weight: 0.3}` is the paper's VAT + NS3L. The mask and
the probabilities come from the same pass; the authors' code makes a second one, which in their host program sees another augmentation.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from selftrain.methods.base import Options
from selftrain.methods.few_labels.semisupervised import SemiSupervised, SemiSupervisedOptions


class NS3LOptions(SemiSupervisedOptions):
    """Options of NS3L alone."""

    name: Literal["ns3l"] = "ns3l"
    ns3l_weight: float = Field(1.0, ge=0, description="lambda_1 of NS3L's loss (algorithm 1; section 4.2: 1 alone, 0.3 with VAT)")


class NS3L(SemiSupervised):
    """See the module's docstring."""

    paper = "Chen et al. 2020, Negative Sampling in Semi-Supervised Learning"
    summary = (
        "improbable classes become negative labels of the unlabeled documents; also an option (ns3l_weight) of the other methods with few labels"
    )
    Options: ClassVar[type[Options]] = NS3LOptions

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if len(self.corpus.labels) == 2:
            import warnings

            warnings.warn("With two classes NS3L is pseudo-labeling with threshold 1 - T.", stacklevel=2)
