"""What trainings decided by themselves, and why, in words: from the figures of their rounds, which say it in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selftrain.evaluation.schema import Decision, VariantRound


def on_texts(figures: Mapping[str, float]) -> tuple[bool, str] | None:
    """Whether texts were used, and why, from the figures of a first round; None where nothing was decided."""
    if "texts_used" not in figures:
        return None
    used, count = bool(figures["texts_used"]), int(figures["texts_checked"])
    seen = "none of the first round's conditional texts passed the filter"
    if count:
        seen = (
            f"the encoder as it was files {figures['texts_filed']:.3f} of the first round's {count:,} conditional texts under the class that they were "
            f"written for, and {figures['texts_filed_needed']:.3f} are needed"
        )
    if used:
        return used, f"The language model's texts were used: {seen}."
    return used, f"The language model's texts were not used: {seen}. Training was by equation 5."


def on_start(figures: Mapping[str, float]) -> tuple[bool, str] | None:
    """Whether the trained classifier was kept, and why, from the figures of a last round; None where nothing was decided."""
    if "start_kept" not in figures:
        return None
    kept = not figures["start_kept"]
    shares = (
        f"of the pairs of a document and one of its ten nearest, {figures['neighbours_agree']:.3f} got the same class from it "
        f"({figures['neighbours_agree_above_chance']:.3f} above chance), and {figures['neighbours_agree_start']:.3f} "
        f"({figures['neighbours_agree_above_chance_start']:.3f}) from the classifier before training"
    )
    if kept:
        return kept, f"The trained classifier was kept: {shares}."
    return kept, f"The trained classifier was not kept, and what is handed over is the one before training: {shares}. Skewed classes may be why."


def decisions(rounds: Sequence[VariantRound]) -> list[Decision]:
    """The decisions of a run's trainings, in the order of the rounds that they were made in."""
    found: list[Decision] = []
    for entry in rounds:
        for question, answered in (("texts", on_texts(entry["figures"])), ("training", on_start(entry["figures"]))):
            if answered is not None:
                found.append(Decision(variant=entry["variant"], seed=entry["seed"], question=question, used=answered[0], why=answered[1]))  # type: ignore[typeddict-item]
    return found
