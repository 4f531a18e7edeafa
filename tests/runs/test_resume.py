"""Runs that were killed and gone on with, and finished runs that get more seeds and variants: the same numbers, and nothing done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from light_runs import described
from safetensors.torch import load_file

from selftrain.errors import SelfTrainError
from selftrain.files.durable import write_whole
from selftrain.files.journal import Journal
from selftrain.runs import run as story
from selftrain.runs.resume import Starts, complete, resumed_experiment
from selftrain.runs.stages import Stages
from selftrain.runtime.threads import Threads
from selftrain.tracking.spool import SPOOL
from selftrain.training import checkpoints
from selftrain.training import fit as fitting
from selftrain.training.checkpoints import RoundCheckpoint

KILLED = """
import os, signal, sys
from selftrain.config import load
from selftrain.runs.run import run
from selftrain.training import checkpoints

checkpoints.EVERY_SECONDS = checkpoints._SHARE = 0.0
write = checkpoints.RoundCheckpoint.__call__

def killed(self, figures, state):
    if figures["round"] == 4:  # the fourth round is over and not yet written
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, figures, state)

checkpoints.RoundCheckpoint.__call__ = killed
run(load(sys.argv[1]), command="selftrain run first")
"""


def weights(bundle: Path) -> dict:
    found = load_file(str(bundle / "prototypes.safetensors"))
    for file in sorted(bundle.rglob("model.safetensors")):
        found |= {f"{file.relative_to(bundle)}:{name}": tensor for name, tensor in load_file(str(file)).items()}
    return found


@pytest.mark.parametrize("train", ["head", "bilstm"])
def test_a_light_training_that_is_killed_goes_on_after_its_last_round_to_the_same_weights_bit_for_bit(home, monkeypatch, train):
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 0.0)
    experiment = described(home, train, output=str(home / f"killed-{train}"))
    write_whole(home / f"{train}.yaml", experiment.to_yaml())
    process = subprocess.run([sys.executable, "-c", KILLED, str(home / f"{train}.yaml")], capture_output=True, text=True, timeout=600)
    assert process.returncode == -9, process.stderr[-3000:]
    (folder,) = (home / f"killed-{train}").iterdir()
    assert not (folder / "metrics.json").exists() and len(list((folder / "checkpoints").glob("*.pt"))) == 1

    done = []
    report = RoundCheckpoint.__call__
    monkeypatch.setattr(RoundCheckpoint, "__call__", lambda self, figures, state: (done.append(figures["round"]), report(self, figures, state))[1])
    again = story.run(resumed_experiment(folder), command="selftrain run --resume", resume=folder)
    assert done == [4.0, 5.0, 6.0]
    whole = story.run(described(home, train), command="selftrain run whole")
    assert done == [4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    found, expected = weights(again.bundle), weights(whole.bundle)
    assert found.keys() == expected.keys() and all(bool((found[name] == expected[name]).all()) for name in found)
    assert again.metrics["rounds"] == whole.metrics["rounds"] and len(whole.metrics["rounds"]) == 6
    assert again.metrics["rows"][0]["scores"] == whole.metrics["rows"][0]["scores"]
    assert again.metrics["run"]["command"] == "selftrain run first\nselftrain run --resume"


def test_seeds_and_variants_are_added_to_a_finished_run_and_the_rest_is_reused(home, monkeypatch):
    first = story.run(described(home, "head"), command="first")
    folder = first.folder
    with pytest.raises(SelfTrainError, match=r"is complete; its report is .*report\.html.*seeds=\[0,1\]"):
        resumed_experiment(folder)
    trained = []
    train = fitting.train
    monkeypatch.setattr(
        fitting, "train", lambda method, **rest: (trained.append((method.name, rest["seed"], rest["resume"] is not None)), train(method, **rest))[1]
    )
    added = ["seeds=[0,1]", "variants.ns3l={method: {name: ns3l, rounds: 1}}"]
    result = story.run(resumed_experiment(folder, added), command="second", resume=folder)
    # The first training is not done again: its last state is only opened, where the report needs its weights.
    assert trained == [("cross_entropy", 1, False), ("ns3l", 0, False), ("ns3l", 1, False), ("cross_entropy", 0, True)]
    assert result.metrics["rows"][0] == first.metrics["rows"][0]
    assert result.metrics["registered"] == first.metrics["registered"] and result.bundle == first.bundle
    assert result.metrics["asked"]["seeds"] == [0, 1]
    assert result.metrics["run"]["command"] == "first\nsecond" and result.metrics["run"]["started"] == first.metrics["run"]["started"]
    assert result.metrics["run"]["seconds"] > first.metrics["run"]["seconds"]
    assert "first\nsecond" in (folder / "report.html").read_text(encoding="utf-8")

    whole = story.run(described(home, "head", seeds=[0, 1], variants={"ns3l": {"method": {"name": "ns3l", "rounds": 1}}}))
    keys = [(row["variant"], row["seed"], row["scores"]) for row in result.metrics["rows"]]
    assert keys == [(row["variant"], row["seed"], row["scores"]) for row in whole.metrics["rows"]]
    assert result.metrics["rounds"] == whole.metrics["rounds"]
    assert complete(folder, resumed_config(folder))


def resumed_config(folder: Path):
    from selftrain.config import load

    return load(folder / "config.yaml")


@pytest.fixture
def folder(home, tmp_path) -> Path:
    """Of a run that never came to its end."""
    experiment = described(home, "head", seeds=[0, 1], variants={"ns3l": {"method": {"name": "ns3l"}}})
    write_whole(tmp_path / "run" / "config.yaml", experiment.to_yaml())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method.rounds=7"], r"method\.rounds cannot change \(6 in the run, now 7\)"),
        (["data.test_documents=30"], r"data\.test_documents cannot change \(20 in the run, now 30\)"),
        (["seeds=[1,0]"], r"seeds must begin with those of the run, \[0, 1\] \(got \[1, 0\]\)"),
        (["seeds=[0]"], r"seeds must begin with those of the run"),
        (["variants={}"], r"variants\.ns3l was removed"),
        (["variants.ns3l.method.tau=0.5"], r"variants\.ns3l\.method\.tau cannot change"),
        (["tracking.promote=true"], r"tracking\.promote cannot change"),
    ],
)
def test_what_would_make_finished_rows_untrue_is_refused_by_its_key(folder, overrides, words):
    with pytest.raises(SelfTrainError, match=words):
        resumed_experiment(folder, overrides)


def test_what_no_row_depends_on_may_change(folder):
    found = resumed_experiment(
        folder, ["ray.wait_seconds=5", "augment.stall_seconds=30", "training.max_failures=3", "augment.most_replicas=4", "seeds=[0,1,7]"]
    )
    assert (found.ray.wait_seconds, found.augment.most_replicas, found.seeds) == (5.0, 4, (0, 1, 7))


def test_a_run_that_owes_tracking_something_is_not_complete(home, folder):
    experiment = resumed_experiment(folder)
    metrics = {"asked": {"seeds": [0, 1]}, "rows": [{"variant": "cross_entropy"}, {"variant": "ns3l"}]}
    write_whole(folder / "metrics.json", json.dumps(metrics))
    assert complete(folder, experiment)
    Journal(folder / SPOOL).add({"number": 1, "time": 1, "op": "finish", "status": "FINISHED"})
    assert not complete(folder, experiment)
    Journal(folder / SPOOL).add({"sent": 1})
    assert complete(folder, experiment)
    write_whole(folder / "metrics.json", json.dumps(metrics | {"rows": metrics["rows"][:1]}))
    assert not complete(folder, experiment)  # a variant was added and did not come to its end


def test_times_of_starts_add_up_whatever_the_wall_clock_does(tmp_path, monkeypatch):
    clock = {"monotonic": 100.0}
    monkeypatch.setattr("selftrain.runs.resume.time.monotonic", lambda: clock["monotonic"])
    first = Starts(tmp_path / "parts.json", "one", 90.0, Stages(), Threads(2, "free"))
    began = first.started
    clock["monotonic"] = 150.0
    monkeypatch.setattr("selftrain.runs.resume.datetime", None)  # nobody asks the wall clock again
    first.write()
    assert (first.seconds, first.started) == (60.0, began)
    monkeypatch.undo()  # the machine was started anew; the wall clock is back in 1970 for all we know
    monkeypatch.setattr("selftrain.runs.resume.time.monotonic", lambda: 7.0)
    second = Starts(tmp_path / "parts.json", "two", 2.0, Stages(), Threads(1, "busy"))
    assert (second.seconds, second.started, second.commands) == (65.0, began, ["one", "two"])
    (tmp_path / "parts.json").write_text("cut sh", encoding="utf-8")
    assert Starts(tmp_path / "parts.json", "three", 2.0, Stages(), Threads(1, "busy")).commands == ["three"]


def test_every_start_of_a_run_trains_with_the_threads_of_the_first(tmp_path):
    first = Starts(tmp_path / "parts.json", "one", 0.0, Stages(), Threads(2, "free"))
    first.write()
    assert first.threads == Threads(2, "free")
    assert Starts(tmp_path / "parts.json", "two", 0.0, Stages(), Threads(2, "free still")).threads == Threads(2, "free still")
    second = Starts(tmp_path / "parts.json", "two", 0.0, Stages(), Threads(1, "busy"))
    assert second.threads == Threads(2, "those that the run began with")
    second.write()
    assert [start["threads"] for start in json.loads((tmp_path / "parts.json").read_text(encoding="utf-8"))] == [2, 2]
    (tmp_path / "parts.json").write_text('[{"command": "of an earlier version"}]', encoding="utf-8")
    assert Starts(tmp_path / "parts.json", "two", 0.0, Stages(), Threads(1, "busy")).threads == Threads(1, "busy")


def test_run_folders_have_names_of_their_own_when_the_clock_stands_still(home, monkeypatch):
    class Standing(story.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1970, 1, 1, tzinfo=tz)

    monkeypatch.setattr(story, "datetime", Standing)
    experiment = described(home, "head")
    assert len({story.new_folder(experiment) for _ in range(100)}) == 100
