"""`selftrain watch`: are the texts that an endpoint answers still like those that its bundle was made for?

A look takes the files that `selftrain serve --seen` has written since the last one, text by text, and adds to the evidence (evaluation/drift/). What stands below
the folder of the bundle:

    DAY/FILE.parquet        what was seen (runs/seen.py)
    state.json              how far the looks are, and the alarm (watch_state.py)
    reference.safetensors   in the place of the bundle's reference, where a change was accepted
    watch.html              the page
    retrain.yaml, documents.csv   after an alarm: what the proposed commands read
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selftrain.bundle.checking import REFERENCE, fingerprint_of
from selftrain.bundle.format import BundleCard, checked_card
from selftrain.bundle.reference import FEWEST, TEXTS, Reference, read_reference
from selftrain.errors import DataError
from selftrain.evaluation.drift import look as looks
from selftrain.evaluation.drift.bets import Detector, even_weights
from selftrain.evaluation.drift.exposition import exposition
from selftrain.evaluation.drift.look import Alarm, Look, describe, evidence_of
from selftrain.evaluation.drift.scores import Sample, Scores
from selftrain.files.durable import check_file, explained, whole_file, write_whole
from selftrain.runs.seen import Origin, Rows, joined, parts_of, read_part
from selftrain.runs.watch_retraining import propose
from selftrain.runs.watch_state import STATE, State, alone, damaged, read_state

PAGE = "watch.html"
RECENT = 500  # texts that are described where there is no alarm
_EVERY = 10  # texts between two points of the history


@dataclass(frozen=True)
class Watched:
    """What a look has found."""

    look: Look
    new: int  # texts that it took
    page: Path
    commands: tuple[str, ...]  # of the proposed training; none without an alarm

    @property
    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.new:,} new texts. {self.look.sentence}"]
        if not self.look.embedded:
            lines.append("Probabilities alone were compared: the backend gives no embeddings, or the reference has none.")
        return "\n".join([*lines, *(f"proposed: {command}" for command in self.commands)])


@dataclass(frozen=True)
class _Watch:
    """A bundle, what it has seen, and its reference."""

    card: BundleCard
    bundle: Path
    home: Path
    reference: Reference
    state: State

    def sample(self, rows: Rows | Reference) -> Sample:
        """Rows as they are compared."""
        return Sample(rows.probabilities, rows.embeddings if self.state.embedded else None)

    def recent(self, most: int) -> Rows:
        """The last texts of the stream."""
        found: list[Rows] = []
        for part in reversed(self.state.read):
            if sum(map(len, found)) >= most:
                break
            if (self.home / part).is_file():  # old days are removed
                found.append(read_part(self.home, part)[1])
        return joined(found[::-1]).last(most)


def watch(bundle: Path, seen: Path, *, out: Path | None = None, prometheus: Path | None = None) -> Watched:
    """Take one look.

    Args:
        bundle: its folder.
        seen: folder of `selftrain serve --seen`.
        out: page; default: watch.html beside what the bundle has seen.
        prometheus: file for figures in Prometheus' text format; None for none.

    Raises:
        BundleError: there is no bundle, or it or its reference is damaged.
        DataError: nothing was seen, a file is damaged, or reference and texts cannot be compared.
        ResourceError: another look is under way.
        OutputError: a file cannot be written.
    """
    card, home = _opened(bundle, seen)
    page = out if out is not None else home / PAGE
    for file, parameter in ((page, "out"), (prometheus, "prometheus")):
        if file is not None:
            check_file(file, parameter)
    with alone(home):
        found = _begun(card, bundle, home)
        detector, scores, new = _take(found)
        state = found.state
        state.detector = detector.to_json()
        state.write(home)
        alarm = state.alarm
        count = min(detector.texts, RECENT if alarm is None else min(max(detector.texts - alarm.since, looks.FEWEST), TEXTS))
        rows = found.recent(count) if count else None
        described = None
        if rows is not None and len(rows) >= looks.FEWEST:
            described = describe(found.sample(found.reference), found.sample(rows), scores, card.labels)
        look = Look(detector.texts, scores.embedded, evidence_of(detector, scores), alarm, described)
        commands = propose(card, bundle, home, rows) if alarm is not None and rows is not None else ()
        with whole_file(page, "out") as partial:
            partial.write_text(_page(found, look, rows, scores, commands), encoding="utf-8")
        if prometheus is not None:
            with whole_file(prometheus, "prometheus") as partial:
                partial.write_bytes(exposition(look, card.name, time.time()))
    return Watched(look, new, page, commands)


def accept(bundle: Path, seen: Path) -> int:
    """Take the latest texts for normal: they become the reference, and the looks begin anew with the texts that follow.

    With an alarm these are the texts since the change. Returns how many.

    Args:
        bundle: its folder.
        seen: folder of `selftrain serve --seen`.

    Raises:
        BundleError, DataError, ResourceError, OutputError: as `watch`; or there are too few texts.
    """
    _, home = _opened(bundle, seen)
    with alone(home):
        state, parts = read_state(home), parts_of(home)
        most = TEXTS
        if state is not None and state.alarm is not None and state.detector is not None:
            unread = [read_part(home, part)[1] for part in parts if part not in set(state.read)]
            most = min(TEXTS, int(state.detector["texts"]) - state.alarm.since + sum(map(len, unread)))
        found: list[Rows] = []
        backends: set[str] = set()
        for part in reversed(parts):
            if sum(map(len, found)) >= most:
                break
            origin, rows = read_part(home, part)
            backends.add(origin.backend)
            found.append(rows)
        rows = joined(found[::-1]).last(most)
        if len(rows) < FEWEST:
            since = " since the change" if most < TEXTS else ""
            raise DataError(f"seen holds {len(rows)} texts{since}, and {FEWEST} are needed for a reference; wait for more.", parameter="seen")
        if len(backends) > 1:
            raise _mixed(backends)
        order = np.random.default_rng(0).permutation(len(rows))
        reference = Reference(rows.probabilities[order], None if rows.embeddings is None else rows.embeddings[order])
        content = reference.content()
        with explained(home):
            (home / STATE).unlink(missing_ok=True)  # it is of the old reference
            write_whole(home / REFERENCE, content)
        State(reference=hashlib.sha256(content).hexdigest(), backend=backends.pop(), read=parts).write(home)
    return len(rows)


def _opened(bundle: Path, seen: Path) -> tuple[BundleCard, Path]:
    """(card of the bundle, folder of what it has seen)."""
    card = checked_card(bundle)
    card.check_one_label("watches")
    if not seen.is_dir():
        raise DataError(f"seen must be the folder of selftrain serve --seen (got {str(seen)!r}, which is none).", parameter="seen")
    home = seen / fingerprint_of(bundle)
    if not home.is_dir() or not parts_of(home):
        others = sum(other.is_dir() for other in seen.iterdir())
        raise DataError(
            f"seen {str(seen)!r} holds no texts of the bundle {card.name} ({home.name}), but folders of {others} others; a file is written every five "
            "minutes, and each version of a model has its own.",
            parameter="seen",
        )
    return card, home


def _begun(card: BundleCard, bundle: Path, home: Path) -> _Watch:
    """The reference, and the state that fits it."""
    state, accepted = read_state(home), (home / REFERENCE).is_file()
    if accepted:
        reference = read_reference(home / REFERENCE, None, card.labels)
    elif card.reference is None or not (bundle / REFERENCE).is_file():
        raise DataError(
            f"The bundle {card.name} has no reference to compare with; once {FEWEST} texts were seen, watch with accept, which makes the latest the reference."
        )
    else:
        reference = read_reference(bundle / REFERENCE, card.reference, card.labels)
    sha256 = hashlib.sha256(reference.content()).hexdigest()
    if state is None or state.reference != sha256:
        if accepted:
            raise (
                damaged(home / STATE, ValueError("it is not that of the accepted reference"))
                if state is not None
                else DataError(f"{home / STATE} is missing beside an accepted reference; accept the latest texts again.")
            )
        assert card.reference is not None
        state = State(reference=sha256, backend=card.reference.backend)
    return _Watch(card, bundle, home, reference, state)


def _take(found: _Watch) -> tuple[Detector, Scores, int]:
    """Take the texts that no look has taken; returns the evidence, the scores and the number of these texts."""
    state, known = found.state, set(found.state.read)
    parts = parts_of(found.home)
    fresh = [(part, *read_part(found.home, part)) for part in parts if part not in known]
    for _, origin, rows in fresh:
        _check(found, origin, rows)
    if state.embedded is None:
        state.embedded = found.reference.embeddings is not None and all(rows.embeddings is not None for _, _, rows in fresh)
    sample = found.sample(found.reference)
    half = len(sample) // 2
    scores = Scores(sample[:half], found.card.labels)
    detector = Detector(scores.bins(sample[half:]), even_weights(scores.kinds))
    if state.detector is not None:
        try:
            detector.restore(state.detector)
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(found.home / STATE, error) from None
    for _, _, rows in fresh:
        _step(found, detector, scores, rows)
    there = set(parts)
    state.read = [part for part in state.read if part in there] + [part for part, _, _ in fresh]
    return detector, scores, sum(len(rows) for _, _, rows in fresh)


def _step(found: _Watch, detector: Detector, scores: Scores, rows: Rows) -> None:
    """Take the texts of one file."""
    state = found.state
    bins = scores.bins(found.sample(rows))
    draws = np.random.default_rng([int(state.reference[:15], 16), detector.texts]).random(bins.shape)
    for place, (text, draw) in enumerate(zip(bins, draws, strict=True)):
        level = detector.step(text, draw)
        best = int(level.argmax())
        alarmed = level[best] >= 1 and state.raised is None
        if alarmed or detector.texts % _EVERY == 0 or place + 1 == len(bins):
            levels: dict[str, float] = {}
            for score, value in zip(scores.scores, level.tolist(), strict=True):
                levels[score.kind] = max(value, levels.get(score.kind, 0.0))
            state.note(detector.texts, float(rows.times[place]), levels)
        if alarmed:
            since = detector.since(best)
            one = scores.scores[best]
            state.raise_alarm(Alarm(one.kind, one.what, detector.texts, since, float(rows.times[place]), state.moment_after(since)))


def _check(found: _Watch, origin: Origin, rows: Rows) -> None:
    """Raise a `DataError` unless the texts of a file can be compared with the reference."""
    if origin.labels != tuple(found.card.labels):
        raise DataError(f"{found.home} holds texts of other classes than the bundle's; set the bundle that they were answered by.")
    if origin.backend.endswith("int8") != found.state.backend.endswith("int8"):
        raise DataError(
            f"The reference was made with {found.state.backend}, and the texts were seen by {origin.backend}, whose probabilities differ; watch with accept, "
            "which makes the latest texts the reference."
        )
    if found.state.embedded and rows.embeddings is None:
        raise _mixed({found.state.backend, origin.backend})
    reference = found.reference.embeddings
    if reference is not None and rows.embeddings is not None and rows.embeddings.shape[1] != reference.shape[1]:
        raise DataError(
            f"The embeddings in {found.home} have {rows.embeddings.shape[1]} dimensions, and the reference has {reference.shape[1]}; remove one."
        )


def _mixed(backends: set[str]) -> DataError:
    return DataError(
        f"The texts were seen by several backends ({', '.join(sorted(backends))}), which give different figures; serve all replicas with the same."
    )


def _page(found: _Watch, look: Look, rows: Rows | None, scores: Scores, commands: tuple[str, ...]) -> str:
    from selftrain.evaluation.drift.page import Seen, render  # matplotlib, and what draws with it

    seen = None
    if rows is not None and look.described is not None:
        seen = Seen(found.sample(rows), rows.ids, rows.texts, (float(rows.times[0]), float(rows.times[-1])))
    return render(
        look,
        name=found.card.name,
        reference=found.sample(found.reference),
        accepted=(found.home / REFERENCE).is_file(),
        seen=seen,
        scores=scores,
        history=[(texts, levels) for texts, _, levels in found.state.history],
        commands=commands,
        moment=time.time(),
    )
