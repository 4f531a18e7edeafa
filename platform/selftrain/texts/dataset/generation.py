"""The story of one `selftrain generate`: classes -> prompts -> texts by the language model -> a folder that is a data source like any other.

The folder appears as a whole or not at all; what a killed generation had written is in the text cache, and the same call continues from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from selftrain.config import Experiment, Prices, TeacherConfig
from selftrain.data.catalogue import CATALOGUE
from selftrain.data.classes import check_class_names, with_descriptions
from selftrain.data.corpus import Corpus, Documents, Label, document_id, words_of
from selftrain.errors import ConfigError, OutputError, nearest
from selftrain.files.durable import check_folder, replacing_folder
from selftrain.files.parsing import json_of
from selftrain.models.locate import LanguageModel, contents_fingerprint, language_model_of
from selftrain.texts.cache import TextCache, check_cache
from selftrain.texts.cost import Cost, Missing, prices_of
from selftrain.texts.dataset.cost import predicted, real, rehearsed
from selftrain.texts.dataset.prompts import TEMPLATE_OF, LabelPrompts, label_prompts
from selftrain.texts.dataset.weighing import weighed_labels
from selftrain.texts.dataset.writing import SUBJECT_TOKENS, SUBJECT_TRIES, TRIES, Complete, LabelTexts, write_texts
from selftrain.texts.service import TextCounts

NOT_TRUE = "Every text carries the label that it was written for; nobody claims that the labels are true."
WEIGHED = (
    "Every text carries the label that its teachers' votes come to, and the one that it was written for; nobody claims that the labels are true."
)
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class DatasetRequest:
    """What is requested, checked."""

    labels: tuple[Label, ...]
    prompts: LabelPrompts
    catalogue: str | None  # the named set that has these classes
    model: LanguageModel  # folder, or name on the hub
    model_name: str  # as the user has it; of a folder its last part
    settings: dict[str, Any]  # all that decides the texts, as dataset.json holds it: two requests with the same settings are the same
    teachers: tuple[TeacherConfig, ...] = ()  # where several language models write
    prices: Prices | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In index order."""
        return tuple(label.name for label in self.labels)

    @property
    def origin(self) -> str:
        """Stands in the prompts where a document's id would: another seed gets other texts."""
        return f"selftrain generate, seed {self.settings['seed']}"


@dataclass(frozen=True)
class GeneratedDataset:
    """A folder that holds what was requested."""

    folder: Path
    facts: dict[str, Any]  # dataset.json
    found: bool  # it existed already

    @property
    def shortfall(self) -> str:
        """A sentence where the language model wrote too few texts, else empty."""
        wanted = self.facts["generated"]["asked"]["per_class"]
        short = [f"{got} of {wanted} for {name}" for name, got in self.facts["generated"]["written"].items() if got < wanted]
        return f"The tries were used up ({TRIES} a text) with {', '.join(short)}." if short else ""


def generate(
    experiment: Experiment, out: Path, *, per_class: int, template: str | None = None, named: str | None = None, command: str = ""
) -> GeneratedDataset:
    """Have the language model write `per_class` texts for each class into the folder `out`.

    Args:
        experiment: its `augment`, `ray`, `cost`, `data.classes` and `data.descriptions` are used; `augment.engine_seed` is the seed of everything.
        out: a folder that does not exist yet, is empty, or holds the result of this very request.
        per_class: texts a class.
        template: of texts/dataset/prompts.py; default: the one that fits `named`, else `text`.
        named: a set of the catalogue, for classes and template.
        command: the command line, for dataset.json.

    Raises:
        ConfigError: no classes, no model, or an argument that is wrong.
        OutputError: `out` or the cache cannot be written, or `out` holds something else.
        DataError: the language model wrote no usable text for a class.
        ResourceError: too little memory, CPUs or GPUs.
        ProcessDied: the engine cannot be started, or keeps dying; the same call continues.
        ServiceError: the engine generates nothing for too long.
    """
    started = time.monotonic()
    request = requested(experiment, out, per_class=per_class, template=template, named=named)
    if (facts := _existing(out, request)) is not None:
        return GeneratedDataset(out, facts, found=True)
    check_cache(experiment.augment.cache)
    expected = predicted(experiment, request.prices, _missing(experiment, request))
    texts, counts = _write_with_engine(experiment, request)
    cost = {"predicted": expected, "real": real(experiment, request.prices, counts, time.monotonic() - started)}
    return GeneratedDataset(out, save_dataset(out, request, texts, counts, cost, command=command), found=False)


def describe_generation(experiment: Experiment, out: Path, *, per_class: int, template: str | None = None, named: str | None = None) -> str:
    """What `generate` would ask for and what it would cost; nothing is started and nothing is written. The arguments are those of `generate`."""
    request = requested(experiment, out, per_class=per_class, template=template, named=named)
    lines = [yaml.safe_dump(request.settings, sort_keys=False, allow_unicode=True)]
    if _existing(out, request) is not None:
        return "\n".join([*lines, f"# nothing to do: {out} holds these texts"])
    missing = _missing(experiment, request)
    bound = f"# texts to generate at most: {missing.most:.0f} (what the cache {experiment.augment.cache} holds is not generated again)"
    return "\n".join([*lines, bound, f"# predicted, with hours of two CPU cores: {predicted(experiment, request.prices, missing).words()}"])


