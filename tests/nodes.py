"""Nodes of a cluster on one machine: each a network, a process tree and mounts of its own, so that two share nothing but the network between them.

A node has its own address, /tmp, /dev/shm, home and working folder, and no way to see another's. The repository and its virtual environment, which would be an
image on real nodes, are there for all. The node's first process holds everything: killed, the whole node is gone at once, as a machine that loses its power.
That takes root and Linux's `unshare`; `why_not` says what is missing. What the tests and benchmarks/across_nodes.py put on nodes is made here too.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from tiny import tiny_backbone

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
NETWORK = "10.77.0"
SELFTRAIN = (sys.executable, "-c", "import sys; from selftrain.cli import main; sys.exit(main())")
_STORE = "from moto.server import ThreadedMotoServer; s = ThreadedMotoServer('0.0.0.0', 9000, verbose=False); s.start(); import threading; threading.Event().wait()"
_BUCKET = "import s3fs; s3fs.S3FileSystem().mkdir('shared')"
_WORDS = {"sport": ("match", "goal", "team", "player", "coach"), "business": ("bank", "profit", "market", "shares", "economy")}
_HOLD = "mount -t proc proc /proc && ip link set lo up && exec sleep infinity"


def why_not() -> str:
    """Why this machine cannot have nodes; empty where it can."""
    missing = [program for program in ("unshare", "nsenter", "ip", "mount") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


class Node:
    """One node; `kill` ends it as a power cut would."""

    def __init__(self, number: int, folder: Path) -> None:
        self.address, self.folder = f"{NETWORK}.{number}", folder
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private", "sh", "-c", _HOLD],
            stdin=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while not (found := psutil.Process(self._holder.pid).children()) or found[0].name() != "sleep":
            assert time.monotonic() < end and self._holder.poll() is None
            time.sleep(0.05)
        self._first = found[0].pid
        self._mount()

    def _mount(self) -> None:
        """A /tmp, a /dev/shm and a home of its own; what lies in the machine's /tmp and belongs to everybody stays there."""
        own = self.folder / "tmp"
        lines = ["mount -t tmpfs -o size=400m tmpfs /dev/shm"]
        shared = {ROOT, PROGRAMS.parent, Path(sys.base_prefix), Path(os.environ.get("HF_HOME", "/nowhere"))}
        for path in sorted(shared):  # a folder before what lies in it
            if path.is_relative_to("/tmp"):
                inside = own / path.relative_to("/tmp")
                inside.mkdir(parents=True, exist_ok=True)
                lines.append(f"mount --bind {path} {inside}")
        (own / "home").mkdir(parents=True)
        (own / "work").mkdir()
        lines.append(f"mount --rbind {own} /tmp")
        done = subprocess.run(self._inside("sh", "-ec", "\n".join(lines)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "--target", str(self._first), "--net", "--mount", "--pid", *command]

    def connect(self, bridge: Node) -> None:
        """Join the network of `bridge`, which is a node too."""
        outer, inner = f"to{self._first}", "eth0"
        for command in (
            ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", str(self._first)],
            ["ip", "link", "set", outer, "netns", str(bridge._first)],
            bridge._inside("ip", "link", "set", outer, "master", "bridge", "up"),
            self._inside("ip", "address", "add", f"{self.address}/24", "dev", inner),
            self._inside("ip", "link", "set", inner, "up"),
        ):
            subprocess.run(command, check=True, capture_output=True)

    def popen(self, *command: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command in the node's working folder; what it prints goes to `log`, here."""
        words = ["sh", "-c", 'cd /tmp/work && exec "$@"', "sh", *command]
        with log.open("ab") as file:
            return subprocess.Popen(self._inside(*words), env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def run(self, *command: str, environment: Mapping[str, str], log: Path, seconds: float = 300) -> int:
        """`popen`, to its end; the exit code."""
        return self.popen(*command, environment=environment, log=log).wait(timeout=seconds)

    def take(self, source: Path, name: str) -> None:
        """A copy of a folder as /tmp/`name`."""
        shutil.copytree(source, self.folder / "tmp" / name)

    def processes(self) -> list[psutil.Process]:
        """What runs on it, by this machine's numbers, with its name as `info`: to ask one for it that has just ended raises."""
        found = []
        for process in psutil.process_iter(["name"]):
            with suppress(OSError):  # gone, or the node is
                space = os.readlink(f"/proc/{self._first}/ns/pid")
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    found.append(process)
        return found

    @property
    def work(self) -> Path:
        """Its working folder as this machine sees it: no other node does."""
        return self.folder / "tmp" / "work"

    def kill(self) -> None:
        """End everything on it at once."""
        self._holder.kill()
        self._holder.wait()


class Network:
    """Nodes that reach each other, and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = self._node(1)  # where the bridge is, and services that every node reaches
        # An address of its own: else it has that of one of its ports, changes it when a node is gone, and cannot be reached until the others ask again.
        bridge = f"ip link add bridge address 02:00:00:00:00:01 type bridge && ip address add {self.services.address}/24 dev bridge && ip link set bridge up"
        subprocess.run(self.services._inside("sh", "-ec", bridge), check=True, capture_output=True)
        self.nodes: list[Node] = []
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SELFTRAIN_", "AWS_"))} | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{self.services.address}:9000",
            "AWS_SECRET_ACCESS_KEY": "test",
            "HF_HUB_OFFLINE": "1",
            "HOME": "/tmp/home",
            "MLFLOW_TRACKING_URI": f"http://{self.services.address}:5000",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "platform"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "SELFTRAIN_SERVE_TOKEN": secrets.token_hex(32),
        }

    def _node(self, number: int) -> Node:
        folder = self.folder / str(number)
        folder.mkdir(parents=True)
        return Node(number, folder)

    def add(self, *arguments: str, cpus: int) -> Node:
        """A node of the Ray cluster; the first one is its head."""
        node = self._node(len(self.nodes) + 2)
        node.connect(self.services)
        joins = ["--head"] if not self.nodes else [f"--address={self.nodes[0].address}:6379"]
        log = self.folder / f"ray-{node.address}.log"
        command = [str(PROGRAMS / "ray"), "start", *joins, f"--node-ip-address={node.address}", f"--num-cpus={cpus}", *arguments]
        code = node.run(*command, "--object-store-memory=100000000", "--disable-usage-stats", environment=self.environment, log=log, seconds=120)
        if code:
            node.kill()
            raise AssertionError(log.read_text(encoding="utf-8")[-3000:])
        self.nodes.append(node)
        return node

    def start_services(self) -> None:
        """An object store and a tracking server, which every node reaches."""
        self.services.popen(sys.executable, "-c", _STORE, environment=self.environment, log=self.folder / "store.log")
        tracking = [str(PROGRAMS / "mlflow"), "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1", "--allowed-hosts", "*"]
        self.services.popen(
            *tracking, environment={**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, log=self.folder / "mlflow.log"
        )

    def make_bucket(self) -> None:
        """The bucket `shared`, once the store answers."""
        end, log = time.monotonic() + 120, self.folder / "bucket.log"
        while self.services.run(sys.executable, "-c", _BUCKET, environment=self.environment, log=log):
            assert time.monotonic() < end, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.5)

    def with_process(self, name: str) -> list[Node]:
        """The nodes on which a process of this name runs."""
        return [node for node in self.nodes if any(name in process.info["name"] for process in node.processes())]

    def close(self) -> None:
        """End all nodes."""
        for node in [*self.nodes, self.services]:
            node.kill()


def encoder_without_dropout(folder: Path) -> Path:
    """A tiny encoder in `folder`: with dropout, each worker would draw numbers of its own."""
    tiny_backbone(folder.with_name(f"{folder.name}-parts")).save_pretrained(str(folder))
    (config,) = (one for one in folder.rglob("config.json") if "hidden_dropout_prob" in one.read_text(encoding="utf-8"))
    quiet = json.loads(config.read_text(encoding="utf-8")) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(quiet), encoding="utf-8")
    return folder


def write_news(file: Path, documents: int) -> dict[str, object]:
    """Labeled documents of two classes; returns the section `data` of an experiment in the same folder."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["text", "label"])
        for number in range(documents):
            label = ("sport", "business")[number % 2]
            rows.writerow([f"the {_WORDS[label][number % 5]} and the {_WORDS[label][number // 5 % 5]} of number {number}", label])
    return {"source": file.name, "label_column": "label", "classes": ["sport", "business"], "test_documents": 20}


@contextmanager
def network() -> Iterator[Network]:
    """A network without nodes yet, for the length of a `with` block."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
