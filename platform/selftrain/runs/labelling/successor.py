"""The run that learns from a folder's answers: the same from the command line and from the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from selftrain.config import Experiment, load, tree_of
from selftrain.config.document import ModelConfig
from selftrain.errors import DataError
from selftrain.runs.labelling.folder import Folder


def settings_of(folder: Folder, answers: Mapping[str, str]) -> dict[str, str]:
    """Keys of the experiment and their values, as `--set` takes them.

    Args:
        folder: of training.
        answers: key of a row -> answer, earlier labels included.
    """
    most = max(Counter(answer for answer in answers.values() if answer in folder.classes).values(), default=1)
    defaults = ModelConfig().model_dump()
    model = folder.choice.model if folder.choice is not None else {}
    return {
        "data.classes": json.dumps(tree_of(folder.classes, folder.choice.parents if folder.choice is not None else ()), ensure_ascii=False),
        "data.supervision": "few",
        "data.labels_per_class": str(most),  # all of them
        "data.test_documents": "0",  # an audit says how good the successor is
        "method.name": "ssc",
        "method.unconfident": "false",
        "model.train": "head",
    } | {f"model.{name}": json.dumps(value) for name, value in model.items() if value != defaults.get(name)}


def words_of(folder: Folder, answers: Mapping[str, str]) -> list[str]:
    """The command line of the run. Arguments as in `settings_of`."""
    settings = settings_of(folder, answers)
    return [
        *("selftrain", "run", "--data", str(folder.export), "--label-column", "label"),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]


def experiment_of(folder: Folder, answers: Mapping[str, str], **other: object) -> Experiment:
    """The experiment of that command line, with the document's keys `other` besides. Arguments as in `settings_of`."""
    overrides = [f"{name}={value}" for name, value in settings_of(folder, answers).items()]
    return load(None, overrides, {"data": {"source": str(folder.export), "label_column": "label"}, **other})


def check_answers(folder: Folder, answers: Mapping[str, str]) -> None:
    """Raise a `DataError` unless the folder is one of training and there is an answer of every class."""
    if folder.purpose != "training":
        raise DataError("These answers are an audit's, from which nothing is learned; choose documents to learn from (selftrain label --training).")
    given = set(answers.values())
    if missing := [name for name in folder.classes if name not in given]:
        raise DataError(f"No document is labeled {missing[0]!r} yet, and training needs one of every class; answer more questions.")