def _missing(experiment: Experiment, request: DatasetRequest) -> Missing:
    asked = {"per_class": request.settings["per_class"], "origin": request.origin}
    return rehearsed(experiment, request.labels, request.prompts, request.model, **asked)


def requested(experiment: Experiment, out: Path, *, per_class: int, template: str | None = None, named: str | None = None) -> DatasetRequest:
    """What is requested, checked; the arguments are those of `generate`.

    Raises:
        ConfigError: no classes, no model, or an argument that is wrong.
        OutputError: `out` cannot be written, or holds something else.
    """
    if per_class < 1:
        raise ConfigError(f"per_class must be at least 1 (got {per_class}).", parameter="per_class")
    labels = _labels(experiment, named)
    _check_folder(out)
    augment = experiment.augment
    if not augment.writes:
        raise ConfigError("There is no language model to write the texts; set augment.model, for example to gemma-3-270m.", parameter="augment.model")
    if experiment.augment.frame is not None:
        raise ConfigError("augment.frame frames an instruction about a document, and here there is none; leave it out.", parameter="augment.frame")
    template = template or TEMPLATE_OF.get(named or "", "text")
    prompts = label_prompts(template, labels, style=experiment.augment.style)
    folder = language_model_of(experiment.augment)
    name = " + ".join(one.called for one in augment.teachers) or _last_part(str(augment.model))
    settings = _settings(experiment, labels, prompts, template, per_class, folder)
    return DatasetRequest(labels, prompts, named, folder, name, settings, augment.teachers, prices_of(experiment))


def _labels(experiment: Experiment, named: str | None) -> tuple[Label, ...]:
    paths = experiment.data.class_paths
    names = None if paths is None else [path[-1] for path in paths]
    if named is not None and named not in CATALOGUE:
        raise ConfigError(f"named {named!r} is not a named set; {nearest(named, CATALOGUE)}", parameter="named")
    if named is None:
        if names is None:
            raise ConfigError(
                "There are no classes to write for; set data.classes, for example to [negative, positive], or pass a named set that has them (sst2).",
                parameter="data.classes",
            )
        check_class_names(names, "data.classes")
        return with_descriptions([Label(name, words_of(name), words_of(name)) for name in names], experiment.data.descriptions)
    known = CATALOGUE[named]
    chosen: list[Label] = []
    for name in names or [entry.name for entry in known.classes]:
        entry = known.entry(name)
        if entry is None:
            hint = nearest(name, [entry.name for entry in known.classes])
            raise ConfigError(f"data.classes must be classes of the set: {named} has no class {name!r}; {hint}", parameter="data.classes")
        chosen.append(Label(entry.name, entry.words, entry.description))
    check_class_names([label.name for label in chosen], "data.classes")
    return with_descriptions(chosen, experiment.data.descriptions)


def _last_part(model: str) -> str:
    """Of a folder's path; a name stays as it is."""
    return Path(model).name if Path(model).expanduser().is_dir() else model


