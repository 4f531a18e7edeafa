"""The backends that compute a bundle's probabilities: PyTorch (pytorch.py), or ONNX Runtime or OpenVINO with the graph that `selftrain export` adds to the bundle.

    onnx/model.onnx        the whole classifier in float32: token ids and mask -> probabilities; batch and length are free
    onnx/model_int8.onnx   the same with weights in 8 bits, activations quantised on the fly
    onnx/tokenizer.json    the tokenizer, cut at the bundle's length
    backend.json           `BackendRecord`: the backend that was fastest, on which machine, and what was measured

A graph carries its own weights, so a bundle that is opened with one imports neither PyTorch nor transformers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from selftrain.errors import BundleError, ConfigError, MissingExtraError, nearest
from selftrain.files.durable import write_whole
from selftrain.files.parsing import json_of

BACKENDS = ("torch", "onnx", "onnx-int8", "openvino")
FOLDER, RECORD, TOKENIZER = "onnx", "backend.json", "tokenizer.json"
GRAPHS = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx", "openvino": "model.onnx"}  # in FOLDER
PACKAGES = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "openvino": "openvino"}
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "probabilities"
_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)  # that decide the speed of 8-bit and float products


class Backend(Protocol):
    """Computes a classifier's probabilities."""

    name: str
    pads: bool  # whether it computes the padding of a batch too
    on_cpu: bool

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Probabilities `[texts, classes]` in float64, each row of sum 1, from ids and mask, both `[texts, tokens]` in int64."""
        ...

    def embedded(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, and the embeddings that they are computed from, `[texts, dimensions]`; None from a graph, which does not give them."""
        ...


