"""A sentence encoder that embeds as a model's own pooler does: the first token's state, a dense layer and tanh. SimCSE's authors and GenCo's embed so.

    python jobs/pooler.py princeton-nlp/sup-simcse-roberta-base --to sup-simcse-roberta-base-pooler

sentence-transformers takes the mean of the token states of a model that does not say otherwise. The folder is for `model.encoder`, and holds the modules
Transformer, Pooling (cls) and Dense, which a bundle holds too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from selftrain.cli.common import Parser, in_flags
from selftrain.errors import BundleError, ConfigError, SelfTrainError, sentence
from selftrain.files.durable import replacing_folder


def main(given: Sequence[str]) -> int:
    """Write the folder; exit code 2 for what a user can fix."""
    parser = Parser(description="A sentence encoder that embeds by its model's own pooler.")
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of a BERT or RoBERTa that was trained with its pooler")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, for model.encoder")
    parser.set_defaults(parser=parser, sets={})
    options = argparse.Namespace()
    try:
        parser.parse_args(given, options)
        if Path(options.to).exists():
            raise ConfigError(f"to must be a new folder (got {options.to!r}, which is there).", parameter="to")
        write(options.model, Path(options.to))
    except SelfTrainError as error:
        print(f"pooler: {sentence(in_flags(error, options))}", file=sys.stderr)
        return 2
    print(f"{options.to}: set model.encoder to it")
    return 0


def write(source: str, folder: Path) -> None:
    """The encoder of `source` with its pooler, as a folder of sentence-transformers.

    Args:
        source: folder or hub name.
        folder: is made.

    Raises:
        BundleError: the model cannot be opened, or its file has no weights of a pooler.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import AutoModel

    try:
        model, loading = AutoModel.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
        body = Transformer(source)
    except (OSError, ValueError) as error:
        raise BundleError(f"model: {source!r} does not open as a transformer ({str(error).splitlines()[0][:120]}); set another.") from None
    layer = getattr(getattr(model, "pooler", None), "dense", None)
    # transformers fills missing weights with random ones.
    if layer is None or any(key.startswith("pooler.") for key in loading["missing_keys"]):
        raise BundleError(f"model: {source!r} has no weights of a pooler; set a model that was saved with one.")
    dense = Dense(layer.in_features, layer.out_features, activation_function=torch.nn.Tanh())
    dense.linear.load_state_dict(layer.state_dict())
    encoder = SentenceTransformer(modules=[body, Pooling(layer.in_features, "cls"), dense], device="cpu")
    with replacing_folder(folder) as made:
        encoder.save(str(made))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
