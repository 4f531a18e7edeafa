"""Do nodes make a run together? `python benchmarks/across_nodes.py [--lose] [--out FILE.csv]`, as root on Linux.

Five nodes of this machine with one CPU each, which share nothing but a network (tests/nodes.py), an object store and a tracking server. A job is submitted whose
texts two engines write (vLLM itself, with a tiny language model), and whose encoder two workers of Ray Train train; `--lose` cuts the power of a node with an engine
while they write. A line of the CSV says on how many nodes each kind of process was seen, how many texts were asked for and generated, and after how many seconds the
job had ended. A second job, with one engine and one worker, then has to select as many documents in every round, within 2 %; `again` is how many texts it had to
generate: two workers add floats in another order, which changes a few of the pairs that texts are asked for. Exit code 1 where it selected others.
"""

from __future__ import annotations

import argparse
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
FETCH = "import s3fs, sys; s3fs.S3FileSystem().get('shared/runs', 'fetched', recursive=True)"
PROCESSES = {"engines": "ServeReplica:sel", "workers": "RayTrainWorker"}  # as the kernel cuts their names
LIMIT_SECONDS = 1200


def furnish(made: Network, documents: int) -> None:
    """The services, the nodes with both models on their disks, and on the head's the documents and the experiment."""
    from nodes import encoder_without_dropout, write_news
    from tiny import tiny_language_model

    made.start_services()
    encoder = encoder_without_dropout(made.folder / "encoder")
    tiny_language_model(made.folder / "language_model")
    for _ in range(5):  # one for each engine and each worker, and one for what leads them
        node = made.add(cpus=1)
        node.take(encoder, "encoder")
        node.take(made.folder / "language_model", "language_model")
    head = made.nodes[0]
    (head.folder / "tmp" / "storage").mkdir()
    document = {
        "name": "nodes",
        "data": write_news(head.work / "news.csv", documents),
        "model": {"encoder": "/tmp/encoder", "max_tokens": 32},
        "augment": {"model": "/tmp/language_model", "max_model_tokens": 256, "min_tokens": 4, "max_tokens": 24, "dtype": "float32", "replicas": 2},
        "method": {"name": "genco", "rounds": 2, "steps_per_round": 10},
        "training": {"threads": 1, "gpu": False, "workers": 2},
        "evaluation": {"map": "none", "llm_documents": 0},
        "output": "s3://shared/runs",
    }
    (head.work / "nodes.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    made.make_bucket()


def submit(made: Network, log: Path, *changes: str) -> psutil.Popen:
    """A job that trains, from the head."""
    from nodes import SELFTRAIN

    sets = [word for change in changes for word in ("--set", change)]
    return made.nodes[0].popen(*SELFTRAIN, "submit", "run", "nodes.yaml", "--storage", "/tmp/storage", *sets, environment=made.environment, log=log)


def watched(made: Network, job: psutil.Popen, log: Path, lose: bool) -> dict[str, int]:
    """On how many nodes each kind of process was seen until the job had ended; a node with an engine is lost once some texts are there, where that is asked for."""
    seen: dict[str, set[Node]] = {kind: set() for kind in PROCESSES}
    end = time.monotonic() + LIMIT_SECONDS
    while job.poll() is None:
        assert time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
        for kind, name in PROCESSES.items():
            seen[kind] |= set(made.with_process(name))
        if lose and "texts generated=" in log.read_text(encoding="utf-8"):
            victim = next((node for node in made.with_process(PROCESSES["engines"]) if node is not made.nodes[0]), None)
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
