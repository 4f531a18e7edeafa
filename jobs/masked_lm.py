"""A masked language model for the methods that start from one (iPET, LOTClass), where no model hub is within reach.

    python jobs/masked_lm.py EXPERIMENT.yaml --to FOLDER [--epochs 1] [--learning-rate 5e-4] [--set section.key=value ...]

BERT's pre-training (Devlin et al. 2019, section 3.1, without the second task) continues from the experiment's sentence encoder, on its unlabeled documents: 15 % of
the words of each are chosen, 80 % of these are hidden behind [MASK], 10 % become another word and 10 % stay, and the model says what was there. The
output layer is new but for the word embeddings, which it shares with the body. The loss on documents that were kept aside is printed. The same command takes up
a run that was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.errors import ConfigError, DataError, MissingExtraError, OutputError, SelfTrainError
from selftrain.files.durable import replacing_folder
from selftrain.models.locate import BILSTM, IMAGE_ENCODERS, encoder_folder, fingerprint
from selftrain.models.masked import logits_at

BATCH = 32
KEPT_ASIDE = 500  # documents that the loss is measured on; a tenth of all where these are fewer
CHECKPOINT_STEPS = 100
IGNORED = -100  # the collator's label of a word that was not chosen


class MaskedPlaces(Trainer):
    """A trainer that asks the output layer about the chosen words alone."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Mean cross-entropy of the words chosen in the batch, in nats."""
        labels = inputs.pop("labels")
        chosen = labels != IGNORED
        logits = logits_at(model, inputs, chosen)
        loss = F.cross_entropy(logits, labels[chosen], reduction="sum") / chosen.sum().clamp(min=1)  # a batch of short texts may have none
        return (loss, {}) if return_outputs else loss


def pretrain(source: Path | str, texts: Sequence[str], to: Path, *, epochs: float, max_tokens: int, learning_rate: float, seed: int) -> float:
    """Train a masked language model from `source` on `texts` and save it with its tokenizer as the folder `to`, complete or not at all.

    Checkpoints lie beside `to` until it is made, under a name that follows from all that they depend on.

    Args:
        source: folder or hub name of the model that it starts from.
        texts: documents, at least 20.
        to: a folder that is not there yet.
        epochs: passes over the documents.
        max_tokens: at which documents are cut.
        learning_rate: the highest one of AdamW, after a warm-up of 6 % and before a linear decay to 0.
        seed: of the new weights, of what is kept aside, of the order and of the masks.

    Returns:
        The mean cross-entropy of the masked words in the documents kept aside, in nats.

    Raises:
        OutputError: `to` exists.
        DataError: there are too few documents.
        ConfigError: the model is of another kind.
        MissingExtraError: a package is missing.
    """
    if to.exists():
        raise OutputError(f"to must be a folder that does not exist yet (got {str(to)!r}); pass another one, or move this one away.", parameter="to")
    if len(texts) < 20:
        raise DataError(
            f"texts must hold at least 20 documents, and better thousands, to learn a language from (got {len(texts)}).", parameter="texts"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("The trainer of transformers needs the package accelerate; install the demo extra (pip install 'selftrain[demo]').")
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.mask_token is None:
        raise ConfigError(f"model.encoder {str(source)!r} has no mask in its vocabulary; set an encoder of BERT's kind.")
    settings = json.dumps([fingerprint(source), list(texts), epochs, max_tokens, learning_rate, seed])
    work = to.with_name(f"{to.name}.{hashlib.sha256(settings.encode()).hexdigest()[:8]}.partial")
    set_seed(seed)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of the output layer are missing on purpose
    try:
        model = AutoModelForMaskedLM.from_pretrained(source)
    except ValueError as error:
        raise ConfigError(f"model.encoder {str(source)!r} is not a masked language model ({str(error).splitlines()[0][:120]}).") from None
    finally:
        logging.set_verbosity(verbosity)
    rows = [{"input_ids": row} for row in tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]]
    order = np.random.default_rng(seed).permutation(len(rows))
    aside = min(KEPT_ASIDE, len(rows) // 10)
    trainer = MaskedPlaces(
        model=model,
        args=TrainingArguments(
            output_dir=str(work),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            prediction_loss_only=True,
            train_sampling_strategy="group_by_length",
            learning_rate=learning_rate,
            weight_decay=0.01,
            warmup_steps=0.06,
            save_steps=CHECKPOINT_STEPS,
            save_total_limit=1,
            logging_steps=CHECKPOINT_STEPS,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            seed=seed,
        ),
        train_dataset=[rows[place] for place in order[aside:]],
        eval_dataset=[rows[place] for place in order[:aside]],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    torch.manual_seed(seed)  # the same masks, whatever was drawn before
    loss = float(trainer.evaluate()["eval_loss"])
    with replacing_folder(to) as made:
        trainer.save_model(str(made))
        tokenizer.save_pretrained(made)
    shutil.rmtree(work, ignore_errors=True)  # there is none of a training shorter than a checkpoint
    return loss


def main(given: Sequence[str]) -> int:
    """Make the model; exit code 2 for what a user can fix."""
    parser = argparse.ArgumentParser(description="A masked language model from a sentence encoder and unlabeled documents, for iPET and LOTClass.")
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="its data, encoder, max_tokens and first seed are taken")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="made; model.masked_lm takes it")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the documents (default: 1)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="highest of AdamW (default: 5e-4)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args(given)
    try:
        experiment = load(options.experiment, options.overrides)
        model = experiment.model
        if model.encoder in (BILSTM, *IMAGE_ENCODERS):
            raise ConfigError(f"model.encoder must be a pre-trained text encoder to start from (got {model.encoder}).")
        if options.epochs <= 0 or options.learning_rate <= 0:
            raise ConfigError("--epochs and --learning-rate must be above 0.")
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
        print(f"masked_lm: {error}", file=sys.stderr)
        return 2
    print(f"{options.to}: cross-entropy of a masked word {loss:.3f} nats (perplexity {np.exp(loss):.0f}), on documents kept aside")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
