"""The wheel installs into an empty environment, and its base does without Ray, MLflow and datasets: predict, train on a head, serve from Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tiny import tiny_backbone

ROOT = Path(__file__).resolve().parents[1]
EXTRAS_ONLY = re.compile(r"(ray|mlflow|datasets|vllm|matplotlib|kornia|jinja2)([._-]|$)", re.I)  # what the base does without
TEXTS = [f"the team and its coach won match {n}" for n in range(12)] + [f"the bank and the market lost profit {n}" for n in range(12)]

TRAIN = """
import inspect, sys
from selftrain import Classifier, SelfTrainer
head = {"train": "head"} if "train" in inspect.signature(SelfTrainer).parameters else {}
trainer = SelfTrainer(encoder=sys.argv[1], method={"rounds": 2, "steps_per_round": 3}, seed=0, **head).fit(TEXTS, classes=["sport", "business"])
trainer.save("bundle")
assert (Classifier.load("bundle").predict(TEXTS) == trainer.predict(TEXTS)).all()
print("trained")
"""

SERVE = """
import importlib.util
from pathlib import Path
import selftrain, selftrain_serve, selftrain.client
from selftrain.serving import routes
assert callable(routes.make_app)
folder = Path(selftrain.__file__).parent
assert "site-packages" in str(folder) and (folder / "py.typed").exists()
assert list((folder / "evaluation").rglob("*.html")) and list((folder / "serving").rglob("*.html"))
assert [name for name in ("ray", "mlflow", "datasets", "vllm") if importlib.util.find_spec(name)] == []
print("serves")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment with the wheel, that sees the packages of this one but for those of the extras."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("platform", "serve"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], check=True, timeout=600)
    wheel = next(folder.glob("selftrain-*.whl"))
    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True, timeout=600)
    seen = folder / "seen"
    seen.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not EXTRAS_ONLY.match(entry.name) and not entry.name.startswith(("selftrain", "__editable__")) and entry.suffix != ".pth":
            (seen / entry.name).symlink_to(entry)
    (next((folder / "environment/lib").glob("python*")) / "site-packages/seen.pth").write_text(f"{seen}\n")
    return folder


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    program, *arguments = command
    return subprocess.run(
        [str(installed / "environment/bin" / program), *arguments],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_trains_predicts_and_serves(installed):
    tiny_backbone(installed / "parts").save_pretrained(str(installed / "encoder"))
    done = run(installed, "python", "-c", f"TEXTS = {TEXTS!r}\n{TRAIN}\n{SERVE}", str(installed / "encoder"))
    assert done.stdout.split() == ["trained", "serves"], done.stderr[-3000:]
    predicted = run(installed, "selftrain", "predict", "--bundle", "bundle", "the team won the match")
    assert predicted.returncode == 0, predicted.stderr[-3000:]
    label, probability, text = predicted.stdout.strip().split("\t")
    assert label in ("sport", "business") and 0 < float(probability) <= 1 and text == "the team won the match"
