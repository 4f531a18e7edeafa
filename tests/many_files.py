"""What the tests of passes share: a tiny bundle, files, and a result held against what `predict_file` makes of each file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, write_bundle
from selftrain.bundle.predict import predict_file
from selftrain.runtime.hardware import Hardware

SUBJECTS = ("the team and its coach won match", "the minister and the party lost vote", "the bank and the market lost profit", "a film and its music")


def write_toy_bundle(folder: Path, seed: int = 0) -> Path:
    prototypes = torch.nn.functional.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)), dim=-1)
    card = BundleCard(name="toy", labels=("sport", "politics", "business"), method="genco", scale=5.0)
    return write_bundle(folder, backbone=tiny_backbone(folder.parent / f"{folder.name}-encoder"), prototypes=prototypes, card=card)


def rows_of(name: str, count: int) -> list[dict]:
    """Rows of one file; some of their texts cannot be classified."""
    found = [{"id": f"{name}-{n}", "text": f"{SUBJECTS[n % 4]} {name} {n * 7 % 11}" * (1 + n % 3)} for n in range(count)]
    found[3]["text"] = " "
    return found


def write_parquet(file: Path, rows: list[dict], **how) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file, **how)
    return file


def check_result(out: Path, bundle: Path, files: list[Path], scratch: Path, named: Callable[[Path], str] = str, **asked: Any) -> None:
    """Hold a result against `predict_file`: every row once, in its order, with the same labels and probabilities."""
    classifier = Classifier.load(bundle, device="cpu", threads=1)
    manifest = json.loads((out / "_manifest.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in out.iterdir()) == sorted(["_manifest.json", "_pass.json", *(part["name"] for part in manifest["parts"])])
    names = [part["name"] for part in manifest["parts"]]
    assert names == sorted(names)
    found = pa.concat_tables([pq.read_table(out / name) for name in names])
    assert found.column("file").to_pylist() == sorted(found.column("file").to_pylist())
    scratch.mkdir(exist_ok=True)
    rows = 0
    for number, file in enumerate(sorted(files)):
        predict_file(classifier, file, scratch / f"{number}.parquet", "text", **asked)
        wanted = pq.read_table(scratch / f"{number}.parquet")
        ours = found.filter(pc.equal(found.column("file"), named(file))).drop_columns(["file"])
        assert ours.schema.equals(wanted.schema)
        for column in wanted.schema.names:
            close = column.endswith("probability") or column.startswith("p_") or column == "typicality"
            expected = wanted.column(column).to_pylist()
            one_document = 0.005 if column == "typicality" else 1e-6  # a share of documents: rounding may move one past another
            assert ours.column(column).to_pylist() == (pytest.approx(expected, abs=one_document) if close else expected), (file, column)
        rows += len(wanted)
    labels = found.column("label").to_pylist()
    failed = len(found) - found.column("error").null_count
    abstained = labels.count(None) - failed
    counts = {name: labels.count(name) for name in ("sport", "politics", "business")}
    assert len(found) == rows and manifest["counts"] == {"rows": rows, "failed": failed, "abstained": abstained, "labels": counts}
    assert len([label for label in counts.values() if label]) > 1 and failed >= len(files)  # else the files show nothing
    assert (0 < abstained < rows - failed) if asked.get("abstain") or asked.get("none_of_these") else abstained == 0


def files_of(docs: Path) -> list[Path]:
    return [path for path in docs.rglob("*.*") if path.suffix != ".txt"]


class Here:
    """In place of Ray; `classified` holds the names of the parts that were classified and not found."""

    def __init__(self) -> None:
        self.classified: list[str] = []
        self.stop_after: int | None = None  # parts

    def answers(self, asked, worker, arguments, **_):
        made = worker(*arguments)
        for number, one in enumerate(asked):
            if self.stop_after == number:
                raise KeyboardInterrupt
            yield made({"asked": [one]})["answer"][0]

    @contextmanager
    def session(self, experiment, wanted):
        wanted(Hardware())
        yield Hardware()
