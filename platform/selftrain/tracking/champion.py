"""The champion rule: whether a new version of a registered model takes the alias `champion`. Pure: no MLflow, no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_ROUNDING = 1e-12  # of a difference that is a sum over strata


@dataclass(frozen=True)
class Lead:
    """How much more accurate the candidate is than the champion, as an audit's answers say."""

    difference: float  # of the two accuracies, from -1 to 1
    low: float  # of its 95 % interval
    high: float
    answers: int


@dataclass(frozen=True)
class Champion:
    """The version that holds the alias now, evaluated on the labeled documents of the candidate."""

    version: str
    accuracy: float | None  # on the candidate's documents; None where it could not be evaluated on them, or `lead` says it
    problem: str = ""  # why it could not
    lead: Lead | None = None  # where the documents are those of an audit


class Decision(NamedTuple):
    """Whether the candidate becomes champion, and why."""

    champion: bool
    reason: str  # a sentence without its full stop


def decide(accuracy: float | None, present: Champion | None, *, labeled: bool, promote: bool, why: str = "") -> Decision:
    """The rule. With labels, the more accurate version on the same documents is champion; a tie leaves the present one. So it is with an audit's answers, by
    the estimate, whatever its interval.

    Where nothing compares the two (no labels, or the champion cannot be evaluated on these documents), only `promote` makes a champion.

    Args:
        accuracy: of the candidate, from 0 to 1; one that is None, or not from labels, does not count.
        present: the champion now; None where there is none.
        labeled: whether `accuracy` was measured with labels.
        promote: make the candidate champion where nothing compares it.
        why: what it is promoted for, in words, where it has no labels.
    """
    if accuracy is None or not labeled:
        if promote:
            return Decision(True, why or "promoted as asked, no labels compared it")
        return Decision(False, "no labels to compare it by; set promote to make it champion")
    if present is None:
        return Decision(True, f"the first champion, accuracy {accuracy:.4f}")
    if (lead := present.lead) is not None:
        interval = f"95 % interval {lead.low:+.4f} to {lead.high:+.4f}"
        reason = f"accuracy {lead.difference:+.4f} against champion version {present.version}, from {lead.answers} answers of an audit ({interval})"
        return Decision(lead.difference > _ROUNDING, reason)
    if present.accuracy is not None:
        reason = f"accuracy {accuracy:.4f} against {present.accuracy:.4f} of champion version {present.version} on the same documents"
        return Decision(accuracy > present.accuracy, reason)
    if promote:
        return Decision(True, f"promoted as asked, champion version {present.version} could not be compared: {present.problem}")
    return Decision(False, f"champion version {present.version} could not be compared ({present.problem}); set promote to make this one champion")
