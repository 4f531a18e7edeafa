"""The story of one `selftrain generate`: classes -> prompts -> texts by the language model -> a folder that is a data source like any other.

The folder appears as a whole or not at all; what a killed generation had written is in the text cache, and the same command goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.config import Experiment
from selftrain.data.catalogue import CATALOGUE
from selftrain.data.classes import check_class_names, describe, words_of
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.errors import SelfTrainError, nearest
from selftrain.files.durable import check_writable, explained, sync, sync_tree
from selftrain.files.parsing import json_of
from selftrain.models.locate import fingerprint, language_model_folder
from selftrain.texts.cache import TextCache
from selftrain.texts.dataset.prompts import TEMPLATE_OF, LabelPrompts, label_prompts
from selftrain.texts.dataset.writing import SUBJECT_TOKENS, SUBJECT_TRIES, TRIES, Complete, LabelTexts, write_texts
from selftrain.texts.service import Counts

NOT_TRUE = "Every text carries the label that it was written for; nobody claims that the labels are true."
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Order:
    """What is asked for, checked."""

    labels: tuple[Label, ...]
    prompts: LabelPrompts
    catalogue: str | None  # the named set whose classes these are
    model: Path | str
    model_name: str  # as it was asked for; a folder by its last part
    stated: dict[str, Any]  # all that decides the texts, as dataset.json has it: two orders with the same one are the same

    @property
    def class_names(self) -> tuple[str, ...]:
        """In index order."""
        return tuple(label.name for label in self.labels)

    @property
    def origin(self) -> str:
        """Of the requests: another seed gets other texts."""
        return f"selftrain generate, seed {self.stated['seed']}"


@dataclass(frozen=True)
class Generated:
    """A folder that holds what was ordered."""

    folder: Path
    facts: dict[str, Any]  # dataset.json
    found: bool  # it was there already

    @property
    def shortfall(self) -> str:
        """A sentence where the language model did not bring what was wanted, else empty."""
        wanted = self.facts["generated"]["asked"]["per_class"]
        short = [f"{got} of {wanted} for {name}" for name, got in self.facts["generated"]["written"].items() if got < wanted]
        return f"The tries were used up ({TRIES} a text) with {', '.join(short)}." if short else ""


def generate(
    experiment: Experiment, out: Path, *, per_class: int, template: str | None = None, named: str | None = None, command: str = ""
) -> Generated:
    """Have the language model write `per_class` texts for each class into the folder `out`.

    Args:
        experiment: its `augment`, `ray`, `data.classes` and `data.descriptions` count; `augment.engine_seed` is the seed of the whole.
        out: a folder that is not there yet, is empty, or holds this very order.
        per_class: texts a class.
        template: of texts/dataset/prompts.py; default: the one that fits `named`, else `text`.
        named: a set of the catalogue, for classes and template.
        command: how it was asked for, for dataset.json.

    Raises:
        SelfTrainError: whatever a user can mend; nothing is written then.
    """
    if per_class < 1:
        raise SelfTrainError(f"--per-class is {per_class}; at least one text a class is needed.")
    labels = _labels(experiment, named)
    _check_folder(out)
    model = experiment.augment.model
    if model is None:
        raise SelfTrainError("No language model to write the texts; name one with --model, e.g. --model gemma-3-270m.")
    template = template or TEMPLATE_OF.get(named or "", "text")
    prompts = label_prompts(template, labels, style=experiment.augment.style)
    folder = language_model_folder(model)
    name = Path(model).name if Path(model).expanduser().is_dir() else model
    order = Order(labels, prompts, named, folder, name, _stated(experiment, labels, prompts, template, per_class, fingerprint(folder)))
    if (there := _there(out, order)) is not None:
        return Generated(out, there, found=True)
    check_writable(Path(experiment.augment.cache), "the cache of texts (augment.cache)")
    texts, counts = _written_by_engine(experiment, order)
    return Generated(out, save(out, order, texts, counts, command=command), found=False)


def _labels(experiment: Experiment, named: str | None) -> tuple[Label, ...]:
    names = experiment.data.classes
    if named is not None and named not in CATALOGUE:
        raise SelfTrainError(f"--data: no named set {named!r}; {nearest(named, CATALOGUE)}")
    if named is None:
        if names is None:
            raise SelfTrainError('No classes to write for; name them (--classes "negative,positive") or a named set that has them (--data sst2).')
        check_class_names(names, "--classes")
        return describe([Label(name, words_of(name), words_of(name)) for name in names], experiment.data.descriptions)
    known = CATALOGUE[named]
    chosen: list[Label] = []
    for name in names or [entry.name for entry in known.classes]:
        entry = known.entry(name)
        if entry is None:
            raise SelfTrainError(f"--classes: {named} has no class {name!r}; {nearest(name, [entry.name for entry in known.classes])}")
        chosen.append(Label(entry.name, entry.words, entry.description))
    check_class_names([label.name for label in chosen], "--classes")
    return describe(chosen, experiment.data.descriptions)


def _stated(
    experiment: Experiment, labels: Sequence[Label], prompts: LabelPrompts, template: str, per_class: int, model_fingerprint: str
) -> dict[str, Any]:
    augment = experiment.augment
    names = [label.name for label in labels]
    return {
        "classes": names,
        "per_class": per_class,
        "seed": augment.engine_seed,
        "model": model_fingerprint,
        "template": template,
        "style": augment.style,
        "prompts": {
            "subject": list(dict.fromkeys(prompts.subjects)) if prompts.subjects else None,
            "text": dict(zip(names, prompts.texts, strict=True)),
        },
        "sampling": {
            "temperature": augment.temperature,
            "top_p": augment.top_p,
            "min_tokens": augment.min_tokens,
            "max_tokens": augment.max_tokens,
            "subject_tokens": SUBJECT_TOKENS,
            "tries": TRIES,
            "subject_tries": SUBJECT_TRIES,
        },
    }


def _check_folder(out: Path) -> None:
    """Refuse what may not be written over, before anything long starts."""
    if out.exists() and not out.is_dir():
        raise SelfTrainError(f"--out: {str(out)!r} is a file; name a folder that is not there yet.")
    with explained(out, "pass another folder with --out"):
        _check_can_be_made(out)
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise SelfTrainError(f"--out: the folder {str(out)!r} holds something else, and no {DESCRIPTION}; name a folder that is not there yet.")


def _check_can_be_made(out: Path) -> None:
    """Make the folder under the name of a scratch folder, as `save` does, and take it away again.

    Raises:
        OSError: it cannot be made.
    """
    parent = out.absolute().parent
    made = []
    while not parent.exists():
        made.append(parent)
        parent = parent.parent
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        (scratch / DESCRIPTION).touch()
        shutil.rmtree(scratch)
    finally:
        for one in made:
            if one.is_dir():
                one.rmdir()


def _there(out: Path, order: Order) -> dict[str, Any] | None:
    """dataset.json of `out` if it holds this order; None if it holds nothing.

    Raises:
        SelfTrainError: it holds something else.
    """
    if not (out / DESCRIPTION).is_file():
        return None
    another = f"--out: the folder {str(out)!r} holds another data set"
    mend = "name another folder (texts that are in the cache are not generated again)"
    try:
        facts: dict[str, Any] = json_of((out / DESCRIPTION).read_text(encoding="utf-8"))
        asked = facts["generated"]["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SelfTrainError(f"{another}; {mend}.") from None
    if asked != order.stated:
        differs = [key for key in order.stated if asked.get(key) != order.stated[key]]
        raise SelfTrainError(f"{another}, generated with other {' and '.join(differs)}; {mend}.")
    if not (out / "train.parquet").is_file():
        raise SelfTrainError(f"--out: {str(out)!r} has lost its train.parquet; delete the folder and repeat the command, its texts are in the cache.")
    return facts


def _written_by_engine(experiment: Experiment, order: Order) -> tuple[LabelTexts, Counts]:
    from selftrain.runtime.cluster import needs, session
    from selftrain.texts.progress import ProgressBar
    from selftrain.texts.remote import RemoteTexts

    cache = Path(experiment.augment.cache).absolute()
    # A new engine with the old seed would draw the old numbers again: for one prompt of many samples these are the texts that the cache has.
    engine_seed = (order.stated["seed"] * 1_000_003 + TextCache(cache).count(order.origin)) % 2**31
    config = experiment.augment.model_copy(update={"engine_seed": engine_seed})
    corpus = Corpus(name="generated", labels=order.labels, prompts=(), unlabeled=Documents(), test=Documents())
    with ExitStack() as stack:
        stack.enter_context(session(experiment, needs(experiment, order.model, trains=False)))
        texts = RemoteTexts.start(config, corpus, str(order.model), str(order.stated["model"]), str(cache))
        stack.callback(texts.close)
        stack.enter_context(ProgressBar(texts.progress))
        return write(experiment, order, texts.complete), texts.summary()[0]


def write(experiment: Experiment, order: Order, complete: Complete) -> LabelTexts:
    """The texts of `order` through any channel."""
    per_class = order.stated["per_class"]
    return write_texts(order.class_names, order.prompts, complete, experiment.augment, per_class=per_class, origin=order.origin)


def save(out: Path, order: Order, texts: LabelTexts, counts: Counts, *, command: str) -> dict[str, Any]:
    """Write the folder, whole or not at all; returns dataset.json."""
    # Class by class in turns, so that the first rows of the file show all classes.
    rows = [(got.texts[n], label) for n in range(order.stated["per_class"]) for label, got in enumerate(texts.classes) if n < len(got.texts)]
    facts: dict[str, Any] = {
        "name": out.resolve().name,
        "labels": list(order.class_names),
        "splits": {"train": len(rows)},
        "source": f"written by the language model {order.model_name} (fingerprint {order.stated['model']}) with selftrain generate",
        "notes": NOT_TRUE,
        **({"catalogue": order.catalogue} if order.catalogue is not None else {}),
        "generated": {
            "asked": order.stated,
            "written": {name: len(got.texts) for name, got in zip(order.class_names, texts.classes, strict=True)},
            "tries": {name: got.tries for name, got in zip(order.class_names, texts.classes, strict=True)},
            "filtered": {name: dict(got.filtered.most_common()) for name, got in zip(order.class_names, texts.classes, strict=True)},
            "subjects": [{"written": len(got.texts), "tries": got.tries, "filtered": dict(got.filtered.most_common())} for got in texts.subjects],
            "engine": {key: value for key, value in counts.to_json().items() if key != "filtered"},
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
        },
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            table = pa.table({"text": pa.array([text for text, _ in rows], pa.string()), "label": pa.array([label for _, label in rows], pa.int64())})
            pq.write_table(table, scratch / "train.parquet")
            (scratch / DESCRIPTION).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            scratch.chmod(0o755)  # mkdtemp makes folders for one's own eyes
            sync_tree(scratch)
            os.replace(scratch, out)
            sync(out.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise SelfTrainError(
            f"--out: {str(out)!r} cannot be written ({error.strerror or error}); the texts are in the cache, repeat the command with another folder."
        ) from None
    return facts


def describe_filter(facts: Mapping[str, Any]) -> str:
    """What was filtered, for a terminal: '12 duplicate, 3 empty'."""
    total: dict[str, int] = {}
    for reasons in facts["generated"]["filtered"].values():
        for reason, count in reasons.items():
            total[reason] = total.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(total.items(), key=lambda item: -item[1])) or "nothing"
