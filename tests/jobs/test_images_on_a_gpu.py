"""The script for a borrowed GPU, on the CPU: it needs neither Ray nor vLLM nor MLflow, keeps a row a training, and goes on where it was."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from tiny import encoded_image, toy_images

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE / "benchmarks"))
import images_on_a_gpu  # noqa: E402

ABSENT = ("ray", "vllm", "mlflow", "sentence_transformers", "datasets")

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(tmp_path):
    pixels, labels = toy_images(80)
    table = pyarrow.table({"image": [encoded_image(one) for one in pixels], "label": labels.tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "toys.parquet")
    steps = {"rounds": 3, "steps_per_round": 4, "batch_size": 6}
    document = {
        "name": "toys",
        "seeds": [0, 1],
        "data": {
            **{"source": str(tmp_path / "toys.parquet"), "label_column": "label", "classes": ["red", "blue"]},
            **{"supervision": "few", "labels_per_class": 4, "test_documents": 20},
        },
        "model": {"encoder": "small-cnn"},
        "method": {"name": "fixmatch", **steps},
        "evaluation": {"map": "none", "every_round": True},
        "variants": {"supervised": {"method": {"name": "cross_entropy", **steps}}},
    }
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return tmp_path / "toys.yaml"


def script(experiment, *arguments):
    """Runs it where the packages of `ABSENT` cannot be imported."""
    for name in ABSENT:
        absent = experiment.parent / "absent" / name / "__init__.py"
        absent.parent.mkdir(parents=True, exist_ok=True)
        absent.write_text(f"raise ImportError('{name} is not there')\n", encoding="utf-8")
    path = os.pathsep.join([str(experiment.parent / "absent"), str(HERE / "platform")])
    command = [sys.executable, str(HERE / "benchmarks" / "images_on_a_gpu.py"), str(experiment), *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)


def here(monkeypatch, experiment, *arguments):
    """Runs it in this process."""
    monkeypatch.setattr(sys, "argv", ["images_on_a_gpu.py", str(experiment), *arguments])
    return images_on_a_gpu.main()


def rows(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_it_trains_every_variant_and_seed_without_ray_and_goes_on_where_it_was(experiment, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.csv"
    result = script(experiment, "--out", str(out), "--steps", "8", "--set", "seeds=[0]")
    assert result.returncode == 0, result.stderr[-3000:]
    first = rows(out)
    assert [(row["variant"], row["seed"], row["steps"], row["test_images"]) for row in first] == [
        ("fixmatch", "0", "8", "20"),
        ("supervised", "0", "8", "20"),
    ]
    assert all(len(row["rounds"].split()) == 2 and row["rounds"].split()[-1] == f"{float(row['accuracy']):.4f}" for row in first)
    assert "fixmatch, seed 0: step 8 of 8" in result.stdout
    assert here(monkeypatch, experiment, "--out", str(out), "--steps", "8") == 0
    assert rows(out)[:2] == first and [(row["variant"], row["seed"]) for row in rows(out)[2:]] == [("fixmatch", "1"), ("supervised", "1")]
    assert "seed 0" not in capsys.readouterr().out


def test_it_says_where_the_time_of_a_step_goes(experiment, monkeypatch, capsys):
    assert here(monkeypatch, experiment, "--profile", "2", "--set", "variants={}") == 0
    shown = capsys.readouterr().out
    assert "fixmatch: " in shown and " ms a step, profiled" in shown and "convolution" in shown


def test_what_cannot_be_run_is_one_sentence(experiment, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        here(monkeypatch, experiment)
    capsys.readouterr()
    assert here(monkeypatch, experiment, "--out", str(tmp_path / "out.csv"), "--set", "method.rate=1") == 2
    assert capsys.readouterr().err.startswith("images_on_a_gpu: Unknown option method.rate")
