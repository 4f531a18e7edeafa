"""Classify many files: `selftrain predict --file 'docs/*.parquet' --out labeled/`, by as many processes as there is room for, on one machine or a cluster.

The files are divided into parts (parts.py). Each is read, classified and written by one process (worker.py), and this process counts. So a killed pass continues
where it was, and a finished one has nothing to do:

    _pass.json                  from the start on: which bundle, which column, which files, whether it abstains, writes sets, and looks for none of these
    part-000017-<hash>.parquet  each part, when it is whole
    _manifest.json              at the end: all parts in their order, and the counts
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from selftrain.bundle.backends import choose, read_record
from selftrain.bundle.format import BundleCard, checked_card
from selftrain.bundle.predict import new_columns, result_columns
from selftrain.bundle.promise import PredictionSets, Promise, kept
from selftrain.bundle.typicality import Wanted, known_documents, threshold_of
from selftrain.config import Experiment
from selftrain.config.document import RayConfig
from selftrain.data.tables import SUFFIXES
from selftrain.errors import DataError, OutputError, say
from selftrain.files.remote import at_once as several
from selftrain.files.remote import is_address
from selftrain.passes.bundles import bundle_id, send
from selftrain.passes.inputs import Described, Source, common_columns, describe, described_from_json, find_sources, folder_of
from selftrain.passes.parts import Part, key_of, parts_of
from selftrain.passes.places import Output, open_output
from selftrain.passes.pool import Pool, check_pool
from selftrain.passes.stream import answers
from selftrain.passes.worker import STATE, Counts, Describer, Predictor, Work, read_error
from selftrain.runtime.cluster import session
from selftrain.runtime.ray_start import is_alone

MANIFEST = "_manifest.json"
_FORMAT = 1
_NEAR_BYTES = 32 << 20  # of text files that are read for their columns in this process; more are read by the cluster
_SAY_SECONDS = 30.0  # between two lines of progress where nobody looks at a terminal


@dataclass(frozen=True)
class PredictedFiles:
    """What a pass has written."""

    out: str  # the folder or the address
    rows: int
    failed: int  # rows that cannot be classified: their column `error` says why
    labels: dict[str, int]  # class -> rows
    parts: int  # files of the result
    found: bool  # whether all of it was there already
    abstained: int = 0  # rows on which the bundle is not sure enough for its promise, or that fit no class


def predict_files(
    bundle: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    text_column: str = "text",
    address: str | None = None,
    at_once: int | None = None,
    threads: int = 1,
    gpus: str | float = "auto",
    abstain: bool = False,
    sets: bool = False,
    none_of_these: Wanted | None = None,
) -> PredictedFiles:
    """Classify every row of many files, as `predict_file` does for one.

    The result has the columns of the files, `file` (the path or address of the row's file), and those that `predict_file` adds. Rows keep their order. A pass that
    was killed is continued by the same call, and what it had written is not classified again.

    Args:
        bundle: the bundle's folder. Its files are sent to the nodes of a cluster.
        source: a folder (with all folders below), a wildcard, or an address (`s3://bucket/folder`, `s3://bucket/docs/*.parquet`) of .parquet, .csv, .tsv, .jsonl
            or .json files, text files also compressed (.csv.gz). All have the same columns.
        out: a new folder, or an address; on a cluster all nodes must see it, as they must see `source`.
        text_column: the column with the texts.
        address: of a Ray cluster (`auto`, or HOST:PORT); default: a local Ray for the length of the pass.
        at_once: processes at most; default: as many as there is room for.
        threads: cores that each computes with.
        gpus: GPUs of each, one or a part of it; 0 for the CPU; auto: one where there are some.
        abstain: leave `label` empty where the bundle's promise takes it; such a row has a `probability` and no `error`.
        sets: write the classes of each row's prediction set, as `predict_file` does.
        none_of_these: leave `label` empty where a text is too little typical, as `predict_file` does.

    Raises:
        DataError: there is no file, one cannot be read, or the files differ in their columns. The files that can be read are labeled nevertheless.
        OutputError: `out` holds something else, or cannot be written.
        BundleError: there is no bundle, or it is damaged.
        ConfigError: an argument is wrong, or the bundle does not state the promise that is wanted, or not for what the processes compute with.
        ResourceError: too little memory, CPUs or GPUs.
        ServiceError: the cluster or the object store does not answer.
        MissingExtraError: the package for the object store is not installed.
        ProcessDied: processes died again and again; the same call continues.
    """
    source, out, folder = str(source), str(out), Path(bundle)
    asked = check_pool(at_once, threads, gpus)
    _check_out(out, source)
    card = checked_card(folder)
    card.check_one_label("passes over many files")
    promises = _promises(card, abstain=abstain, sets=sets)
    least = None
    if none_of_these is not None:
        documents = len(known_documents(folder, card.reference, card.labels, "torch"))  # a node that opens the bundle with a graph says so itself
        least = threshold_of(none_of_these, card.none_of_these, documents, "torch")
    sources, left_out = find_sources(source)
    output = open_output(out)
    state = _state(folder, card.labels, text_column, sources, promises, least)
    if (finished := _finished(output, state)) is not None:
        return finished
    _check_begun(output, state)
    if left_out:
        say(f"{left_out} other files in {source} are left out")
    described = _described_here(sources, text_column)
    with session(Experiment(ray=RayConfig(address=address)), asked.needs(address, folder)) as there:
        pool = asked.settled(there, address, folder)
        if promises and is_alone():  # a node of another kind opens the bundle with something else, and says so itself
            backend = "torch" if pool.gpus else choose(read_record(folder)).name
            for parameter, promise in promises.items():
                kept(promise, backend, parameter)
        known = _described_there(sources, described, text_column, pool)
        work = _work(output.location, state, card.levels, common_columns(sources, known), pool)
        parts = parts_of(sources, [one.rows for one in known])
        _begin(output, state, parts)
        counts = _run(parts, work, pool, send(folder, state["bundle"], alone=is_alone()))
    return _finish(output, state, sources, parts, counts)


def _promises(card: BundleCard, *, abstain: bool, sets: bool) -> dict[str, Promise | PredictionSets]:
    """What is wanted of the bundle's promises, by parameter; whether they are kept by what the processes compute with is known later."""
    found: dict[str, Promise | PredictionSets] = {}
    if abstain:
        found["abstain"] = kept(card.promise, card.promise.backend if card.promise is not None else "")
    if sets:
        found["sets"] = kept(card.sets, card.sets.backend if card.sets is not None else "", "sets")
    return found


def _state(
    bundle: Path,
    classes: Sequence[str],
    text_column: str,
    sources: Sequence[Source],
    promises: Mapping[str, Promise | PredictionSets],
    least: float | None,
) -> dict[str, Any]:
    """What a pass is."""
    thresholds = {parameter: promise.threshold for parameter, promise in promises.items()}
    files = json.dumps([[one.path, one.size, one.version] for one in sources])
    return {
        "format": _FORMAT,
        "bundle": bundle_id(bundle),
        "classes": list(classes),
        "text_column": text_column,
        "threshold": thresholds.get("abstain"),  # below which there is no label; passes of before had none
        "sets": thresholds.get("sets"),  # from which on a class is in the set; likewise
        "none_of_these": least,  # the typicality up to which there is no label; likewise
        "files": len(sources),
        "files_id": hashlib.sha256(files.encode()).hexdigest(),
    }


def _work(out: str, state: dict[str, Any], levels: int, columns: pa.Schema, pool: Pool) -> Work:
    file_column = new_columns(["file"], columns.names)[0]
    abstain, sets, none = state["threshold"] is not None, state["sets"] is not None, state["none_of_these"]
    added, result = result_columns(
        pa.schema([*columns, pa.field(file_column, pa.string())]), state["classes"], levels, sets=sets, none_of_these=none is not None
    )
    return Work(out, _document(state), state["text_column"], columns, file_column, tuple(added), result, pool.threads, pool.gpus, abstain, sets, none)


def _check_out(out: str, source: str) -> None:
    if not is_address(out) and Path(out).suffix.lower() in SUFFIXES:
        raise OutputError(f"out must be a folder or an address for the labels of many files (got {out[:300]!r}).", parameter="out")
    folder, whole = folder_of(source)
    place = out.rstrip("/") if is_address(out) else os.path.abspath(out)
    if place == folder or (whole and place.startswith(f"{folder}/")):
        raise OutputError(f"out must not lie in the folder that is read (got {out[:300]!r}); pass another, beside it.", parameter="out")


def _finished(output: Output, state: dict[str, Any]) -> PredictedFiles | None:
    """The result of a pass that has ended."""
    content = output.found(MANIFEST)
    if content is None:
        return None
    manifest = _parsed(output, MANIFEST, content)
    if (difference := _other(manifest, state)) is not None:
        raise _holds(output, difference)
    facts = manifest["counts"]
    counts = facts["rows"], facts["failed"], dict(facts["labels"])
    return PredictedFiles(output.location, *counts, len(manifest["parts"]), found=True, abstained=facts.get("abstained", 0))


def _check_begun(output: Output, state: dict[str, Any]) -> None:
    """Raise an `OutputError` unless nothing is there, or this pass was begun there. Files may differ: a wrong one may have been taken out, or put right."""
    content = output.found(STATE)
    if content is None:
        if names := output.names():
            raise OutputError(f"out must be a new or an empty folder (got {output.location!r}, which holds {names[0]!r}).", parameter="out")
    elif (difference := _other({**_parsed(output, STATE, content), "files_id": state["files_id"]}, state)) is not None:
        raise _holds(output, difference)


def _begin(output: Output, state: dict[str, Any], parts: Sequence[Part]) -> None:
    """Write what the folder is for, once it is known that whatever is in it belongs to these parts."""
    names = {part.key: part.name for part in parts}
    there = [name for name in output.names() if key_of(name) is not None]
    if any(key_of(name) not in names for name in there):
        raise _holds(output, "other files, or of files that were changed since")
    for name in there:
        if name != (planned := names[str(key_of(name))]):
            output.rename(name, planned)
    output.replace(STATE, _document(state))


def _other(there: dict[str, Any], state: dict[str, Any]) -> str | None:
    """What differs between two passes, as the rest of a sentence."""
    for key, words in (
        ("format", "another version of selftrain"),
        ("bundle", "another bundle"),
        ("text_column", f"another column ({there.get('text_column')!r})"),
        ("threshold", f"a pass that {'did not abstain' if there.get('threshold') is None else 'abstained'}"),
        ("sets", f"a pass that {'wrote no' if there.get('sets') is None else 'wrote'} sets"),
        ("none_of_these", f"a pass that {'did not ask' if there.get('none_of_these') is None else 'asked'} for none of these in this way"),
        ("files_id", "other files, or of files that were changed since"),
    ):
        if there.get(key) != state[key]:
            return words
    return None


def _holds(output: Output, difference: str) -> OutputError:
    what = "the labels by" if "bundle" in difference or "version" in difference else "the labels of"
    return OutputError(f"out {output.location} holds {what} {difference}; pass a new folder.", parameter="out")


def _parsed(output: Output, name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OutputError(f"out {output.location} holds a damaged {name}; pass a new folder.", parameter="out")
    return found


def _document(state: dict[str, Any]) -> bytes:
    return json.dumps(state, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")  # names of files need not be UTF-8


def _described_here(sources: Sequence[Source], text_column: str) -> list[Described | None]:
    """What files hold, as far as that is quickly known: Parquet says it at its end, and text files that are small and here can be read."""
    texts = [one for one in sources if not one.parquet]
    near = all(not one.remote for one in texts) and sum(one.size for one in texts) <= _NEAR_BYTES
    described = several(lambda one: describe(one, text_column) if one.parquet or near else None, sources)
    if known := [(source, one) for source, one in zip(sources, described, strict=True) if one is not None]:
        common_columns([source for source, _ in known], [one for _, one in known])  # what does not fit is said before Ray starts
    return described


def _described_there(sources: Sequence[Source], described: Sequence[Described | None], text_column: str, pool: Pool) -> list[Described]:
    """What all files hold; the cluster reads those that this process did not."""
    known = dict(enumerate(described))
    asked = [json.dumps([number, one.path, one.size, one.version]) for number, one in enumerate(sources) if known[number] is None]
    with closing(answers(asked, Describer, (text_column,), at_once=pool.processes, cpus=1)) as found:
        for text in found:
            answer = json.loads(text)
            if "error" in answer:
                raise read_error(answer["error"])
            known[answer["number"]] = described_from_json(answer["described"])
    return [one for _, one in sorted(known.items()) if one is not None]


def _run(parts: Sequence[Part], work: Work, pool: Pool, bundle: Any) -> Counts:
    """Have all parts classified."""
    counts = Counts()
    wrong: list[DataError] = []
    asked = [part.to_json() for part in parts]
    with (
        _Progress(sum(part.rows for part in parts)) as progress,
        closing(answers(asked, Predictor, (work, bundle), at_once=pool.processes, cpus=pool.threads, gpus=pool.gpus)) as found,
    ):
        for text in found:
            answer = json.loads(text)
            if "error" in answer:
                error = read_error(answer["error"])
                if not isinstance(error, DataError):
                    raise error
                wrong.append(error)
                continue
            counts.add_all(Counts(**answer["counts"]))
            progress.add(answer["counts"]["rows"], found=answer["found"])
    if wrong:
        more = f" So it is with {len(wrong) - 1} other parts." if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more} All other rows are labeled: without that file, or with a better one, the same command does the rest.")
    return counts


class _Progress:
    """Rows and rows a second on the standard error stream: a bar on a terminal, else a line now and then."""

    def __init__(self, rows: int) -> None:
        self._bar = tqdm(total=rows, unit=" texts", file=sys.stderr, disable=None)
        self._rows, self._done, self._now = rows, 0, 0
        self._started = self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, rows: int, *, found: bool) -> None:
        """Count rows.

        Args:
            rows: how many.
            found: whether an earlier pass had classified them, so that they say nothing of the rate.
        """
        self._done += rows
        self._now += 0 if found else rows
        if not self._bar.disable:
            self._bar.initial += rows if found else 0
            self._bar.update(rows)
        elif (now := time.monotonic()) - self._said >= _SAY_SECONDS:
            self._said = now
            say(f"{self._done:,} of {self._rows:,} texts, {self._now / (now - self._started):,.0f} a second")


def _finish(output: Output, state: dict[str, Any], sources: Sequence[Source], parts: Sequence[Part], counts: Counts) -> PredictedFiles:
    labels = {name: counts.labels[name] for name in state["classes"]}
    facts = {"rows": counts.rows, "failed": counts.failed, "abstained": counts.abstained, "labels": labels}
    listed = [
        {"name": part.name, "rows": part.rows, "from": [{"file": one.source.path, "start": one.start, "stop": one.stop} for one in part.slices]}
        for part in parts
    ]
    manifest = {**state, "counts": facts, "inputs": [asdict(one) for one in sources], "parts": listed}
    output.remove_unfinished()
    output.replace(MANIFEST, _document(manifest))
    return PredictedFiles(output.location, counts.rows, counts.failed, labels, len(parts), found=False, abstained=counts.abstained)
