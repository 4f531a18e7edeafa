"""A whole run with the real engine: Gemma 3 270M in vLLM under Ray Data, MiniLM, Ray Train, MLflow, a bundle, and two of its processes killed on the way."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import selftrain
from mlflow import MlflowClient

from selftrain.texts.cache import TextCache

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import faults

# On one core: beside another file of tests, two threads of an engine would wait for each other at every layer.
ON_ONE_CORE = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from selftrain.cli import main; sys.exit(main())"
SELFTRAIN = [sys.executable, "-c", ON_ONE_CORE]
SPORT = "The {0} team won its match on {1} after a late goal by the captain, and the coach said that the league was still open, number {2}."
MONEY = "Shares of the {0} bank fell on {1} after its profit missed forecasts, and the market expects that prices will drop again, number {2}."
PLACES, DAYS = ["northern", "southern", "coastal", "central"], ["Monday", "Tuesday", "Friday"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with documents and an experiment, and the environment to run in."""
    folder = tmp_path_factory.mktemp("run")
    with (folder / "documents.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topic"])
        for number in range(60):
            writer.writerow([SPORT.format(PLACES[number % 4], DAYS[number % 3], number), "sport"])
            writer.writerow([MONEY.format(PLACES[number % 4], DAYS[number % 3], number), "business"])
        writer.writerow(["", "sport"])
    (folder / "experiment.yaml").write_text(
        json.dumps(
            {
                "name": "tiny",
                "data": {"source": "documents.csv", "label_column": "topic", "classes": ["sport", "business"], "test_documents": 20},
                "augment": {"model": "gemma-3-270m", "max_tokens": 12, "min_tokens": 4, "document_words": 16},
                "method": {"name": "genco", "rounds": 2, "steps_per_round": 2, "first_share": 0.05, "last_share": 0.1},
                "evaluation": {"llm_documents": 8, "map": "pca"},
                "variants": {"zero-shot": {"method": {"rounds": 0}}},
                "training": {"threads": 1},  # the number decides the last digits, and the load of the machine would decide the number
            }
        ),
        encoding="utf-8",
    )
    return folder, {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/tracking.db"}


def cached(folder) -> list[dict]:
    texts = folder / ".selftrain" / "texts"
    return [asdict(completion) for completion in TextCache(texts).completions()] if texts.is_dir() else []


def blocks_in(folder: Path) -> int:
    """Files of texts in the cache; to open it ten times a second would take a processor's half."""
    return len(list(folder.glob(".selftrain/texts/*.parquet")))


def kill(process: subprocess.Popen, folder: Path, kind: str, ready: Callable[[], bool]) -> None:
    """Kill a process of this kind once `ready`, and wait until that is noticed."""
    root, log, end = psutil.Process(process.pid), folder / "log", time.monotonic() + 600
    while not ready() or (victim := faults.victim(root, kind)) is None:
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)
    said, since = log.stat().st_size, time.time()
    victim.kill()
    killed = time.monotonic()
    while not faults.mended("run", kind, folder, said, root, victim, since):
        assert process.poll() is None and time.monotonic() < killed + 60, f"{kind}: {log.read_text()[-3000:]}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def disturbed(home):
    """A run whose Ray gets SIGKILL while the language model writes: (exit code, texts in the cache, processes that are left).

    Engines and text services that are killed: tests/texts/test_channel.py; the command itself: tests/e2e/test_faults.py; every process alone: `make faults`.
    """
    folder, environment = home
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*SELFTRAIN, "run", "experiment.yaml"], cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log)
    root, end = psutil.Process(process.pid), time.monotonic() + 600
    while not blocks_in(folder):
        assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
        time.sleep(0.1)
    seen = faults.family(root)
    faults.victim(root, "raylet").kill()
    code = process.wait(60)
    return code, cached(folder), faults.left_over(seen)


