"""The Python way of a run: scikit-learn habits, a plain process for training, Ray only for the language model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftrain import methods
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.config import DataConfig, parse
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextChannel, no_texts
from selftrain.errors import SelfTrainError
from selftrain.models.encoder import TextEncoder
from selftrain.models.open import open_encoder
from selftrain.training.loop import train


class SelfTrainer:
    """Train a classifier from unlabeled texts and class names.

        trainer = SelfTrainer(method={"rounds": 5})
        trainer.fit(texts, classes=["sport", "politics"]).predict(["The match ended in a draw."])

    Args:
        language_model: folder or name of a large language model whose texts help while training; None trains with equation 5 of GenCo alone.
        encoder: the sentence encoder that is trained.
        method: options of GenCo (`selftrain methods genco`).
        augment: options of the language model (the `augment` section of an experiment).
        seed: of the training.

    Attributes:
        classifier_: the trained `Classifier`, after `fit`.
    """

    def __init__(
        self,
        *,
        language_model: str | None = None,
        encoder: str = "all-MiniLM-L6-v2",
        method: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        off = {} if language_model else {"input_augmentation": False, "conditional_augmentation": False}
        self.experiment = parse(
            {
                "seeds": [seed],
                "model": {"encoder": encoder},
                "method": {"name": "genco", **off, **(method or {})},
                "augment": {"model": language_model, **(augment or {})},
            },
            where="SelfTrainer",
        )
        methods.options_of(self.experiment.method)

    def fit(self, texts: Sequence[str], classes: Sequence[str], *, descriptions: Mapping[str, str] | None = None) -> SelfTrainer:
        """Train on `texts`; empty, duplicate and unusable ones are skipped.

        Args:
            texts: unlabeled documents.
            classes: at least two different class names.
            descriptions: class name -> a few words for the language model.

        Raises:
            SelfTrainError: one string where a list belongs, a class list with one or duplicate names, or too few usable texts.
        """
        from selftrain.data.loading import corpus_of

        names = () if isinstance(classes, str | bytes | Mapping) else tuple(classes)
        if not all(isinstance(name, str) for name in names) or isinstance(classes, str | bytes | Mapping):
            raise SelfTrainError(f"classes is {classes!r}, not a list of class names; write classes=['sport', 'politics'].")
        data = DataConfig(source="texts", classes=names, descriptions=dict(descriptions or {}), test_documents=0, min_documents=2)
        corpus = corpus_of(texts, data)
        seed = self.experiment.seeds[0]
        encoder = open_encoder(self.experiment.model, corpus, precision=self.experiment.training.precision)
        method = methods.build(self.experiment, corpus, encoder, seed=seed)
        if method.wants_texts:
            with _language_model(self, corpus) as channel:
                train(method, texts=channel, report=_silent, seed=seed)
        else:
            train(method, texts=no_texts, report=_silent, seed=seed)
        student = method.student()
        assert isinstance(student.encoder, TextEncoder)
        card = BundleCard(
            name="selftrain",
            labels=corpus.class_names,
            label_prompts=tuple(tuple(group) for group in corpus.label_prompts()),
            similarity="cosine" if student.encoder.normalize else "dot",
            scale=student.scale,
            max_tokens=self.experiment.model.max_tokens,
            longest=student.encoder.longest,
            method=method.name,
            experiment=self.experiment.model_dump(mode="json"),
            data="texts",
            data_fingerprint=corpus.fingerprint,
            llm=self.experiment.augment.model,
            encoder=str(self.experiment.model.masked_lm) if method.masked_lm else self.experiment.model.encoder,
        )
        # Bundles are the one way in which a trained model leaves the loop, so that predictions here are those of the file.
        self._folder = tempfile.TemporaryDirectory(prefix="selftrain-")
        write_bundle(Path(self._folder.name) / "bundle", backbone=student.encoder.export(), prototypes=student.weights, bias=student.bias, card=card)
        self.classifier_ = Classifier.load(Path(self._folder.name) / "bundle")
        return self

    @property
    def classes_(self) -> Any:
        """Class names in the order of the columns of `predict_proba`."""
        return self.classifier_.classes_

    def predict(self, texts: Sequence[str]) -> Any:
        """The most probable class of each text."""
        return self.classifier_.predict(texts)

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Probabilities, `[texts, classes]`."""
        return self.classifier_.predict_proba(texts)

    def save(self, folder: str | Path) -> Path:
        """Copy the bundle to `folder`; `Classifier.load` opens it."""
        import shutil

        return Path(shutil.copytree(Path(self._folder.name) / "bundle", folder))


def _silent(figures: dict[str, float], state: dict[str, Any]) -> None:
    return None


class _language_model:
    """The text channel of one `fit`, with Ray around it."""

    def __init__(self, trainer: SelfTrainer, corpus: Corpus) -> None:
        self.experiment = trainer.experiment
        self.corpus = corpus

    def __enter__(self) -> TextChannel:
        from selftrain.models.locate import fingerprint, language_model_folder
        from selftrain.runtime.cluster import needs, session
        from selftrain.texts.channel import RemoteTexts
        from selftrain.texts.engines import engine_needs

        folder = language_model_folder(str(self.experiment.augment.model))
        self._session = session(self.experiment, needs(self.experiment, engine_needs(self.experiment.augment, folder)))
        self._session.__enter__()
        cache = os.path.abspath(self.experiment.augment.cache)
        self._texts = RemoteTexts.start(self.experiment.augment, self.corpus, str(folder), fingerprint(folder), cache)
        return self._texts

    def __exit__(self, *error: Any) -> None:
        self._texts.close()
        self._session.__exit__(*error)
