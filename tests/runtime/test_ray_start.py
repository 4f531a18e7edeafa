"""A Ray of our own is closed to everybody else, and a cluster is joined only where a token is asked for: the real thing, in processes of its own."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from endpoint import free_port

from selftrain.errors import ConfigError, ServiceError
from selftrain.runtime import ray_start
from selftrain.runtime.ray_start import join_ray

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", *ray_start._ALONE)

# Two workers that speak to each other, as `selftrain run` trains, while the sockets of all processes are looked at.
TRAINS = """
import json, os, threading, time
import psutil
from selftrain.runtime.cluster import Needs, session
from selftrain.config import parse

def loop(config):
    import ray.train, torch, torch.distributed as dist
    found = torch.ones(1)
    dist.all_reduce(found)
    ray.train.report({"sum": found.item()})
    end = time.monotonic() + 300
    while not os.path.exists(config["seen"]) and time.monotonic() < end:
        time.sleep(0.05)

def sockets():
    me, found = psutil.Process(), []
    for one in [me, *me.children(recursive=True)]:
        try:
            found += [[one.name(), c.laddr.ip, c.laddr.port] for c in one.net_connections("inet") if not c.raddr]
        except psutil.Error:
            pass
    return found

with session(parse({}), Needs(3, 0, 0.1)):
    import ray
    from ray.train.torch import TorchTrainer
    from selftrain.training.process_group import OneMachine

    seen = os.environ["HOME"] + "/seen"
    two, place = ray.train.ScalingConfig(num_workers=2), ray.train.RunConfig(storage_path=os.environ["HOME"])
    trainer = TorchTrainer(loop, train_loop_config={"seen": seen}, torch_config=OneMachine(), scaling_config=two, run_config=place)
    training = threading.Thread(target=trainer.fit)
    training.start()
    found, end = [], time.monotonic() + 300
    while training.is_alive() and time.monotonic() < end:
        found += sockets()
        # The group of a worker listens as soon as it is made: two workers with two ports each.
        workers = {(ip, port) for name, ip, port in found if "RayTrainWork" in name}
        if len(workers) >= 4:
            open(seen, "w").close()
        time.sleep(0.5)
    node = ray._private.worker._global_node
    commands = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"]) if one in psutil.Process().children(recursive=True)]
    agent = open(node.get_logs_dir_path() + "/dashboard_agent.log").read()
    print(json.dumps({"sockets": found, "metrics": node.metrics_export_port, "mode": os.environ["RAY_AUTH_MODE"], "commands": commands, "agent": agent}))
"""


@pytest.fixture
def environment():
    """Of a process whose Ray keeps its files and its token in a folder of its own, with a short path: sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="st-"))
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    yield {**kept, "HOME": str(folder), "RAY_TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    shutil.rmtree(folder, ignore_errors=True)


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_ray_of_our_own_listens_on_the_loopback_address_alone_and_exports_nothing(environment) -> None:
    found = json.loads(run(TRAINS, environment).splitlines()[-1])
    names = {name for name, _, _ in found["sockets"]}
    assert any("gcs_server" in name for name in names) and any("raylet" in name for name in names) and any("RayTrainWork" in name for name in names)
    open_to_others = [one for one in found["sockets"] if not loopback(one[1])]
    assert open_to_others == []
    assert not {44217, 44227} & {port for _, _, port in found["sockets"]} and found["metrics"] in (-1, None)
    assert [one for one in found["commands"] if "/monitor.py" in one or "/log_monitor.py" in one or "/dashboard.py" in one] == []
    assert "Loaded" in found["agent"] and "Get dashboard http address failed" not in found["agent"]
    assert found["mode"] == "token"
    token = Path(environment["HOME"]) / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_onlookers_are_left_out_of_our_own_start_alone() -> None:
    from ray._private.node import Node

    names = ("start_monitor", "start_log_monitor", "start_api_server")
    ray_has = [getattr(Node, name) for name in names]
    kept = []
    node = SimpleNamespace(get_gcs_client=lambda: SimpleNamespace(internal_kv_put=lambda *entry: kept.append(entry)))
    with pytest.raises(KeyboardInterrupt), ray_start._without_onlookers():
        Node.start_monitor(node)
        Node.start_log_monitor(node)
        Node.start_api_server(node, include_dashboard=False, raise_on_failure=False)
        raise KeyboardInterrupt
    assert kept == [(b"dashboard", b"127.0.0.1:0", True, b"dashboard")] and node._webui_url == ""
    assert [getattr(Node, name) for name in names] == ray_has


def loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_made_once_and_others_cannot_read_it(home) -> None:
    ray_start._keep_token()
    file = home / ".ray" / "auth_token"
    token = file.read_text()
    assert len(token) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["auth_token"]
    file.chmod(0o644)  # as Ray leaves it
    ray_start._keep_token()
    assert file.read_text() == token and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_token_that_the_user_names_is_taken(home, monkeypatch) -> None:
    file = home / "mine"
    file.write_text("a-token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    ray_start._keep_token()
    assert not (home / ".ray").exists() and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH must be a file with a token"):
        ray_start._keep_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-too")
    ray_start._keep_token()
    assert not (home / ".ray").exists()


def test_a_token_that_cannot_be_kept_or_read_is_one_sentence(home) -> None:
    (home / ".ray").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be"):
        ray_start._keep_token()
    (home / ".ray").unlink()
    (home / ".ray" / "auth_token").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        ray_start._keep_token()


def test_a_cluster_is_joined_with_a_token_or_not_at_all(home, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="There is no token for the Ray cluster at 'auto'"):
        join_ray("auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is 'disabled'"):
        join_ray("auto")


class Store(grpc.GenericRpcHandler):
    """A control store's gate: it takes the tokens that it is given, or everybody."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = {f"Bearer {token}" for token in tokens}

    def service(self, call):
        if call.method != "/ray.rpc.NodeInfoGcsService/CheckAlive":
            return None

        def answer(request, context):
            if self._tokens and dict(context.invocation_metadata()).get("authorization") not in self._tokens:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [((), "asks for no token"), (("another-token",), "wants another token"), (None, "no Ray cluster answers")],
    ids=["open", "another token", "none there"],
)
def test_a_cluster_that_is_open_or_not_ours_is_told_in_a_sentence(home, monkeypatch, tokens, words) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("joined"))
    port = free_port()
    if tokens is None:
        with pytest.raises(ServiceError, match=words):
            join_ray(f"127.0.0.1:{port}")
        return
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Store(*tokens)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        with pytest.raises(ServiceError, match=words):
            join_ray(f"127.0.0.1:{port}")
    finally:
        server.stop(None)
