"""What happens when a process is killed: `python benchmarks/faults.py [--only run,sweep,generate,serve] [--process engine] [--moments 10] [--out FILE.csv]`.

A run, a sweep, a generation and an endpoint, with tiny models that are real (a sentence encoder, a language model that vLLM loads), are started again and again. In
each one process gets SIGKILL, of another kind and at another moment every time, and a line of the CSV says after how many seconds something was said or mended, how
it ended, what was lost, and which processes were left a minute after its end. What ended is resumed, and has to come to what the undisturbed command came to.
Exit code 1 where it did not, or where a process was left.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from selftrain.texts.cache import TextCache

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
SELFTRAIN = [sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())"]
KINDS = {  # what a process of each kind is called
    "raylet": "raylet",
    "control store": "gcs_server",
    "engine": "ray::ServeReplica:selftrain-",
    "text service": "ray::_TextActor",
    "Serve controller": "ray::ServeController",
    "Train controller": "ray::TrainController",
    "Train worker": "ray::RayTrainWorker",
    "Tune trial": "ray::ImplicitFunc",
    "replica": "ray::ServeReplica:selftrain:",
    "driver": "",
}
OF = {
    "run": [
        "driver",
        "engine",
        "Train worker",
        "raylet",
        "text service",
        "Train controller",
        "control store",
        "engine",
        "Serve controller",
        "Train worker",
    ],
    "sweep": ["Tune trial", "driver", "Tune trial", "raylet", "Tune trial", "control store", "Tune trial", "driver", "Tune trial", "raylet"],
    "generate": ["engine", "driver", "text service", "raylet", "Serve controller", "engine", "control store", "text service", "driver", "engine"],
    "serve": ["replica", "Serve controller", "raylet", "replica", "control store", "driver", "replica", "Serve controller", "replica", "driver"],
}
NOT_KILLED = "had ended before"
PATIENCE, ORPHANS_AFTER, SETTLED_AFTER = 900.0, 60.0, 15.0


@dataclass(frozen=True)
class Case:
    """A line of the table."""

    command: str
    process: str
    moment: float  # share of the undisturbed time
    noticed_seconds: float | None  # from the kill to the first word of it, or to the end
    ended: str
    said: str
    lost: str
    orphans: int
    right: bool  # in the end it came to what the undisturbed command came to


class Bench:
    """The inputs of all commands, in one folder; the results of the undisturbed ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.undisturbed: dict[str, tuple[float, Any]] = {}
        from tiny import tiny_backbone, tiny_language_model

        tiny_backbone(folder / "parts").save(str(folder / "encoder"))
        tiny_language_model(folder / "language_model")
        words = {"sport": ["match", "goal", "team", "player"], "market": ["bank", "profit", "shares", "economy"]}
        with (folder / "documents.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number in range(120):
                for name, some in words.items():
                    writer.writerow([f"the {some[number % 4]} of the {some[(number + 1) % 4]} is about {some[(number * 3) % 4]} {number}", name])
        base = {
            "data": {"source": str(folder / "documents.csv"), "label_column": "label", "classes": ["sport", "market"], "test_documents": 40},
            "model": {"encoder": str(folder / "encoder"), "max_tokens": 32},
            "training": {"threads": 1},
            "evaluation": {"map": "none"},
        }
        augment = {
            "model": str(folder / "language_model"),
            "temperature": 0.0,
            "max_model_tokens": 256,
            "min_tokens": 4,
            "max_tokens": 24,
            "dtype": "float32",
        }
        method = {"name": "genco", "rounds": 4, "steps_per_round": 40}
        (folder / "run.yaml").write_text(json.dumps({"name": "faults", **base, "augment": augment, "method": method, "seeds": [0, 1]}))
        cell = {"name": "genco", "rounds": 3, "steps_per_round": 60, "input_augmentation": False, "conditional_augmentation": False}
        (folder / "sweep.yaml").write_text(
            json.dumps(
                {
                    "name": "faults",
                    "title": "faults",
                    "base": {**base, "method": cell},
                    "axes": {"method.tau": [0.05, 0.1, 0.2, 0.5]},
                    "datasets": {"here": base["data"]},
                    "seeds": [0, 1, 2],
                }
            )
        )

    def command(self, what: str, place: Path) -> list[str]:
        """The command, to be started in `place`."""
        if what == "run":
            return [*SELFTRAIN, "run", str(self.folder / "run.yaml")]
        if what == "sweep":
            return [*SELFTRAIN, "sweep", str(self.folder / "sweep.yaml"), "--at-once", "2"]
        if what == "generate":
            settings = ["max_model_tokens=256", "dtype=float32", "min_tokens=8"]
            overrides = [part for setting in settings for part in ("--set", f"augment.{setting}")]
            wanted = ["--classes", "sport,market", "--per-class", "150", "--model", str(self.folder / "language_model"), "--out", str(place / "made")]
            return [*SELFTRAIN, "generate", *wanted, *overrides]
        return [*SELFTRAIN, "serve", "--bundle", str(self.folder / "bundle"), "--port", str(_port(place))]

    def resumed(self, what: str, place: Path) -> list[str]:
        """The command that goes on."""
        folders = list((place / ("runs" if what == "run" else "runs/sweeps")).glob("*/")) if what in ("run", "sweep") else []
        return [*SELFTRAIN, what, "--resume", str(folders[0])] if folders else self.command(what, place)

    def start(self, command: list[str], place: Path, log: str) -> subprocess.Popen[bytes]:
        """Start it with its words in a file."""
        environment = {**self.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{place}/tracking.db"}
        with (place / log).open("wb") as file:
            return subprocess.Popen(command, cwd=place, env=environment, stdout=file, stderr=file)

    def result(self, what: str, place: Path) -> Any:
        """What a command came to; None where it is not there."""
        try:
            if what == "run":
                (file,) = place.glob("runs/*/metrics.json")
                return [
                    (row["variant"], row["seed"], row["scores"]["accuracy"], row["scores"]["ece"]) for row in json.loads(file.read_text())["rows"]
                ]
            if what == "sweep":
                (file,) = place.glob("runs/sweeps/*/table.csv")
                return file.read_text()
            if what == "generate":
                return sorted(pq.read_table(place / "made" / "train.parquet")["label"].to_pylist())
            return _answer(_port(place))
        except (OSError, ValueError):
            return None


def _port(place: Path) -> int:
    return 20000 + abs(hash(str(place))) % 20000


def _answer(port: int) -> Any:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/classify", b'{"texts": ["the team won the match"]}', {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=5) as answer:
        return json.load(answer)["results"][0]["label"]


def family(process: psutil.Process) -> list[psutil.Process]:
    """It and all that it started."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def victim(process: psutil.Process, kind: str) -> psutil.Process | None:
    """A process of this kind, if there is one now."""
    if kind == "driver":
        return process
    for one in family(process)[1:]:
        try:
            if one.name().startswith(KINDS[kind][:15]) and " ".join(one.cmdline()[:1]).split("/")[-1].startswith(KINDS[kind]):
                return one
        except psutil.Error:
            continue
    return None


def texts_in(place: Path) -> int:
    """Texts in the cache."""
    texts = place / ".selftrain" / "texts"
    return len(TextCache(texts)) if texts.is_dir() else 0


def undisturbed(bench: Bench, what: str) -> None:
    """Run a command to its end, for its time and its result."""
    place = bench.folder / f"{what}-undisturbed"
    place.mkdir()
    start = time.monotonic()
    process = bench.start(bench.command(what, place), place, "log")
    if what == "serve":
        result = wait_for_answer(bench, process, place)
        seconds = time.monotonic() - start
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    else:
        assert process.wait(PATIENCE) == 0, (place / "log").read_text()[-3000:]
        seconds, result = time.monotonic() - start, bench.result(what, place)
    assert result, (place / "log").read_text()[-3000:]
    if what == "run":
        shutil.copytree(next(place.glob("runs/*/bundle")), bench.folder / "bundle")
    bench.undisturbed[what] = seconds, result
    print(f"{what}: {seconds:.0f} s undisturbed", flush=True)


def wait_for_answer(bench: Bench, process: subprocess.Popen[bytes], place: Path) -> Any:
    """The first answer of the endpoint; None when it ended before."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        if (found := bench.result("serve", place)) is not None:
            return found
        time.sleep(0.5)
    return None


def disturbed_in_time(bench: Bench, what: str, kind: str, moment: float, number: int) -> Case:
    """One case, tried again where the command was quicker than the undisturbed one and had ended before the moment came."""
    for _ in range(3):
        start = time.monotonic()
        case = disturbed(bench, what, kind, moment, number)
        if case.ended != NOT_KILLED:
            break
        bench.undisturbed[what] = min(0.9 * bench.undisturbed[what][0], time.monotonic() - start), bench.undisturbed[what][1]
    return case


def disturbed(bench: Bench, what: str, kind: str, moment: float, number: int) -> Case:
    """One case: start, kill, watch, resume, compare."""
    place = Path(tempfile.mkdtemp(prefix=f"{what}-{number}-", dir=bench.folder))
    seconds, wanted = bench.undisturbed[what]
    process = bench.start(bench.command(what, place), place, "log")
    root = psutil.Process(process.pid)
    seen: dict[int, psutil.Process] = {}
    start, target = time.monotonic(), None
    while process.poll() is None and (target is None or time.monotonic() - start < moment * seconds):
        seen.update((one.pid, one) for one in family(root))
        target = victim(root, kind)
        time.sleep(0.2)
    if target is None or process.poll() is not None:
        return Case(what, kind, moment, None, NOT_KILLED, "", "", 0, bench.result(what, place) == wanted)
    said_before = (place / "log").stat().st_size
    started = time.time()
    seen.update((one.pid, one) for one in family(root))
    target.kill()
    killed = time.monotonic()
    noticed = None
    end = killed + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        seen.update((one.pid, one) for one in family(root))
        if noticed is None and mended(what, kind, place, said_before, root, target, started):
            noticed = time.monotonic() - killed
            if what == "serve":
                break
        time.sleep(0.2)
    noticed = noticed if noticed is not None else time.monotonic() - killed
    answer = None
    if what == "serve":
        with suppress(subprocess.TimeoutExpired):  # one that has said that it ends may still answer
            process.wait(SETTLED_AFTER)
        answer = wait_for_answer(bench, process, place)
    if answer is not None:
        right, ended = answer == wanted, "recovered"
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    else:
        code = process.poll()
        ended = "recovered" if code == 0 else "killed itself" if kind == "driver" else "one sentence" if code == 2 else f"exit code {code}"
        right = bench.result(what, place) == wanted
    text = (place / "log").read_bytes()[said_before:].decode(errors="replace")
    sentence = next((line for line in reversed(text.splitlines()) if line.startswith("selftrain: ")), "")
    orphans = left_over(list(seen.values()))
    lost = f"{texts_in(place)} texts kept" if what in ("run", "generate") else ""
    if not right:
        again = bench.start(bench.resumed(what, place), place, "log.resumed")
        if what == "serve":
            right = wait_for_answer(bench, again, place) == wanted
            again.send_signal(signal.SIGTERM)
            again.wait(PATIENCE)
        else:
            right = again.wait(PATIENCE) == 0 and bench.result(what, place) == wanted
        ended += ", resumed to the undisturbed result" if right else ", NOT resumed to the undisturbed result"
    return Case(what, kind, round(moment, 2), round(noticed, 1), ended, sentence.replace(str(bench.folder), "..."), lost, orphans, right)


def mended(what: str, kind: str, place: Path, before: int, root: psutil.Process, dead: psutil.Process, since: float) -> bool:
    """Whether it has been said, or another process of the kind has taken the place."""
    words = (place / "log").read_bytes()[before:].decode(errors="replace")
    if "recovered" in words or "was killed" in words:
        return True
    other = victim(root, kind)
    try:
        return other is not None and other.pid != dead.pid and other.create_time() > since - 1
    except psutil.Error:
        return False


def left_over(processes: list[psutil.Process]) -> int:
    """How many of them are alive a minute later at the most."""
    from processes import alive

    end = time.monotonic() + ORPHANS_AFTER
    while time.monotonic() < end:
        processes = alive(processes)
        if not processes:
            return 0
        time.sleep(0.5)
    for one in processes:
        print(f"left: {one}", flush=True)
    return len(processes)


def add(file: Path, case: Case) -> None:
    """One more line."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, [field.name for field in fields(Case)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(case))


def main() -> int:
    """All cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="run,sweep,generate,serve")
    parser.add_argument("--process", help="of this kind alone")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N moments of each command")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "faults.csv")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the bench")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="st-faults-"))
    bench, cases = Bench(folder), []
    asked: Mapping[str, list[str]] = {what: OF[what] for what in options.only.split(",")}
    for what in dict.fromkeys([*(["run"] if "serve" in asked else []), *asked]):
        undisturbed(bench, what)
    for what, kinds in asked.items():
        for number, kind in enumerate(kinds[: options.moments]):
            if options.process in (None, kind) and number >= options.skip:
                cases.append(disturbed_in_time(bench, what, kind, (number + 0.5) / len(kinds), number))
                add(options.out, cases[-1])
                print(cases[-1], flush=True)
    if not options.keep:
        shutil.rmtree(folder)
    return int(any(case.orphans or not case.right for case in cases))


if __name__ == "__main__":
    sys.exit(main())