@pytest.fixture(scope="module")
def finished(home, disturbed):
    """The disturbed run, resumed to its end; the worker of Ray Train gets SIGKILL after its first round, and another one takes its place."""
    folder, environment = home
    (run,) = (folder / "runs").iterdir()
    said = folder / "said"
    with (folder / "log").open("w") as log, said.open("w") as out:
        command = [*SELFTRAIN, "run", "--resume", str(run)]
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=out, stderr=log)
    kill(process, folder, "Train worker", lambda: bool(list(run.glob("checkpoints/*/checkpoint_*"))))
    assert process.wait(600) == 0, (folder / "log").read_text()[-4000:]
    return run, said.read_text(), json.loads((run / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_without_ray_a_run_ends_with_one_sentence_and_leaves_no_process(home, disturbed):
    code, rows, left = disturbed
    log, (run,) = (home[0] / "log").read_text(), (home[0] / "runs").iterdir()
    assert code == 2 and "Traceback" not in log
    assert log.strip().splitlines()[-1] == (
        f"selftrain: Ray's node process (raylet) was killed, or crashed. Continue with selftrain run --resume runs/{run.name}."
    )
    assert rows and left == 0


@pytest.mark.engine
def test_the_resumed_run_generates_only_what_is_missing(home, disturbed, finished):
    _, rows, _ = disturbed
    _, _, metrics = finished
    everything = cached(home[0])
    assert len({row["key"] for row in everything}) == len(everything)  # nothing twice
    assert len(rows) < len(everything) and metrics["texts"]["generated"] + len(rows) == len(everything)
    expected = metrics["cost"]["predicted"]  # as a dry run says it, with an empty cache
    assert expected["texts"] == pytest.approx(len(everything), rel=0.2)
    for tokens in ("prompt_tokens", "generated_tokens"):
        assert expected[tokens] == pytest.approx(sum(row[tokens] for row in everything), rel=0.2), tokens
    assert {row["kind"] for row in everything} == {"input", "conditional", "classify"}
    assert sum(row["kind"] == "input" for row in everything) == 100
    assert len({row["text"] for row in everything if row["kind"] == "input"}) > 50  # a language model wrote them, not a constant


@pytest.mark.engine
def test_an_undisturbed_run_finds_every_text_and_comes_to_the_same_figures(home, finished):
    again = selftrain(home[0], "run", "experiment.yaml", "--set", "output=again", environment=home[1])
    assert again.returncode == 0, again.stderr[-3000:]
    (folder,) = (home[0] / "again").iterdir()
    undisturbed, resumed = json.loads((folder / "metrics.json").read_text(encoding="utf-8")), finished[2]
    assert undisturbed["texts"]["generated"] == 0 and undisturbed["texts"]["cached"] == undisturbed["texts"]["requested"] == len(cached(home[0]))
    assert [row["scores"] for row in undisturbed["rows"]] == [row["scores"] for row in resumed["rows"]]
    assert [entry["figures"] for entry in undisturbed["rounds"]] == [entry["figures"] for entry in resumed["rounds"]]
    assert not undisturbed["registered"]["champion"]  # as good as the champion is not better

    # What Ray Train's worker has read of the class names, the driver has said while it trained.
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    assert names["documents"] == 100 and [one["name"] for one in names["names"]] == ["sport", "business"]
    said = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert said.index("class names read") < said.index("variant done") and '<section id="names">' in (folder / "report.html").read_text()
    assert not list(folder.glob("checkpoints/.*names*"))  # the file by which the worker told the driver


@pytest.mark.engine
def test_a_run_leaves_what_it_promises(finished):
    run, said, metrics = finished
    assert {"config.yaml", "metrics.json", "events.jsonl", "report.html", "bundle", "checkpoints", "pictures"} <= {
        path.name for path in run.iterdir()
    }
    rows = {row["variant"]: row for row in metrics["rows"]}
    assert rows.keys() == {"genco", "zero-shot", "language model"}
    # MiniLM tells sport from business before it is trained: what shows that it was trained is that it answers otherwise.
    assert min(rows[name]["scores"]["accuracy"] for name in ("genco", "zero-shot")) >= 0.9
    assert rows["genco"]["scores"]["brier"] != pytest.approx(rows["zero-shot"]["scores"]["brier"], rel=1e-3)
    assert rows["genco"]["scores"]["mean_confidence"] != pytest.approx(rows["zero-shot"]["scores"]["mean_confidence"], rel=1e-3)
    assert rows["language model"]["documents"] == 8
    assert metrics["data"]["skipped"] == {"empty": 1}
    assert len([entry for entry in metrics["rounds"] if entry["variant"] == "genco"]) == 2
    assert metrics["registered"]["champion"]
    assert "serve it:" in said
    report = (run / "report.html").read_text(encoding="utf-8")
    assert f"{rows['genco']['scores']['accuracy']:.3f}" in report
    assert not any(path.suffix in {".pkl", ".pickle", ".bin", ".pt"} for path in (run / "bundle").rglob("*"))


@pytest.mark.engine
def test_mlflow_has_the_same_figures(home, finished):
    _, _, metrics = finished
    client = MlflowClient(home[1]["MLFLOW_TRACKING_URI"])
    found = client.get_run(metrics["run"]["mlflow_run_id"])
    figures, status, version = found.data.metrics, found.info.status, client.get_model_version_by_alias("tiny", "champion").version
    assert status == "FINISHED"
    assert str(version) == metrics["registered"]["version"]
    main = next(entry for entry in metrics["summary"] if entry["variant"] == "genco")
    assert figures["accuracy"] == pytest.approx(main["accuracy"]["mean"])
    assert figures["texts_generated"] == metrics["texts"]["generated"]


@pytest.mark.engine
def test_the_champion_classifies_from_the_command_line(home, finished):
    texts = "The coach praised the goal of his captain.", "The bank raised its profit forecast."
    result = selftrain(home[0], "predict", "--model", "tiny", *texts, environment=home[1])
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split("\t")[0] for line in result.stdout.strip().splitlines()] == ["sport", "business"]


@pytest.mark.engine
def test_python_and_bundle_agree(finished):
    from selftrain import Classifier

    run, _, metrics = finished
    classifier = Classifier.load(run / "bundle")
    texts = [SPORT.format("new", "Sunday", 1), MONEY.format("new", "Sunday", 2)]
    assert list(classifier.predict(texts)) == ["sport", "business"]
    assert np.allclose(classifier.predict_proba(texts).sum(axis=1), 1)
    assert Path(metrics["bundle"]).name == "bundle"
