"""What a retraining runs: `python -m selftrain.runs.labelling.retrainer FOLDER`, started by `retraining.py`, with the lock of the folder in its hands."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from selftrain.errors import SelfTrainError, say, sentence
from selftrain.runs.labelling.comparing import compare
from selftrain.runs.labelling.folder import Folder, open_folder, rows_of
from selftrain.runs.labelling.retraining import LOG, STEP, Record, read_record, write_record
from selftrain.runs.labelling.successor import experiment_of, words_of
from selftrain.runs.run import run
from selftrain.runtime.signals import interruptible
from selftrain.training.steps import StepFile


def retrain(path: Path) -> Record:
    """Train a successor on the answers in the folder's file, and compare it on the audit's.

    Raises:
        SelfTrainError: as `run`.
    """
    folder, record = open_folder(path), read_record(path)
    assert record is not None  # written before this process is started
    answers = {row["id"]: row["label"] for row in rows_of(folder.export) if row["label"]}  # as they stood at the start
    command = shlex.join(words_of(folder, answers))
    result = run(experiment_of(folder, answers), command=command, step_done=StepFile(path / STEP))
    bundle = Path(str(result.bundle)).absolute()
    found, problem = _compared(folder, bundle, frozenset(key.partition("-")[2] for key in answers))
    serve = shlex.join(["selftrain", "serve", "--bundle", str(bundle)])
    return record.model_copy(update={"state": "done", "bundle": str(bundle), "serve": serve, "compared": found, "not_compared": problem})


def _compared(folder: Folder, bundle: Path, learned: frozenset[str]) -> tuple[dict[str, object] | None, str | None]:
    """(the figures, why there are none)."""
    audit = folder.choice.audit if folder.choice is not None else ""
    if not audit:
        return None, "These documents were not chosen apart from those of an audit (apart_from), so that nothing measures both; audit the new bundle."
    try:
        return asdict(compare(bundle, Path(audit), learned)), None
    except SelfTrainError as error:  # the bundle is there all the same
        return None, sentence(error)


def main(path: Path) -> int:
    """`retrain`, and how it ended in the record; the exit code."""
    record = read_record(path)
    assert record is not None
    try:
        with interruptible():
            record = retrain(path)
    except KeyboardInterrupt:
        return 130
    except SelfTrainError as error:
        say(error)
        record = record.model_copy(update={"state": "failed", "error": sentence(error)})
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__} in the run, which is an error of selftrain; {path / LOG} says where."
        record = record.model_copy(update={"state": "failed", "error": what})
    write_record(path, record.model_copy(update={"seconds": time.time() - record.started}))
    return 0 if record.state == "done" else 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
