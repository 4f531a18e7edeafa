"""Bundles from strangers: a good one, changed in one place; see tests/hostile.py."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hostile import MB, Case


def _changed(change: Callable[[Path], object]) -> Callable[[], None]:
    def make() -> None:
        shutil.copytree("bundle", "hostile")
        change(Path("hostile"))

    return make


def _edited(file: str, change: Callable[[dict], object], *, hashes: bool = False) -> Callable[[], None]:
    """A bundle in which a JSON file is another one, and the card knows its hash or none."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        result = change(document)
        (folder / file).write_text(json.dumps(document if result is None or not isinstance(result, (dict, list)) else result))
        if not hashes:
            _unlisted(folder)

    return _changed(edit)


def _unlisted(folder: Path) -> None:
    card = json.loads((folder / "selftrain.json").read_text())
    card.pop("files", None)
    (folder / "selftrain.json").write_text(json.dumps(card))


def _raw(file: str, content: bytes | str) -> Callable[[], None]:
    def edit(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        if file != "selftrain.json":
            _unlisted(folder)

    return _changed(edit)


def _tensors(file: str, change: Callable[[dict], object]) -> Callable[[], None]:
    def edit(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = dict(load_file(folder / file))
        change(tensors)
        save_file(tensors, folder / file)
        _unlisted(folder)

    return _changed(edit)


def _header(claims: int, text: str = "{}") -> bytes:
    return struct.pack("<Q", claims) + text.encode()


def _type(kind: object) -> Callable[[], None]:
    return _edited("modules.json", lambda modules: modules[0].update(type=kind))


class _Runs:
    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


def _pickled() -> bytes:
    import pickle

    return pickle.dumps(_Runs())


def bundles() -> Iterator[Case]:
    import selftrain.bundle.checking as checking

    transformer = "sentence_transformers.base.modules.transformer.Transformer"
    first = "embeddings.word_embeddings.weight"
    changes: dict[str, Callable[[], None]] = {
        **{
            f"module type {kind}": _type(kind)
            for kind in (
                "pickle",
                "os",
                "os.system",
                "subprocess.Popen",
                "builtins.eval",
                "sentence_transformers.SentenceTransformer",
                "sentence_transformers.util.import_from_string",
                "hostile.Module",
                "",
                "x" * 10_000,
            )
        },
        "module type is a number": _type(5),
        "module type is a list": _type([transformer]),
        "modules.json is an object": _raw("modules.json", "{}"),
        "modules.json is empty": _raw("modules.json", "[]"),
        "modules.json, 5,000 deep": _raw("modules.json", "[" * 5000),
        "modules.json of a thousand modules": _edited("modules.json", lambda modules: modules * 400),
        "modules.json with a path outside": _edited("modules.json", lambda modules: modules[1].update(path="../bundle/1_Pooling")),
        "modules.json with an absolute path": _edited("modules.json", lambda modules: modules[1].update(path="/etc")),
        "modules.json with arguments": _edited("modules.json", lambda modules: modules[0].update(kwargs=["task"])),
        "modules.json without a type": _edited("modules.json", lambda modules: modules[0].pop("type")),
        "modules.json missing": _changed(lambda folder: (folder / "modules.json").unlink()),
        "a pickle": _raw("model.pkl", _pickled()),
        "pytorch_model.bin": _raw("pytorch_model.bin", _pickled()),
        "a .bin beside a module": _raw("1_Pooling/pytorch_model.bin", _pickled()),
        "a Python file": _raw("hostile.py", "import os; os.system('touch owned')"),
        "adapter_config.json": _raw("adapter_config.json", '{"base_model_name_or_path": "x/y"}'),
        "a folder more": _changed(lambda folder: ((folder / "__pycache__").mkdir(), _unlisted(folder))),
        "a link to /etc/passwd": _changed(lambda folder: (os.symlink("/etc/passwd", folder / "vocab.txt"), _unlisted(folder))),
        "a link to a folder": _changed(lambda folder: (os.symlink("/etc", folder / "3_Dense"), _unlisted(folder))),
        "auto_map in config.json": _edited("config.json", lambda config: config.update(auto_map={"AutoModel": "hostile.Model"})),
        "auto_map in tokenizer_config.json": _edited(
            "tokenizer_config.json", lambda config: config.update(auto_map={"AutoTokenizer": ["hostile.T", None]})
        ),
        "trust_remote_code": _edited("sentence_bert_config.json", lambda config: config.update(model_args={"trust_remote_code": True})),
        "attention from a hub": _edited("config.json", lambda config: config.update(_attn_implementation="someone/kernel")),
        "quantization": _edited("config.json", lambda config: config.update(quantization_config={"quant_method": "bitsandbytes"})),
        "a tokenizer file elsewhere": _edited("tokenizer_config.json", lambda config: config.update(vocab_file="/etc/passwd")),
        "another method of the encoder": _edited(
            "sentence_bert_config.json", lambda config: config["modality_config"]["text"].update(method="save_pretrained")
        ),
        "another task": _edited("sentence_bert_config.json", lambda config: config.update(transformer_task="text-generation")),
        "another kind of model": _edited("config_sentence_transformers.json", lambda config: config.update(model_type="CrossEncoder")),
        "arguments of the model": _edited("sentence_bert_config.json", lambda config: config.update(model_kwargs={"adapter_kwargs": {}})),
        "a type of transformer that there is not": _edited("config.json", lambda config: config.update(model_type="evil")),
        "a type that is a number": _edited("config.json", lambda config: config.update(model_type=5)),
        "a billion hidden units": _edited("config.json", lambda config: config.update(hidden_size=10**9, num_attention_heads=10)),
        "a billion tokens": _edited("config.json", lambda config: config.update(vocab_size=10**9)),
        "a million layers": _edited("config.json", lambda config: config.update(num_hidden_layers=10**6)),
        "a thousand layers without weights": _edited("config.json", lambda config: config.update(num_hidden_layers=1000)),
        "a hidden size of text": _edited("config.json", lambda config: config.update(hidden_size="x")),
        "no attention heads": _edited("config.json", lambda config: config.update(num_attention_heads=0)),
        "an activation that there is not": _edited("config.json", lambda config: config.update(hidden_act="os.system")),
        "config.json of 5,000 digits": _raw("config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
        "header of 2^63 bytes": _raw("model.safetensors", _header(1 << 63)),
        "header of 1 GB": _raw("model.safetensors", _header(1 << 30)),
        "header cut": _raw("model.safetensors", b"\x05"),
        "header that is no JSON": _raw("model.safetensors", _header(8, "xxxxxxxx")),
        "header, 5,000 deep": _raw("model.safetensors", _header(5000, "[" * 5000)),
        "a tensor of 2^60 numbers": _raw(
            "model.safetensors", _header(81, '{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}         ')
        ),
        "a tensor of negative shape": _raw("model.safetensors", _header(58, '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}   ')),
        "a tensor of an unknown type": _raw(
            "model.safetensors", _header(60, '{"a":{"dtype":"OBJ","shape":[1],"data_offsets":[0,4]}}      ') + b"abcd"
        ),
        "weights cut": _changed(lambda folder: (os.truncate(folder / "model.safetensors", 40_000), _unlisted(folder))),
        "weights with a tail": _changed(lambda folder: ((folder / "model.safetensors").open("ab").write(b"x" * 1000), _unlisted(folder))),
        "weights missing": _changed(lambda folder: ((folder / "model.safetensors").unlink(), _unlisted(folder))),
        "weights that are no numbers": _tensors("model.safetensors", lambda tensors: tensors[first].fill(np.nan)),
        "infinite weights": _tensors("model.safetensors", lambda tensors: tensors[first].__setitem__((3, 3), np.inf)),
        "weights of another shape": _tensors("model.safetensors", lambda tensors: tensors.update({first: np.zeros((7, 32), np.float32)})),
        "prototypes that are no numbers": _tensors("prototypes.safetensors", lambda tensors: tensors["prototypes"].fill(np.nan)),
        "prototypes of other dimensions": _tensors("prototypes.safetensors", lambda tensors: tensors.update(prototypes=np.ones((2, 48), np.float32))),
        "prototypes of whole numbers": _tensors("prototypes.safetensors", lambda tensors: tensors.update(prototypes=np.ones((2, 32), np.int64))),
        "prototypes of three classes": _tensors("prototypes.safetensors", lambda tensors: tensors.update(prototypes=np.ones((3, 32), np.float32))),
        "an infinite bias": _tensors("prototypes.safetensors", lambda tensors: tensors.update(bias=np.full(2, np.inf, np.float32))),
        "prototypes missing": _changed(lambda folder: (folder / "prototypes.safetensors").unlink()),
        "prototypes without a name": _tensors("prototypes.safetensors", lambda tensors: tensors.update(x=tensors.pop("prototypes"))),
        "card, 5,000 deep": _raw("selftrain.json", "[" * 5000),
        "card with 5,000 digits": _raw("selftrain.json", '{"format": ' + "9" * 5000 + "}"),
        "card with an infinite scale": _edited("selftrain.json", lambda card: card.update(scale=float("inf"))),
        "card with a scale that is no number": _edited("selftrain.json", lambda card: card.update(scale=float("nan"))),
        "card of another format": _edited("selftrain.json", lambda card: card.update(format=99)),
        "card without labels": _edited("selftrain.json", lambda card: card.update(labels=[])),
        "card with three labels": _edited("selftrain.json", lambda card: card.update(labels=["a", "b", "c"])),
        "card that reads 10^18 tokens": _edited("selftrain.json", lambda card: card.update(max_tokens=10**18)),
        "card with a key twice": _raw("selftrain.json", '{"name": "a", "name": "b"}'),
        "card not UTF-8": _raw("selftrain.json", b'{"name": "caf\xe9"}'),
        "card of half a surrogate pair": _edited("selftrain.json", lambda card: card.update(labels=["\ud800", "b"])),
        "a card of 20 MB": _raw("selftrain.json", '{"name": "' + "x" * (20 * MB) + '"}'),
        "a folder where the card belongs": _changed(lambda folder: ((folder / "selftrain.json").unlink(), (folder / "selftrain.json").mkdir())),
        "a file that the card does not list": _changed(lambda folder: (folder / "vocab.txt").write_text("a")),
        "a file of another hash": _changed(lambda folder: (folder / "tokenizer.json").write_text("{}")),
        "a file lost": _changed(lambda folder: (folder / "tokenizer_config.json").unlink()),
        "tokenizer.json of another token": _edited("tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update(zzz=10**9)),
        "tokenizer.json, 5,000 deep": _raw("tokenizer.json", '{"a":' * 5000),
        "tokenizer.json empty": _raw("tokenizer.json", "{}"),
        "tokenizer.json of 70 MB": _raw("tokenizer.json", "x" * (70 * MB)),
        "special tokens beyond the vocabulary": _edited("tokenizer.json", lambda tokenizer: tokenizer["post_processor"].update(sep=["[SEP]", 10**6])),
        "backend.json, 5,000 deep": _raw("backend.json", "[" * 5000),
        "backend.json empty": _raw("backend.json", "{}"),
        "onnx with another file": _changed(lambda folder: ((folder / "onnx").mkdir(), (folder / "onnx" / "x.so").write_bytes(b"x"))),
        "pooling of another way": _edited("1_Pooling/config.json", lambda config: config.update(pooling_mode="evil")),
    }
    assert checking.MODULES[transformer] == "Transformer"
    quick = {
        "module type pickle",
        "pytorch_model.bin",
        "auto_map in config.json",
        "header of 2^63 bytes",
        "weights that are no numbers",
        "prototypes of other dimensions",
        "card, 5,000 deep",
        "a file of another hash",
        "tokenizer.json of another token",
        "a million layers",
        "card with an infinite scale",
    }
    for name, make in changes.items():
        # transformers makes the post-processor of a tokenizer anew from its settings, so what stands in the file is not used.
        code = 0 if name == "special tokens beyond the vocabulary" else 2
        yield Case("bundle", name, ["predict", "--bundle", "hostile", "a text"], make, code, quick=name in quick)
