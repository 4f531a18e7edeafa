"""Disks that are full or cannot be written, with a real small file system: one sentence, what was there still opens, and work goes on when there is space."""

import gc
import os
import subprocess
from pathlib import Path

import pytest
import torch
from light_runs import described

from selftrain.config import TrackingConfig
from selftrain.data.columns import TextColumn
from selftrain.errors import SelfTrainError
from selftrain.files.durable import check_writable, explained, write_whole
from selftrain.files.journal import Journal
from selftrain.runs import run as story
from selftrain.runs.resume import resumed_experiment
from selftrain.texts.cache import Completion, TextCache
from selftrain.tracking import Tracker
from selftrain.tracking.spool import Spool
from selftrain.training.checkpoints import RoundCheckpoint


class Disk:
    """A file system of eight megabytes in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, left: int = 0) -> None:
        """Until so many bytes are left."""
        with self._filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"\0" * 4096)
        os.truncate(self._filler, self._filler.stat().st_size - left)

    def free(self) -> None:
        self._filler.unlink()

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here ({error}); it takes root")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_finds_no_space_leaves_the_one_before_it(disk):
    file = disk.folder / "metrics.json"
    write_whole(file, "before")
    disk.fill()
    with (
        pytest.raises(SelfTrainError, match=r"metrics\.json cannot be written: the disk is full \(No space left on device\); free some space"),
        explained(file),
    ):
        write_whole(file, "x" * 100_000)
    assert file.read_text() == "before" and names(disk.folder) == ["filler", "metrics.json"]
    disk.free()
    write_whole(file, "x" * 100_000)
    assert len(file.read_text()) == 100_000 and names(disk.folder) == ["metrics.json"]


def test_a_journal_that_finds_no_space_keeps_its_lines(disk):
    journal = Journal(disk.folder / "rows.jsonl")
    journal.add({"seed": 0})
    disk.fill()
    with pytest.raises(SelfTrainError, match=r"rows\.jsonl cannot be written: the disk is full"):
        journal.add({"seed": 1, "long": "x" * 100_000})
    assert journal.read() == [{"seed": 0}]
    disk.free()
    journal.add({"seed": 2})
    assert journal.read() == [{"seed": 0}, {"seed": 2}]


def test_a_text_cache_that_finds_no_space_keeps_its_texts(disk):
    def answer(key: str) -> Completion:
        return Completion(key, "doc", "input", "", 0, os.urandom(50_000).hex(), False, 1, 1)

    TextCache(disk.folder / "texts").add([answer("a")])
    disk.fill()
    cache = TextCache(disk.folder / "texts")
    with pytest.raises(SelfTrainError, match=r"\.parquet cannot be written: the disk is full .*augment\.cache"):
        cache.add([answer("b")])
    assert cache.get("b") is None and len(TextCache(disk.folder / "texts")) == 1
    disk.free()
    cache.add([answer("b")])
    assert len(TextCache(disk.folder / "texts")) == 2
    assert not [name for name in names(disk.folder / "texts") if name.endswith(".tmp")]


def test_a_checkpoint_that_finds_no_space_leaves_the_one_before_it(disk):
    checkpoint = RoundCheckpoint(disk.folder / "genco-seed0.pt", "me")
    checkpoint.write({"round": 1, "method": {"weight": torch.ones(3)}})
    disk.fill()
    with pytest.raises(SelfTrainError, match=r"genco-seed0\.pt cannot be written: the disk is full .*; free some space and resume; what was"):
        checkpoint.write({"round": 2, "method": {"weight": torch.ones(100_000)}})
    assert checkpoint.read()["round"] == 1 and names(disk.folder) == ["filler", "genco-seed0.pt"]
    assert RoundCheckpoint(checkpoint.file, "somebody else").read() is None
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:-50])
    assert checkpoint.read() is None


def test_a_database_that_finds_no_space_stops_no_run_and_gets_everything_when_there_is_some(disk, home, tmp_path):
    (disk.folder / "mlflow.db").write_bytes((home / "mlflow.db").read_bytes())
    tracker = Tracker(TrackingConfig(uri=f"sqlite:///{disk.folder}/mlflow.db"), tmp_path, "run")
    tracker.start("run", {})
    spool = Spool(tracker, tmp_path, lambda event, **facts: None)
    disk.fill()
    rounds = [{"round": number, "figures": {"loss": number / 7}} for number in range(1, 3000)]
    spool.child("one", key="one", params={}, rounds=rounds)
    assert "full" in spool.close(3.0)
    spool._thread.join(300)
    assert not spool._thread.is_alive()  # what is left behind tries nothing more, and says nothing more
    disk.free()
    again = Tracker(TrackingConfig(uri=f"sqlite:///{disk.folder}/mlflow.db"), tmp_path, "run")
    again.start("run", {})
    assert Spool(again, tmp_path, lambda event, **facts: None).close(300) is None
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.uri)
    (child,) = client.search_runs(["1"], filter_string="attributes.run_name = 'one'")
    assert len(client.get_metric_history(child.info.run_id, "loss")) == 2999


@pytest.mark.parametrize("left", [2_000, 60_000, 400_000])
def test_a_run_that_finds_no_space_says_so_and_goes_on_when_there_is_some(disk, home, left):
    experiment = described(home, "head", output=str(disk.folder / "runs"))
    (disk.folder / "runs").mkdir()
    disk.fill(left=left)
    try:
        result = story.run(experiment)
    except SelfTrainError as error:
        said = str(error).lower()
        assert ("the disk is full" in said or "no space left" in said) and str(disk.folder) in str(error) and "free some space" in said
        result = None
    assert result is None
    disk.free()
    found = list((disk.folder / "runs").iterdir())
    result = story.run(resumed_experiment(found[0]), resume=found[0]) if found and (found[0] / "config.yaml").is_file() else story.run(experiment)
    assert result.unsent is None and (result.folder / "report.html").is_file() and (result.bundle / "selftrain.json").is_file()


def test_folders_that_cannot_be_written_are_said_before_anything_starts(disk, home):
    (disk.folder / "runs").mkdir()
    disk.read_only()
    with pytest.raises(SelfTrainError, match=r"runs cannot be written: Read-only file system; the folder of the runs \(output\)"):
        story.run(described(home, "head", output=str(disk.folder / "runs")))
    with pytest.raises(SelfTrainError, match=r"texts cannot be written: Read-only file system; the cache"):
        check_writable(disk.folder / "texts", "the cache of texts (augment.cache)")
    with pytest.raises(SelfTrainError, match=r"rows\.jsonl cannot be written: Read-only file system"):
        Journal(disk.folder / "rows.jsonl").add({})
    changes = {"tracking": {"uri": f"sqlite:///{disk.folder}/mlflow.db"}}
    with pytest.raises(SelfTrainError, match=r"tracking database .*mlflow\.db cannot be written \(Read-only file system\)"):
        story.run(described(home, "head", **changes))


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b", "the folder of the runs (output)")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(SelfTrainError, match=r"file/runs cannot be written: Not a directory"):
        check_writable(tmp_path / "file" / "runs", "the folder of the runs (output)")


def test_a_corpus_that_the_temporary_folder_has_no_room_for_says_so(disk, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(disk.folder))
    monkeypatch.setattr("selftrain.files.mapped.MAPPED", 1 << 20)
    full = r"cannot be written: the disk is full \(No space left on device\); free some space there, or set TMPDIR\.$"
    with pytest.raises(SelfTrainError, match=f"^{disk.folder} {full}"):
        TextColumn.of(f"{number:01000}" for number in range(10_000))
    gc.collect()
    assert names(disk.folder) == [] and os.statvfs(disk.folder).f_bavail == os.statvfs(disk.folder).f_blocks