def _settings(
    experiment: Experiment, labels: Sequence[Label], prompts: LabelPrompts, template: str, per_class: int, model: LanguageModel
) -> dict[str, Any]:
    augment = experiment.augment
    names = [label.name for label in labels]
    shares = {"teachers": [{"name": one.called, "share": one.share} for one in augment.teachers]} if augment.teachers else {}
    return shares | {
        "classes": names,
        "per_class": per_class,
        "seed": augment.engine_seed,
        "model": contents_fingerprint(model),
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
    """Refuse what must not be overwritten, before anything long starts."""
    check_folder(out, "out")
    if out.is_dir() and any(out.iterdir()) and not (out / DESCRIPTION).is_file():
        raise OutputError(f"out {str(out)!r} holds something else, and no {DESCRIPTION}; pass a folder that does not exist yet.", parameter="out")


def _existing(out: Path, request: DatasetRequest) -> dict[str, Any] | None:
    """dataset.json of `out` if it is the result of this request; None if it holds nothing.

    Raises:
        OutputError: it holds something else.
    """
    if not (out / DESCRIPTION).is_file():
        return None
    another = f"out {str(out)!r} holds another data set"
    remedy = "pass another folder (texts that are in the cache are not generated again)"
    try:
        facts: dict[str, Any] = json_of((out / DESCRIPTION).read_text(encoding="utf-8"))
        settings = facts["generated"]["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputError(f"{another}; {remedy}.", parameter="out") from None
    if settings != request.settings:
        differs = [key for key in request.settings if settings.get(key) != request.settings[key]]
        raise OutputError(f"{another}, generated with other {' and '.join(differs)}; {remedy}.", parameter="out")
    if not (out / "train.parquet").is_file():
        raise OutputError(
            f"out {str(out)!r} has lost its train.parquet; delete the folder and repeat the command, its texts are in the cache.", parameter="out"
        )
    return facts


def _write_with_engine(experiment: Experiment, request: DatasetRequest) -> tuple[LabelTexts, TextCounts]:
    from selftrain.runtime.cluster import Needs, needs, session
    from selftrain.runtime.devices import alone
    from selftrain.runtime.hardware import Hardware
    from selftrain.texts.channel import open_texts
    from selftrain.texts.engines import engine_needs, on_cluster

    # A new engine with the old seed would draw the old numbers again: for one prompt of many samples these are the texts that the cache has.
    cached = TextCache(experiment.augment.cache).count(request.origin)
    config = experiment.augment.model_copy(update={"engine_seed": (request.settings["seed"] * 1_000_003 + cached) % 2**31})
    corpus = Corpus(name="generated", labels=request.labels, prompts=(), unlabeled=Documents(), test=Documents())

    def wanted(there: Hardware) -> Needs:
        return needs(experiment, engine_needs(alone(config, there), request.model), trainings=0)

    with (
        session(experiment, wanted) if on_cluster(config) else nullcontext(),
        open_texts(config, corpus, request.model, model_fingerprint=None if request.teachers else request.settings["model"]) as texts,
    ):
        found = requested_texts(experiment, request, texts.complete)
        if request.teachers:
            found = replace(found, votes=texts.votes({document_id(text): text for got in found.classes for text in got.texts}))
        return found, texts.summary().counts


def requested_texts(experiment: Experiment, request: DatasetRequest, complete: Complete) -> LabelTexts:
    """The texts of `request`.

    Args:
        experiment: for style and sampling (`augment`).
        request: classes and prompts.
        complete: the text channel.

    Raises:
        DataError: no usable subject, or a class without a single usable text.
    """
    per_class = request.settings["per_class"]
    return write_texts(request.class_names, request.prompts, complete, experiment.augment, per_class=per_class, origin=request.origin)


def save_dataset(
    out: Path, request: DatasetRequest, texts: LabelTexts, counts: TextCounts, cost: Mapping[str, Cost], *, command: str
) -> dict[str, Any]:
    """Write the folder, whole or not at all; returns dataset.json.

    Args:
        out: does not exist yet, or is empty.
        request: what the texts were written for.
        texts: by class.
        counts: of the text service.
        cost: `predicted` and `real`.
        command: the command line.

    Raises:
        OutputError: `out` cannot be written.
    """
    # Class by class in turns, so that the first rows of the file show all classes.
    in_turns = range(request.settings["per_class"])
    rows = [(got.texts[n], label, got.prompts[n]) for n in in_turns for label, got in enumerate(texts.classes) if n < len(got.texts)]
    columns = {"text": pa.array([text for text, _, _ in rows], pa.string()), "label": pa.array([label for _, label, _ in rows], pa.int64())}
    facts = _facts(out, request, texts, counts, command)
    facts["generated"]["cost"] = {name: one.to_json() for name, one in cost.items()}
    if request.teachers:
        weighed = weighed_labels(rows, texts.votes, request.class_names, request.teachers)
        columns |= {"label": pa.array(weighed.labels, pa.int64()), "written_for": columns["label"]}
        columns |= {"teacher": pa.array(weighed.teachers, pa.string()), "agreement": pa.array(weighed.agreement, pa.float64())}
        facts["notes"] = WEIGHED
        facts["generated"]["teachers"] = weighed.facts
    try:
        with replacing_folder(out) as scratch:
            pq.write_table(pa.table(columns), scratch / "train.parquet")
            (scratch / DESCRIPTION).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"out {str(out)!r} cannot be written ({error.strerror or error}); the texts are in the cache, repeat the command with another folder.",
            parameter="out",
        ) from None
    return facts


def _facts(out: Path, request: DatasetRequest, texts: LabelTexts, counts: TextCounts, command: str) -> dict[str, Any]:
    """dataset.json."""
    by_class = dict(zip(request.class_names, texts.classes, strict=True))
    return {
        "name": out.resolve().name,
        "labels": list(request.class_names),
        "splits": {"train": sum(len(got.texts) for got in texts.classes)},
        "source": f"written by the language model {request.model_name} (fingerprint {request.settings['model']}) with selftrain generate",
        "notes": NOT_TRUE,
        **({"catalogue": request.catalogue} if request.catalogue is not None else {}),
        "generated": {
            "asked": request.settings,
            "written": {name: len(got.texts) for name, got in by_class.items()},
            "tries": {name: got.tries for name, got in by_class.items()},
            "filtered": {name: dict(got.filtered.most_common()) for name, got in by_class.items()},
            "subjects": [{"written": len(got.texts), "tries": got.tries, "filtered": dict(got.filtered.most_common())} for got in texts.subjects],
            "engine": {key: value for key, value in counts.to_json().items() if key != "filtered"},
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
        },
    }


def describe_filter(facts: Mapping[str, Any]) -> str:
    """What was filtered, for a terminal: '12 duplicate, 3 empty'."""
    total: dict[str, int] = {}
    for reasons in facts["generated"]["filtered"].values():
        for reason, count in reasons.items():
            total[reason] = total.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(total.items(), key=lambda item: -item[1])) or "nothing"