class OnnxBackend:
    """A graph by ONNX Runtime, on the CPU.

    Args:
        file: the graph.
        name: `onnx` or `onnx-int8`.
        threads: cores that it may use.
    """

    pads = on_cpu = True

    def __init__(self, file: Path, name: str, threads: int) -> None:
        import onnxruntime

        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        return _sum_to_one(self._session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))[0])

    def embedded(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Backend`."""
        return self(ids, mask), None


class OpenVinoBackend:
    """The float32 graph by OpenVINO, on the CPU.

    Args:
        file: the graph.
        threads: cores that it may use.
    """

    name = "openvino"
    pads = on_cpu = True

    def __init__(self, file: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        # By default OpenVINO computes in bfloat16 where the processor can, and then it is not the graph that was checked.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._request = core.compile_model(core.read_model(str(file)), "CPU", options).create_infer_request()
        self._one_at_a_time = threading.Lock()

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Backend`."""
        with self._one_at_a_time:
            return _sum_to_one(self._request.infer(dict(zip(INPUTS, (ids, mask), strict=True)))[OUTPUT])

    def embedded(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Backend`."""
        return self(ids, mask), None


def _sum_to_one(probabilities: np.ndarray) -> np.ndarray:
    """Rows of float32 as rows of float64 that sum to 1."""
    rows: np.ndarray = probabilities.astype(np.float64)
    return rows / rows.sum(axis=1, keepdims=True)


class Machine(BaseModel, frozen=True):
    """The kind of machine that speed was measured on; another kind may have another fastest backend, and rounds 8-bit products differently."""

    architecture: str
    cpu: str = Field(description="the processor's name")
    instructions: tuple[str, ...] = Field(default=(), description="of those that decide the speed of matrix products")


class Measured(BaseModel, frozen=True):
    """One backend on one machine."""

    backend: str
    one: float = Field(description="texts a second, one text a call (median of the rounds)")
    many: float = Field(description="texts a second, 32 texts a call (median of the rounds)")
    size_mb: float = Field(description="megabytes of its weights")
    difference: float = Field(description="largest difference of a probability from PyTorch's, on the documents")


class Int8Cost(BaseModel, frozen=True):
    """What 8 bits cost on the documents."""

    figure: Literal["accuracy", "agreement"] = Field(
        description="accuracy against the labels, or agreement with the float32 graph where there are none"
    )
    before: float
    after: float
    limit: float = Field(description="largest loss that was allowed")
    documents: int

    @property
    def refused(self) -> bool:
        """Whether the loss is beyond the limit."""
        return self.before - self.after > self.limit

    def sentence(self) -> str:
        """The cost in words."""
        words = f"{self.figure} {self.after:.4f} after against {self.before:.4f} before on {self.documents:,} documents"
        beyond = f"a loss beyond the limit of {self.limit:g}"
        return f"int8 is refused: {words}, {beyond}." if self.refused else f"int8: {words}."


class BackendRecord(BaseModel, frozen=True):
    """backend.json."""

    format: Literal[1] = 1
    chosen: Literal["torch", "onnx", "onnx-int8", "openvino"]
    machine: Machine
    threads: int = Field(description="threads of the measurement")
    measured: tuple[Measured, ...]
    tolerance: float = Field(description="largest difference of a probability between a float32 graph and PyTorch that was allowed")
    documents: str = Field(description="which documents it was checked and measured on")
    int8: Int8Cost | None = None
    files: dict[str, str] = Field(description="SHA-256 of each file in onnx/")
    versions: dict[str, str] = Field(default_factory=dict)
    created: str


def this_machine() -> Machine:
    """The kind of this machine."""
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass  # not Linux: Python's own name has to do
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return Machine(
        architecture=platform.machine(),
        cpu=facts.get("model name") or platform.processor() or "unknown",
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_record(folder: Path) -> BackendRecord | None:
    """backend.json of a bundle; None where there is none.

    Raises:
        BundleError: it is damaged, or of a newer format.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        return BackendRecord.model_validate(json_of(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BundleError(f"{file} is damaged or of a newer selftrain ({reason}); run selftrain export again, or delete it to use PyTorch.") from None


def prefer(folder: Path, name: str) -> None:
    """Have a bundle be opened with the backend `name`, one of those that its backend.json has measured, on machines of that kind."""
    record = read_record(folder)
    if record is None or name not in {one.backend for one in record.measured}:
        raise ValueError(f"{folder} has no measured backend {name}")
    if record.chosen != name:
        write_whole(folder / RECORD, BackendRecord.model_validate({**record.model_dump(), "chosen": name}).model_dump_json(indent=2) + "\n")


def check_name(name: str, parameter: str) -> None:
    """Raise a `ConfigError` unless `name`, a value of the caller's `parameter`, is a backend."""
    if name not in BACKENDS:
        raise ConfigError(f"{parameter} {name!r} is not one; {nearest(name, BACKENDS)} (all: {', '.join(BACKENDS)}).", parameter=parameter)


def require_packages(*packages: str) -> None:
    """Raise a `MissingExtraError` for the first of `packages` that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"The package {package} is not installed; pip install 'selftrain[export]'.")


@dataclass(frozen=True)
class Choice:
    """The backend to open a bundle with; `why` is set where it is not the recorded one."""

    name: str
    why: str | None = None


def choose(record: BackendRecord | None) -> Choice:
    """The recorded backend where its package is installed and the machine is of the same kind, else PyTorch."""
    if record is None or record.chosen == "torch":
        return Choice("torch")
    if importlib.util.find_spec(package := PACKAGES[record.chosen]) is None:
        return Choice("torch", f"the package {package} is not installed (pip install 'selftrain[export]')")
    here = this_machine()
    if here != record.machine:
        return Choice(
            "torch", f"it was chosen on another kind of machine ({record.machine.cpu}; this is {here.cpu}), run selftrain export here to choose again"
        )
    return Choice(record.chosen)


def open_graph(folder: Path, name: str, record: BackendRecord | None, threads: int) -> Backend:
    """A backend of a bundle.

    Args:
        folder: the bundle.
        name: one of `GRAPHS`.
        record: its backend.json.
        threads: cores that it may use.

    Raises:
        BundleError: the bundle has no such graph, or a file is missing, damaged or not the one that was checked.
        MissingExtraError: the package is not installed.
    """
    graph = GRAPHS[name]
    if record is None or graph not in record.files:
        why = f" ({record.int8.sentence()[:-1]})" if record is not None and name == "onnx-int8" and record.int8 is not None else ""
        raise BundleError(f"The bundle {folder} has no graph for the backend {name}{why}; run selftrain export {folder}, or use backend torch.")
    require_packages(PACKAGES[name])
    for file in (graph, TOKENIZER):
        check_file(folder / FOLDER / file, record)
    try:
        return OpenVinoBackend(folder / FOLDER / graph, threads) if name == "openvino" else OnnxBackend(folder / FOLDER / graph, name, threads)
    except Exception as error:  # both libraries raise classes of their own, for instance where they are older than the graph
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{PACKAGES[name]} cannot open {folder / FOLDER / graph} ({reason}); run selftrain export again with this version."
        ) from None


def check_file(file: Path, record: BackendRecord) -> None:
    """Raise a `BundleError` unless `file` is the one that was checked when it was written."""
    try:
        found = sha256(file)
    except OSError as error:
        raise BundleError(f"{file} cannot be read ({error.strerror}); run selftrain export again.") from None
    if found != record.files[file.name]:
        raise BundleError(f"{file} is not the file that selftrain export wrote; run selftrain export again.")


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
