"""Do nodes make a run together? `python benchmarks/across_nodes.py [--lose] [--out FILE.csv]`, as root on Linux.

Five nodes of this machine with one CPU each, which share nothing but a network (tests/nodes.py), an object store and a tracking server. A job is submitted whose
texts two engines write (vLLM itself, with a tiny language model), and whose encoder two workers of Ray Train train; `--lose` cuts the power of a node with an engine
while they write. A line of the CSV says on how many nodes each kind of process was seen, how many texts were asked for and generated, and after how many seconds the
job had ended. A second job, with one engine and one worker, then has to select as many documents in every round, within 2 %; `again` is how many texts it had to
generate: two workers add floats in another order, which changes a few of the pairs that texts are asked for. Exit code 1 where it selected others.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import yaml
from lines import tell

if TYPE_CHECKING:
    from nodes import Network, Node

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
SELFTRAIN = (sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())")
STORE = "from moto.server import ThreadedMotoServer; s = ThreadedMotoServer('0.0.0.0', 9000, verbose=False); s.start(); import threading; threading.Event().wait()"
BUCKET = "import s3fs; s3fs.S3FileSystem().mkdir('shared')"
FETCH = "import s3fs, sys; s3fs.S3FileSystem().get('shared/runs', 'fetched', recursive=True)"
PROCESSES = {"engines": "ServeReplica:sel", "workers": "RayTrainWorker"}  # as the kernel cuts their names
WORDS = {"sport": ("match", "goal", "team", "player", "coach"), "business": ("bank", "profit", "market", "shares", "economy")}
LIMIT_SECONDS = 1200


def furnish(made: Network, documents: int) -> None:
    """The services, the nodes with both models on their disks, and on the head's the documents and the experiment."""
    from tiny import tiny_backbone, tiny_language_model

    made.services.popen(sys.executable, "-c", STORE, environment=made.environment, log=made.folder / "store.log")
    tracking = [
        str(Path(sys.executable).parent / "mlflow"),
        "server",
        "--host",
        "0.0.0.0",
        "--port",
        "5000",
        "--workers",
        "1",
        "--allowed-hosts",
        "*",
    ]
    made.services.popen(*tracking, environment={**made.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, log=made.folder / "mlflow.log")
    tiny_backbone(made.folder / "parts").save_pretrained(str(made.folder / "encoder"))
    tiny_language_model(made.folder / "language_model")
    (config,) = (one for one in (made.folder / "encoder").rglob("config.json") if "hidden_dropout_prob" in one.read_text(encoding="utf-8"))
    # With dropout, each worker would draw numbers of its own.
    quiet = json.loads(config.read_text(encoding="utf-8")) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(quiet), encoding="utf-8")
    for _ in range(5):  # one for each engine and each worker, and one for what leads them
        node = made.add(cpus=1)
        node.take(made.folder / "encoder", "encoder")
        node.take(made.folder / "language_model", "language_model")
    head = made.nodes[0]
    (head.folder / "tmp" / "storage").mkdir()
    with (head.work / "news.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(documents):
            label = ("sport", "business")[number % 2]
            rows.writerow([f"the {WORDS[label][number % 5]} and the {WORDS[label][number // 5 % 5]} of number {number}", label])
    document = {
        "name": "nodes",
        "data": {"source": "news.csv", "label_column": "label", "classes": ["sport", "business"], "test_documents": 20},
        "model": {"encoder": "/tmp/encoder", "max_tokens": 32},
        "augment": {"model": "/tmp/language_model", "max_model_tokens": 256, "min_tokens": 4, "max_tokens": 24, "dtype": "float32", "replicas": 2},
        "method": {"name": "genco", "rounds": 2, "steps_per_round": 10},
        "training": {"threads": 1, "gpu": False, "workers": 2},
        "evaluation": {"map": "none", "llm_documents": 0},
        "output": "s3://shared/runs",
    }
    (head.work / "nodes.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    end = time.monotonic() + 120
    while head.run(sys.executable, "-c", BUCKET, environment=made.environment, log=made.folder / "bucket.log"):
        assert time.monotonic() < end, (made.folder / "bucket.log").read_text(encoding="utf-8")[-2000:]


def nodes_with(made: Network, name: str) -> set[Node]:
    """The nodes on which a process of this name runs."""
    return {node for node in made.nodes if any(name in process.info["name"] for process in node.processes())}


def submit(made: Network, log: Path, *changes: str) -> psutil.Popen:
    """A job that trains, from the head."""
    sets = [word for change in changes for word in ("--set", change)]
    return made.nodes[0].popen(*SELFTRAIN, "submit", "run", "nodes.yaml", "--storage", "/tmp/storage", *sets, environment=made.environment, log=log)


def watched(made: Network, job: psutil.Popen, log: Path, lose: bool) -> dict[str, int]:
    """On how many nodes each kind of process was seen until the job had ended; a node with an engine is lost once some texts are there, where that is asked for."""
    seen: dict[str, set[Node]] = {kind: set() for kind in PROCESSES}
    end = time.monotonic() + LIMIT_SECONDS
    while job.poll() is None:
        assert time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
        for kind, name in PROCESSES.items():
            seen[kind] |= nodes_with(made, name)
        if lose and "texts generated=" in log.read_text(encoding="utf-8"):
            victim = next((node for node in made.nodes[1:] if node in nodes_with(made, PROCESSES["engines"])), None)
            if victim is not None:
                victim.kill()
                made.nodes.remove(victim)
                lose = False
        time.sleep(0.5)
    assert job.returncode == 0, log.read_text(encoding="utf-8")[-6000:]
    return {f"nodes_with_{kind}": len(found) for kind, found in seen.items()}


def fetched(made: Network) -> list[dict]:
    """metrics.json of every run, the oldest first."""
    head = made.nodes[0]
    assert head.run(sys.executable, "-c", FETCH, environment=made.environment, log=made.folder / "fetch.log") == 0
    files = sorted((head.work / "fetched").rglob("metrics.json"), key=lambda file: file.parent.name)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def main() -> int:
    """A line for one job; see the module's docstring."""
    from nodes import network, why_not

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--lose", action="store_true", help="cut the power of a node with an engine")
    parser.add_argument("--out", type=Path, help="a CSV that gets the line")
    arguments = parser.parse_args()
    if why := why_not():
        print(f"this machine cannot have nodes: {why}", file=sys.stderr)
        return 2
    with network() as made:
        furnish(made, arguments.documents)
        begun, log = time.monotonic(), made.folder / "job.log"
        places = watched(made, submit(made, log), log, arguments.lose)
        seconds = time.monotonic() - begun
        again = made.folder / "again.log"
        job = submit(made, again, "augment.replicas=1", "training.workers=1")
        assert job.wait(LIMIT_SECONDS) == 0, again.read_text(encoding="utf-8")[-6000:]
        first, second = fetched(made)
        selected = [[int(one["figures"]["selected"]) for one in run["rounds"]] for run in (first, second)]
        texts, right = first["texts"], all(abs(one - other) <= 0.02 * one for one, other in zip(*selected, strict=True))
        line = {"lost": int(arguments.lose), "documents": arguments.documents, **places}
        line |= {"texts": texts["requested"], "generated": texts["generated"], "seconds": round(seconds), "again": second["texts"]["generated"]}
        tell(line | {name: " ".join(map(str, one)) for name, one in zip(("selected", "selected_again"), selected, strict=True)}, arguments.out)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
