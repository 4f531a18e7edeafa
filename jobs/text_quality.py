"""SunGen's table 5: diversity of generated texts, and the share that fits its label, for all texts and for those that SunGen prefers.

    python jobs/text_quality.py jobs/experiments/sungen_imdb_generated-small.yaml --judge BUNDLE [--texts 1000] [--set section.key=value ...]

The judge is a bundle of a classifier that was trained on real data with the same class names (here: `selftrain run --data sst2 --set data.supervision=all
--set method.name=zerogen --set model.train=head`). Self-BLEU depends on the number of texts, so every row has the same number: `--texts`.
The paper: Gao et al. 2023, "Self-Guided Noise-Free Data Generation for Efficient Zero-Shot Learning", arXiv:2205.12679.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from selftrain.bundle.classifier import Classifier
from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import ConfigError, SelfTrainError
from selftrain.evaluation.diversity import correctness, self_bleu
from selftrain.methods.noisy_labels.sungen import SunGen, inclusion_probabilities, relative_weights
from selftrain.methods.recipe import resolve


def rows(method: SunGen, judge: Classifier, class_names: Sequence[str], count: int, seed: int) -> list[tuple[str, float, float]]:
    """(which texts, Self-BLEU-4, correctness): `count` random ones, as many drawn by weight, and those of largest and of smallest weight.

    Args:
        method: has weighted the texts.
        judge: decides whether a text fits its label.
        class_names: that the texts were written for, in index order.
        count: texts of each row.
        seed: of the draws.

    Raises:
        ConfigError: the judge has other classes, or there are fewer than `count` texts.
    """
    if list(judge.classes_) != list(class_names):
        raise ConfigError(
            f"judge must have the classes of the texts, {', '.join(class_names)} (got {', '.join(judge.classes_)}); pass another bundle.",
            parameter="judge",
        )
    if not 2 <= count <= len(method.texts):
        raise ConfigError(f"texts must be from 2 to {len(method.texts)}, the number of texts (got {count}).", parameter="texts")
    labels = method.targets.cpu().numpy()
    weights = relative_weights(method.learned().weights, method.targets, balance=method.options.balance)
    order = weights.argsort(descending=True, stable=True).cpu().numpy()
    inclusion = inclusion_probabilities(weights.double(), count).cpu().numpy()
    rng = np.random.default_rng(seed)
    chosen = {
        "ZeroGen: random texts": rng.permutation(len(labels))[:count],
        "SunGen: drawn by weight": rng.choice(len(labels), size=count, replace=False, p=inclusion / inclusion.sum()),
        "SunGen: largest weights": order[:count],
        "SunGen: smallest weights": order[-count:],
    }
    judged = judge.predict_proba(method.texts)
    return [
        (name, self_bleu([method.texts[place] for place in places]), correctness(judged[places], labels[places])) for name, places in chosen.items()
    ]


def main(given: Sequence[str]) -> int:
    """Print the table; exit code 2 for what a user can fix."""
    parser = argparse.ArgumentParser(description="Self-BLEU-4 and correctness of generated texts (SunGen table 5).")
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="an experiment with the method sungen; its first seed is used")
    parser.add_argument("--judge", required=True, metavar="BUNDLE", help="a classifier that was trained on real data")
    parser.add_argument("--texts", type=int, default=1000, help="texts of each row (default: 1000)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args(given)
    try:
        experiment = load(options.experiment, options.overrides)
        seed = experiment.seeds[0]
        corpus, truth = load_corpus(experiment.data)
        granted = grant(corpus, truth, experiment.data, seed)
        method = resolve(experiment).untrained(granted, seed=seed)  # with the weights that a run starts from
        if not isinstance(method, SunGen):
            raise ConfigError(f"{options.experiment} must have the method sungen, which weights texts (got {method.name}).", parameter="experiment")
        print(f"{'texts':28}{'Self-BLEU-4':>12}{'correctness':>13}")
        for name, bleu, right in rows(method, Classifier.load(options.judge), corpus.class_names, options.texts, seed):
            print(f"{name:28}{bleu:12.3f}{right:13.3f}", flush=True)
    except SelfTrainError as error:
        print(f"text_quality: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
