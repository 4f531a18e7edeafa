"""The Python way of a run: a scikit-learn estimator. Training runs in this process; Ray starts for a language model alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.handover import card_of, write_student
from selftrain.config import Experiment, class_tree, composed, parse, paths_of
from selftrain.data.corpus import Corpus, document_id
from selftrain.data.loading import corpus_of
from selftrain.data.texts import TextChannel, no_texts
from selftrain.errors import ConfigError, DataError
from selftrain.evaluation.decisions import on_start, on_texts
from selftrain.methods import method_class
from selftrain.methods.recipe import Recipe, resolve
from selftrain.models.locate import LanguageModel, contents_fingerprint, language_model_of
from selftrain.training.fit import fit

# Options that want texts of a language model: off without one, unless they are set.
_WITH_LANGUAGE_MODEL = ("input_augmentation", "conditional_augmentation")


class SelfTrainer(ClassifierMixin, BaseEstimator):
    """Train a text classifier from unlabeled texts and class names, or from a few labels and unlabeled texts.

        trainer = SelfTrainer(options={"rounds": 5})
        trainer.fit(texts, classes=["sport", "politics"]).predict(["The match ended in a draw."])

        few = SelfTrainer(method="ssc", train="head")
        few.fit(texts, ["sport", None, None, "politics", ...])

    The constructor only stores its arguments; `fit` checks them. The same arguments and texts give the same weights.

    Args:
        method: a name of `selftrain methods`; or, as in an experiment's `method` section, a mapping of options with or without `name`.
        options: options of the method (`selftrain methods genco`).
        language_model: folder or name of a large language model whose texts help while training; None trains without one.
        encoder: the sentence encoder that is trained, or `bilstm`.
        train: full, or head for two dense layers on frozen embeddings.
        model: more of the `model` section of an experiment.
        augment: the `augment` section of an experiment.
        seed: of the training.

    Attributes:
        classes_: class names, in the order of the columns of `predict_proba`.
        classifier_: the trained `Classifier`.
        decisions_: what the training decided by itself, and why, in sentences: whether it used texts, and whether what is handed over is what was trained.
    """

    def __init__(
        self,
        *,
        method: str | Mapping[str, Any] = "genco",
        options: Mapping[str, Any] | None = None,
        language_model: str | None = None,
        encoder: str = "all-MiniLM-L6-v2",
        train: str = "full",
        model: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.options = options
        self.language_model = language_model
        self.encoder = encoder
        self.train = train
        self.model = model
        self.augment = augment
        self.seed = seed

    def fit(
        self,
        X: Sequence[str],
        y: Sequence[str | None] | None = None,
        *,
        classes: Sequence[Any] | Mapping[str, Any] | None = None,
        descriptions: Mapping[str, str] | None = None,
    ) -> SelfTrainer:
        """Train on texts; empty, duplicate and unusable ones are skipped.

        Args:
            X: texts, `[texts]`.
            y: the class name of each text, None for an unlabeled one. Without any, the method must learn from class names alone (the default does).
            classes: at least two different class names, or a tree of them, such as {"sport": ["football", "tennis"]}; default: those of `y`, sorted.
            descriptions: class name -> a few words for the language model.

        Raises:
            ConfigError: an argument or an option is wrong, or the method does not fit the labels.
            DataError: one string where a list belongs, labels that contradict each other, or too few usable texts.
        """
        labels = None if y is None else [None if _missing(label) else label for label in y]
        tree = _class_tree(classes, labels)
        granted = {} if labels is None else _granted(X, labels, [path[-1] for path in paths_of(tree)])
        experiment = self._experiment(tree, descriptions, granted)
        recipe = resolve(experiment)
        self._check_labels(recipe, granted)
        corpus = corpus_of(X, experiment.data)
        known = {id_: granted[id_] for id_ in corpus.unlabeled.ids if id_ in granted}
        seen = replace(corpus, granted=known)
        recipe.check(seen)
        if recipe.wants_texts and not self._has_language_model:
            raise ConfigError(f"language_model must be set: the options of {recipe.name} want texts (got None).", parameter="language_model")
        llm = language_model_of(experiment.augment) if recipe.wants_texts else None
        with _language_model(experiment, corpus, llm) if llm is not None else nullcontext(no_texts) as texts:
            fitted = fit(recipe, seen, texts, seed=self.seed)
            student = fitted.student
        self.decisions_ = [found[1] for figures in fitted.rounds for found in (on_texts(figures), on_start(figures)) if found is not None]
        supervision = "none" if not known else "all" if len(known) == len(corpus.unlabeled) else f"{len(known)} labeled documents"
        card = card_of(
            student,
            name="selftrain",
            recipe=recipe,
            corpus=corpus,
            experiment=experiment,
            supervision=supervision,
            llm_fingerprint=contents_fingerprint(llm) if llm is not None else None,
        )
        # Bundles are the one way in which a trained model leaves the loop, so that predictions here are those of the file.
        self._folder = tempfile.TemporaryDirectory(prefix="selftrain-")
        bundle = write_student(Path(self._folder.name) / "bundle", student, card)
        self.classifier_ = Classifier.load(bundle)
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The most probable class of each text, `[texts]`; of a method for several labels all classes of each text, a tuple each."""
        check_is_fitted(self, "classifier_")
        return np.asarray(self.classifier_.predict(X))

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Probabilities, `[texts, classes]`."""
        check_is_fitted(self, "classifier_")
        return np.asarray(self.classifier_.predict_proba(X))

    def save(self, folder: str | Path) -> Path:
        """Copy the bundle to `folder`; `Classifier.load` opens it."""
        check_is_fitted(self, "classifier_")
        return Path(shutil.copytree(Path(self._folder.name) / "bundle", folder))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        tags.target_tags.required = False
        return tags

    @property
    def _has_language_model(self) -> bool:
        return self.language_model is not None or bool((self.augment or {}).get("teachers"))

    def _experiment(self, tree: tuple[Any, ...], descriptions: Mapping[str, str] | None, granted: Mapping[str, int]) -> Experiment:
        """The document of a run that would do the same."""
        given = {"name": self.method} if isinstance(self.method, str) else dict(self.method)
        given = {"name": "genco", **given, **(self.options or {})}
        if not self._has_language_model:
            known = method_class(str(given["name"])).Options.model_fields
            given = {key: False for key in _WITH_LANGUAGE_MODEL if key in known} | given
        document = {
            "seeds": [self.seed],
            "data": {
                "source": "texts",
                "classes": tree,
                "descriptions": dict(descriptions or {}),
                "test_documents": 0,
                "min_documents": 2,
                "multi_label": method_class(str(given["name"])).multi_label,
                "supervision": "all" if granted else "none",
            },
            "model": {"encoder": self.encoder, "train": self.train, **(self.model or {})},
            "method": given,
            "augment": {"model": self.language_model, **(self.augment or {})},
        }
        return parse(document, where="SelfTrainer")

    def _check_labels(self, recipe: Recipe, granted: Mapping[str, int]) -> None:
        wanted = recipe.method.supervision
        if wanted == "candidates":
            raise ConfigError(f"method {recipe.name!r} learns from candidate sets, which y cannot hold; use selftrain run.", parameter="method")
        if granted and wanted == "none":
            raise ConfigError(
                f"method {recipe.name!r} learns from no labels, and y holds some; set method='ssc' or another of few labels, or leave y out.",
                parameter="method",
            )
        if not granted and wanted == "labels":
            raise ConfigError(f"y must hold class names for the method {recipe.name!r} (got none).", parameter="y")


def _missing(label: object) -> bool:
    return label is None or (isinstance(label, float) and np.isnan(label))


def _class_tree(classes: Sequence[Any] | Mapping[str, Any] | None, labels: Sequence[Any] | None) -> tuple[Any, ...]:
    if classes is None:
        if labels is None or all(label is None for label in labels):
            raise ConfigError("classes must hold the class names where y holds no labels (got None).", parameter="classes")
        classes = sorted({label for label in labels if label is not None}, key=str)
    try:
        tree: tuple[Any, ...] = class_tree(classes if isinstance(classes, str | bytes | Mapping) else list(classes))
    except ValueError as error:
        raise ConfigError(f"{error}.", parameter="classes") from None
    return tree


def _granted(texts: Sequence[Any], labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
    """Document id -> class index, of the labeled texts."""
    if isinstance(texts, str | bytes | Mapping):
        raise DataError(f"X is a {type(texts).__name__}, not a list of texts; for one text write [text].", parameter="X")
    if len(labels) != len(texts):
        raise DataError(f"y must be as long as X, {len(texts)} (got {len(labels)}).", parameter="y")
    index = {name: place for place, name in enumerate(names)}
    found: dict[str, int] = {}
    for place, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if label is None or not isinstance(text, str):
            continue
        if (name := composed(str(label))) not in index:
            raise DataError(f"y[{place}] must be one of classes, {', '.join(names)}, or None (got {label!r}).", parameter="y")
        if found.setdefault(document_id(text.strip()), index[name]) != index[name]:
            raise DataError(
                f"y[{place}] must be {names[found[document_id(text.strip())]]!r}, as the same text has it before (got {label!r}).", parameter="y"
            )
    return found


@contextmanager
def _language_model(experiment: Experiment, corpus: Corpus, folder: LanguageModel) -> Iterator[TextChannel]:
    """The text channel of one `fit`, with Ray around it unless a server writes."""
    from selftrain.runtime.cluster import Needs, needs, session
    from selftrain.runtime.devices import alone
    from selftrain.runtime.hardware import Hardware
    from selftrain.texts.channel import open_texts
    from selftrain.texts.engines import engine_needs, on_cluster

    def wanted(there: Hardware) -> Needs:
        return needs(experiment, engine_needs(alone(experiment.augment, there), folder))

    with (
        session(experiment, wanted) if on_cluster(experiment.augment) else nullcontext(),
        open_texts(experiment.augment, corpus, folder, progress=False) as texts,
    ):
        yield texts
