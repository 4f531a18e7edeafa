"""A masked language model: its body is the encoder that is trained and served, its head says which words fit at a place.

Two methods start from one instead of a sentence encoder (iPET, LOTClass). `model.masked_lm` names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from selftrain.config import ModelConfig
from selftrain.errors import BundleError, ConfigError
from selftrain.models.encoder import TextEncoder
from selftrain.models.locate import masked_lm_folder
from selftrain.models.precision import Precision, resolve_precision

INFERENCE_TEXTS = 16  # at once where a probability of every word at every token is made: 16 texts of 64 tokens take 125 MB


def check_masked(config: ModelConfig) -> None:
    """Check, without loading anything, that a method with a masked language model can use `config`.

    Raises:
        ConfigError: no model is set or found, or a head is to be trained.
        BundleError: the folder is not a model.
    """
    if config.masked_lm is None:
        raise ConfigError(
            "model.masked_lm is not set, and the method needs a masked language model; set one (model.masked_lm: bert-base-uncased, or its folder).",
            parameter="model.masked_lm",
        )
    if config.train != "full":
        raise ConfigError(
            f"model.train must be 'full', since the method trains the whole masked language model (got {config.train!r}); a variant may set its own.",
            parameter="model.train",
        )
    masked_lm_folder(config.masked_lm)


class MaskedEncoder(TextEncoder):
    """f(x) = tanh(W h_1 + b), h_1 the state of the first token: the embedding that BERT's classifiers stand on. W and b are new, all of it is trained.

    The body is trained in a copy of its own; `language_model` stays what it was before training.

    Args:
        source: folder or hub name with a masked language model.
        device: where it computes.
        max_tokens, batch_size, precision, windows: as in `TextEncoder`. Embeddings keep their length; the language model reads a document's beginning.

    Raises:
        BundleError: the model has no masked language model's head.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        max_tokens: int = 64,
        batch_size: int = 64,
        precision: Precision = "float32",
        windows: int = 1,
    ) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
        from transformers import AutoModelForMaskedLM
        from transformers.utils import logging

        # Each half reports the weights of the other as left over.
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model, loading = AutoModelForMaskedLM.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
            body = Transformer(source)
        except ValueError as error:
            raise BundleError(f"model.masked_lm: {source!r} does not open as a masked language model ({str(error).splitlines()[0][:120]}).") from None
        finally:
            logging.set_verbosity(verbosity)
        # The output layer is the word embeddings again in most models, and then not stored twice.
        if missing := sorted(key for key in loading["missing_keys"] if ".decoder." not in key):
            raise BundleError(
                f"model.masked_lm: {source!r} has no masked language model's head ({missing[0]} and {len(missing) - 1} more weights are missing); use a "
                "model that was saved with one, such as bert-base-uncased."
            )
        size = int(body.get_embedding_dimension())
        backbone = SentenceTransformer(modules=[body, Pooling(size, "cls"), Dense(size, size)], device=device)
        resolved = resolve_precision(precision, device)
        super().__init__(backbone, max_tokens=max_tokens, batch_size=batch_size, normalize=False, precision=resolved, windows=windows)
        # In a tuple, so that torch does not count it among what is trained and saved.
        self._language_model = (model.to(device).eval(),)
        self.dropout = float(getattr(model.config, "hidden_dropout_prob", 0.1))

    @property
    def language_model(self) -> Any:
        """The masked language model as it was before training (transformers)."""
        return self._language_model[0]

    @property
    def tokenizer(self) -> Any:
        """Of body and language model (transformers)."""
        return self.backbone.tokenizer

    def word_token(self, word: str) -> int | None:
        """The token that `word` is inside a text; None where it is more than one, or none that the vocabulary knows."""
        tokens = self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        return int(tokens[0]) if len(tokens) == 1 and tokens[0] != self.tokenizer.unk_token_id else None

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with the special ones, cut at `max_tokens`."""
        return self._tokens.ids(self.tokenizer, texts, min(self.max_tokens, self.longest))

    def batch(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Padded `input_ids` and `attention_mask`, `[texts, tokens]`."""
        longest = max(len(row) for row in rows)
        padding = int(self.tokenizer.pad_token_id)
        ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    def words(self, model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits of every word at every token by `model` (this one, or a copy in training), `[texts, tokens, vocabulary]`."""
        with self.autocast():
            logits: torch.Tensor = model(**self.batch(rows)).logits
        return logits.float()

    def words_at(self, model: Any, rows: Sequence[Sequence[int]], places: torch.Tensor) -> torch.Tensor:
        """As `words`, at the tokens where `places` is true, in their order, `[places, vocabulary]`.

        Args:
            model: this one's language model, or a copy in training.
            rows: token ids of each text.
            places: truth values, `[texts, tokens of the longest]`.
        """
        with self.autocast():
            return logits_at(model, self.batch(rows), places.to(self.device)).float()

    def classify_tokens(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """tanh(W h_t + b) of every token t, `[texts, tokens, dimensions]`, with gradient; the first token's is the text's embedding."""
        body, _, dense = self.backbone
        with self.autocast():
            states = body({**self.batch(rows), "modality": "text"})["token_embeddings"]
            found: torch.Tensor = dense.activation_function(dense.linear(states))
        return found.float()

    def autocast(self) -> torch.autocast:
        """Matrix products in the precision of the training."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def logits_at(model: Any, inputs: Mapping[str, torch.Tensor], places: torch.Tensor) -> torch.Tensor:
    """Logits of every word at some tokens alone, `[places, vocabulary]`: the output layer of a small model costs as much as all the layers below it.

    Args:
        model: a masked language model (transformers).
        inputs: what it takes, `[texts, tokens]`.
        places: truth values, `[texts, tokens]`.
    """

    def keep(_module: Any, _inputs: Any, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"][places].unsqueeze(0)
        return output

    handle = model.base_model.register_forward_hook(keep)
    try:
        logits: torch.Tensor = model(**inputs).logits[0]
    finally:
        handle.remove()
    return logits


def open_masked(config: ModelConfig, *, device: str = "cpu", precision: Precision = "float32") -> MaskedEncoder:
    """The masked language model that `config` names.

    Raises:
        ConfigError: none is set, or it is not found.
        BundleError: it has no masked language model's head.
    """
    check_masked(config)
    source = masked_lm_folder(str(config.masked_lm))
    return MaskedEncoder(
        str(source), device=device, max_tokens=config.max_tokens, batch_size=config.batch_size, precision=precision, windows=config.windows
    )
