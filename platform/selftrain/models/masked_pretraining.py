"""BERT's pre-training (Devlin et al. 2019, arXiv:1810.04805, section 3.1, without the second task), continued from a sentence encoder on unlabeled documents.

15 % of the words of each document are chosen, 80 % of these are hidden behind [MASK], 10 % become another word and 10 % stay, and the model says what was there.
The output layer is new but for the word embeddings, which it shares with the body. iPET and LOTClass start from the result (`model.masked_lm`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from selftrain.errors import ConfigError, DataError, MissingExtraError, OutputError
from selftrain.files.durable import replacing_folder
from selftrain.models.locate import fingerprint
from selftrain.models.masked import logits_at

BATCH = 32
HELD_OUT = 500  # documents that the loss is measured on; a tenth of all where these are fewer
CHECKPOINT_STEPS = 100
IGNORED = -100  # the collator's label of a word that was not chosen


class MaskedWordTrainer(Trainer):
    """A trainer that computes the output layer at the chosen words alone."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Mean cross-entropy of the words chosen in the batch, in nats."""
        labels = inputs.pop("labels")
        chosen = labels != IGNORED
        logits = logits_at(model, inputs, chosen)
        loss = F.cross_entropy(logits, labels[chosen], reduction="sum") / chosen.sum().clamp(min=1)  # a batch of short texts may have none
        return (loss, {}) if return_outputs else loss


def pretrain(source: Path | str, texts: Sequence[str], to: Path, *, epochs: float, max_tokens: int, learning_rate: float, seed: int) -> float:
    """Train a masked language model from `source` on `texts` and save it with its tokenizer as the folder `to`, complete or not at all.

    Checkpoints lie beside `to` until it is complete, in a folder whose name is a hash of all that they depend on: the same call continues a training that was
    stopped.

    Args:
        source: folder or hub name of the model that it starts from.
        texts: documents, at least 20.
        to: a folder that does not exist yet.
        epochs: passes over the documents.
        max_tokens: documents are cut there.
        learning_rate: the highest one of AdamW, after a warm-up of 6 % and before a linear decay to 0.
        seed: of the new weights, the documents held out, the order and the masks.

    Returns:
        The mean cross-entropy of the masked words in the documents held out, in nats.

    Raises:
        OutputError: `to` exists.
        DataError: there are too few documents.
        ConfigError: `source` is not a model of BERT's kind, or a number is out of range.
        MissingExtraError: a package is missing.
    """
    _check(texts, to, epochs=epochs, learning_rate=learning_rate)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.mask_token is None:
        raise ConfigError(f"model.encoder {str(source)!r} has no mask in its vocabulary; set an encoder of BERT's kind.")
    settings = json.dumps([fingerprint(source), list(texts), epochs, max_tokens, learning_rate, seed])
    work = to.with_name(f"{to.name}.{hashlib.sha256(settings.encode()).hexdigest()[:8]}.partial")
    set_seed(seed)
    model = _open_model(source)
    rows = [{"input_ids": row} for row in tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]]
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = min(HELD_OUT, len(rows) // 10)
    trainer = MaskedWordTrainer(
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
        train_dataset=[rows[index] for index in order[held_out:]],
        eval_dataset=[rows[index] for index in order[:held_out]],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    torch.manual_seed(seed)  # the same masks, whatever was drawn before
    loss = float(trainer.evaluate()["eval_loss"])
    with replacing_folder(to) as made:
        trainer.save_model(str(made))
        tokenizer.save_pretrained(made)
    shutil.rmtree(work, ignore_errors=True)  # a training shorter than a checkpoint has none
    return loss


def _check(texts: Sequence[str], to: Path, *, epochs: float, learning_rate: float) -> None:
    if to.exists():
        raise OutputError(f"to must be a folder that does not exist yet (got {str(to)!r}); pass another one, or move this one away.", parameter="to")
    if len(texts) < 20:
        raise DataError(
            f"texts must hold at least 20 documents, and better thousands, to learn a language from (got {len(texts)}).", parameter="texts"
        )
    for name, value in (("epochs", epochs), ("learning_rate", learning_rate)):
        if value <= 0:
            raise ConfigError(f"{name} must be above 0 (got {value:g}).", parameter=name)
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("The trainer of transformers needs the package accelerate; install the demo extra (pip install 'selftrain[demo]').")


def _open_model(source: Path | str) -> Any:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of the output layer are missing on purpose
    try:
        return AutoModelForMaskedLM.from_pretrained(source)
    except ValueError as error:
        raise ConfigError(f"model.encoder {str(source)!r} is not a masked language model ({str(error).splitlines()[0][:120]}).") from None
    finally:
        logging.set_verbosity(verbosity)
