"""Fuzz targets, one a reader: whatever the bytes are, a reader gives a value or a `SelfTrainError` of one line, and nothing else.

Every test run replays the corpus in tests/fuzz/ and tries some more; `make fuzz` tries for half an hour (MINUTES=30). What it finds goes into the corpus.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selftrain.bundle.backends import read_record
from selftrain.bundle.checking import check_bundle, read_header
from selftrain.bundle.format import read_card, read_prototypes
from selftrain.config import DataConfig, load
from selftrain.data.classes import check_class_names
from selftrain.data.loading import corpus_of, load_corpus
from selftrain.data.reading import file_rows
from selftrain.data.tables import open_table
from selftrain.errors import SelfTrainError, printable, sentence, unprintable
from selftrain.sweeps.space import load_space

CORPUS = Path(__file__).parent / "fuzz"
MINUTES = float(os.environ.get("SELFTRAIN_FUZZ_MINUTES", "0"))
EXAMPLES = 25


def _yaml(content: bytes, folder: Path) -> None:
    file = folder / "x.yaml"
    file.write_bytes(content)
    experiment = load(file)
    for name in experiment.variants:
        experiment.variant(name)
    assert load(_written(folder / "y.yaml", experiment.to_yaml().encode())) == experiment


def _sweep(content: bytes, folder: Path) -> None:
    load_space(_written(folder / "x.yaml", content))


def _set(content: bytes, folder: Path) -> None:
    load(None, [content.decode("utf-8", "surrogateescape")])


def _rows(suffix: str) -> Callable[[bytes, Path], None]:
    def target(content: bytes, folder: Path) -> None:
        file = _written(folder / f"x{suffix}", content)
        assert list(file_rows(file, "text", None))
        load_corpus(DataConfig(source=str(file), classes=("a", "b"), min_documents=2))

    return target


def _table(suffix: str) -> Callable[[bytes, Path], None]:
    def target(content: bytes, folder: Path) -> None:
        for row, characters, _ in open_table(_written(folder / f"x{suffix}", content), "text").read():
            assert isinstance(row, dict) and characters >= 0

    return target


def _card(content: bytes, folder: Path) -> None:
    _written(folder / "selftrain.json", content)
    read_card(folder)


def _bundle(name: str) -> Callable[[bytes, Path], None]:
    def target(content: bytes, folder: Path) -> None:
        for good in ("modules.json", "config.json", "sentence_bert_config.json"):
            _written(folder / good, _first(good))
        _written(folder / "prototypes.safetensors", b"\x02\0\0\0\0\0\0\0{}")
        _written(folder / name, content)
        check_bundle(folder, {})

    return target


def _weights(content: bytes, folder: Path) -> None:
    file = _written(folder / "prototypes.safetensors", content)
    read_header(file)
    from selftrain.bundle.format import BundleCard

    read_prototypes(folder, BundleCard(name="a", labels=("a", "b"), method="genco"))


def _record(content: bytes, folder: Path) -> None:
    _written(folder / "backend.json", content)
    read_record(folder)


def _classes(content: bytes, folder: Path) -> None:
    names = content.decode("utf-8", "surrogateescape").split(",")
    check_class_names(names, "classes")
    assert all(unprintable(name) is None for name in names)


def _prompts(content: bytes, folder: Path) -> None:
    prompt = content.decode("utf-8", "surrogateescape")
    corpus = corpus_of(["a text", "another text"], DataConfig(classes=("a", "b"), prompts=(prompt,), min_documents=2))
    assert all(len(text) <= len(prompt) for group in corpus.label_prompts() for text in group)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "yaml": _yaml,
    "sweep": _sweep,
    "set": _set,
    "csv": _rows(".csv"),
    "tsv": _rows(".tsv"),
    "csv.gz": _rows(".csv.gz"),
    "json": _rows(".json"),
    "jsonl": _rows(".jsonl"),
    "parquet": _rows(".parquet"),
    "predict.csv": _table(".csv"),
    "predict.csv.gz": _table(".csv.gz"),
    "predict.jsonl": _table(".jsonl"),
    "predict.parquet": _table(".parquet"),
    "card": _card,
    "modules.json": _bundle("modules.json"),
    "config.json": _bundle("config.json"),
    "sentence_bert_config.json": _bundle("sentence_bert_config.json"),
    "weights": _weights,
    "backend.json": _record,
    "classes": _classes,
    "prompts": _prompts,
}


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def _seeds(name: str) -> list[bytes]:
    """The committed inputs of a target; those of a reader of files are its twin's in `predict` too."""
    return [file.read_bytes() for file in sorted((CORPUS / name.removeprefix("predict.")).glob("*"))]


def _first(name: str) -> bytes:
    return _seeds(name)[0]


def _tried(name: str, content: bytes, folder: Path) -> None:
    try:
        TARGETS[name](content, folder)
    except SelfTrainError as error:
        said = sentence(error)
        assert said and "\n" not in said and printable(said) == said and len(said) <= 2100


def _inputs(name: str) -> st.SearchStrategy[bytes]:
    """Committed inputs, cut, joined, and with bytes and pieces changed; and bytes of no origin."""
    seeds = _seeds(name)
    pieces = st.sampled_from(
        [
            *seeds,
            b"{",
            b"[",
            b'"',
            b"\\ud800",
            b"\x1b[2J",
            b"\0",
            b"\xff",
            b"9" * 5000,
            b"[" * 300,
            b"&a ",
            b"*a",
            b"!!int ",
            b"{label:>9}",
            b"\r",
            b"e\xcc\x81",
        ]
    )

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(0, 4))):
            place, length = draw(st.integers(0, len(content))), draw(st.integers(0, 8))
            content[place : place + length] = draw(st.one_of(st.binary(max_size=8), pieces))
        return bytes(content)

    return st.one_of(changed(), st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("name", TARGETS)
def test_the_committed_inputs(name: str, tmp_path: Path) -> None:
    seeds = _seeds(name)
    assert len(seeds) >= 3
    for content in seeds:
        _tried(name, content, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(0)
def test_fuzz(name: str, tmp_path: Path) -> None:
    end = time.monotonic() + MINUTES * 60 / len(TARGETS)

    @settings(
        max_examples=EXAMPLES if not MINUTES else 500, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=not MINUTES
    )
    @given(_inputs(name))
    def fuzz(content: bytes) -> None:
        _tried(name, content, tmp_path)

    fuzz()
    while time.monotonic() < end:
        fuzz()
