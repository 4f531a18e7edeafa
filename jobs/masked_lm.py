"""A masked language model for the methods that start from one (iPET, LOTClass), where no model hub is within reach.

    python jobs/masked_lm.py EXPERIMENT.yaml --to FOLDER [--epochs 1] [--learning-rate 5e-4] [--set section.key=value ...]

BERT's pre-training continues from the experiment's sentence encoder, on its unlabeled documents (selftrain/models/masked_pretraining.py), and the loss on documents
that were held out is printed. The same command continues one that was stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from selftrain.cli.common import Parser, in_flags
from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.errors import ConfigError, SelfTrainError, sentence
from selftrain.models.locate import BILSTM, IMAGE_ENCODERS, encoder_folder
from selftrain.models.masked_pretraining import pretrain


def main(given: Sequence[str]) -> int:
    """Train the model; exit code 2 for what a user can fix."""
    parser = Parser(description="A masked language model from a sentence encoder and unlabeled documents, for iPET and LOTClass.")
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="its data, encoder, max_tokens and first seed are used")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, for model.masked_lm")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the documents (default: 1)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="highest of AdamW (default: 5e-4)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.set_defaults(parser=parser, sets={})
    options = argparse.Namespace()
    try:
        parser.parse_args(given, options)
        experiment = load(options.experiment, options.overrides)
        model = experiment.model
        if model.encoder in (BILSTM, *IMAGE_ENCODERS):
            raise ConfigError(f"model.encoder must be a pre-trained text encoder to start from (got {model.encoder}).")
        corpus, _ = load_corpus(experiment.data)
        if experiment.training.threads is not None:
            torch.set_num_threads(experiment.training.threads)
        loss = pretrain(
            encoder_folder(model.encoder),
            corpus.unlabeled.contents,
            Path(options.to),
            epochs=options.epochs,
            max_tokens=model.max_tokens,
            learning_rate=options.learning_rate,
            seed=experiment.seeds[0],
        )
    except SelfTrainError as error:
        print(f"masked_lm: {sentence(in_flags(error, options))}", file=sys.stderr)
        return 2
    print(f"{options.to}: cross-entropy of a masked word {loss:.3f} nats (perplexity {math.exp(loss):.0f}), on documents held out")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
