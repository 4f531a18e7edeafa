"""MLflow's loader of a bundle: the MLmodel file that selftrain.tracking writes names this module."""

from __future__ import annotations

from typing import Any

import pandas as pd

from selftrain.bundle.classifier import Classifier
from selftrain.errors import DataError


class PyfuncClassifier:
    """A classifier with the one method that `mlflow.pyfunc` calls."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify texts.

        Args:
            model_input: a list or Series of texts, or a DataFrame with a column `text` (or with one column alone).
            params: accepted because MLflow passes it; there are none.

        Returns:
            Columns `label` and `probability` (of that label), one row a text, with the input's index; of a tree of classes also `parents`, a dictionary of the
            groups that the label is in, the outermost first, and their probabilities. Of several labels a text the column `labels` alone, a list each.

        Raises:
            DataError: the table has several columns and none of them is `text`, or a text cannot be classified.
        """
        index = getattr(model_input, "index", None) if isinstance(model_input, pd.DataFrame | pd.Series) else None
        if isinstance(model_input, pd.DataFrame):
            if "text" not in model_input and model_input.shape[1] != 1:
                raise DataError(
                    f"The table has the columns {list(model_input.columns)} and none of them is 'text'; rename the column with the texts."
                )
            model_input = model_input["text"] if "text" in model_input else model_input.iloc[:, 0]
        probabilities = self.classifier.predict_proba(model_input)
        best, card = probabilities.argmax(axis=1), self.classifier.card
        if card.multi_label:
            return pd.DataFrame({"labels": [[card.labels[label] for label in card.labels_of(row)] for row in probabilities]}, index=index)
        found = {"label": self.classifier.classes_[best], "probability": probabilities.max(axis=1)}
        above = {"parents": [card.parents_of(int(label), row) for label, row in zip(best, probabilities, strict=True)]} if card.levels else {}
        return pd.DataFrame({**found, **above}, index=index)


def _load_pyfunc(path: str) -> PyfuncClassifier:
    """MLflow's hook: the bundle in `path`."""
    return PyfuncClassifier(Classifier.load(path))
