"""A light installation predicts: no ray, no mlflow and no datasets, neither in Python, nor on the command line, nor in the client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone

from selftrain.bundle.format import BundleCard, write_bundle

# Neither importable nor installed, as far as anyone asks: sentence-transformers looks at the metadata of `datasets`.
BLOCKED = """
import importlib.metadata, sys
blocked = ("ray", "mlflow", "datasets", "vllm", "fastapi", "uvicorn", "matplotlib")
found = importlib.metadata.Distribution.from_name
def from_name(name):
    if name in blocked:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.Distribution.from_name = from_name
sys.modules |= dict.fromkeys(blocked)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("light")
    return write_bundle(
        home / "bundle",
        backbone=tiny_backbone(home / "encoder"),
        prototypes=torch.eye(2, 32),
        card=BundleCard(name="toy", labels=("sport", "tech"), method="genco"),
    )


def said(code: str, folder: Path, cwd: Path) -> str:
    """What a new interpreter without the heavy packages prints."""
    done = subprocess.run([sys.executable, "-c", BLOCKED + code, str(folder)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_python_and_the_command_predict(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\nthe team won\n", encoding="utf-8")
    code = (
        "from selftrain import Classifier; c = Classifier.load(sys.argv[1]); print(*c.predict(['a', 'b']), c.predict_proba(['a']).shape)\n"
        "from selftrain.cli import main\n"
        "assert main(['predict', '--bundle', sys.argv[1], 'the team won']) == 0\n"
        "for kind in ('csv', 'jsonl', 'parquet'):\n"
        "    assert main(['predict', '--bundle', sys.argv[1], '--file', 'x.csv', '--out', f'y.{kind}']) == 0\n"
    )
    python, *command = said(code, folder, tmp_path).splitlines()
    assert {"sport", "tech"} >= set(python.split()[:2]) and python.endswith("(1, 2)")
    assert command[0].endswith("\tthe team won") and command[1:] == [f"1 rows labeled in y.{kind}" for kind in ("csv", "jsonl", "parquet")]


def test_the_client_is_imported(folder: Path, tmp_path: Path) -> None:
    code = "from selftrain import Client, SelfTrainError; Client('http://127.0.0.1:1').close(); print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert said(code, folder, tmp_path) == "[]"
