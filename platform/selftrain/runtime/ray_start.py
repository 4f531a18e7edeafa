"""Starting a local Ray and joining a cluster, so that nobody else gets in: always with a token, and a local Ray on the loopback address alone.

A Ray that anybody can reach runs anybody's code. Ray 2.60 itself asks for a token in some cases only, writes it for all users of the machine to read, and
listens on every interface with about a dozen ports, three of which show metrics to whoever asks.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selftrain.errors import ConfigError, OutputError, SelfTrainError, ServiceError
from selftrain.runtime.signals import own_handlers_kept

_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# Of a Ray that lives as long as one command on one machine.
_ALONE = {
    _MODE: "token",
    # Ray's switch for laptops: the node's address is 127.0.0.1, which every port of Ray then listens on. (`_node_ip_address="127.0.0.1"` is replaced by the
    # machine's own address.)
    _CLUSTERS: "0",
    "RAY_enable_metrics_collection": "0",
    # Ray's own processes look after replicas, and figures that nobody collects, several times a second. The threads of a language model wait for each other at every
    # layer, so on two cores what holds up one of them holds up all (benchmarks/generation.py).
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
    # The interface through which the processes of PyTorch and vLLM speak to each other.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": "127.0.0.1",
}


def start_ray(**options: Any) -> None:
    """`ray.init` for a local Ray.

    Args:
        options: of `ray.init`.

    Raises:
        OutputError: the token cannot be written.
        ConfigError: the token cannot be read.
    """
    _keep_token()
    os.environ.update(_ALONE)
    import ray

    _settings_read_again(alone=True)
    with own_handlers_kept(), _without_onlookers():
        # "local": not the cluster of RAY_ADDRESS, nor one that happens to run on this machine, which would refuse these options.
        ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False, **options)


@contextmanager
def _without_onlookers() -> Iterator[None]:
    """Have `ray.init` start no autoscaler, nor what sends logs to the driver, nor the head of a dashboard: nobody here asks them anything, and Ray has no switch."""
    from ray._private.node import Node
    from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD

    def without_dashboard(node: Any, **_: Any) -> None:
        node._webui_url = ""
        # Where events would go, with port 0 that nobody can have; without it the node's agent asks every second, and logs a traceback.
        node.get_gcs_client().internal_kv_put(DASHBOARD_ADDRESS.encode(), b"127.0.0.1:0", True, KV_NAMESPACE_DASHBOARD)

    instead = {"start_monitor": lambda node: None, "start_log_monitor": lambda node: None, "start_api_server": without_dashboard}
    kept = {name: getattr(Node, name) for name in instead}
    for name, start in instead.items():
        setattr(Node, name, start)
    try:
        yield
    finally:
        for name, start in kept.items():
            setattr(Node, name, start)


def join_ray(address: str) -> None:
    """`ray.init` for a running cluster.

    Args:
        address: HOST:PORT, `auto`, or `ray://...`, whose server for clients asks for the token itself.

    Raises:
        ConfigError: there is no token on this machine, or it is switched off.
        ServiceError: no cluster answers, or it wants another token, or none.
    """
    use_token(address)
    import ray

    host, colon, port = address.rpartition(":")
    named = bool(colon) and port.isdigit() and "/" not in host
    if named:  # Ray itself tries another token for half a minute, and says then that nothing is there
        _require_token(address)
    try:
        with own_handlers_kept():
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise no_cluster(address, error) from None
    if not named and not address.startswith("ray://"):
        try:
            _require_token(ray.get_runtime_context().gcs_address)
        except SelfTrainError:
            ray.shutdown()
            raise


def use_token(address: str) -> None:
    """Have the Ray of this process show the token of this machine to the cluster at `address`.

    Raises:
        ConfigError: there is no token on this machine, or it is switched off.
    """
    if os.environ.setdefault(_MODE, "token").lower() == "disabled":
        raise ConfigError(
            f"{_MODE} is 'disabled', and a Ray without a token runs anybody's code; unset it, and start the cluster with {_MODE}=token."
        )
    if _known_token() is None:
        raise ConfigError(
            f"There is no token for the Ray cluster at {address!r}; copy ~/.ray/auth_token from its head node with mode 600, or set {_TOKEN_FILE} to the file."
        )
    os.environ.pop(_CLUSTERS, None)
    _settings_read_again(alone=False)


def _require_token(address: str) -> None:
    """Ask the cluster's control store a question without a token, and with ours.

    Raises:
        ServiceError: it answers anybody, or not us, or does not answer.
    """
    import grpc  # type: ignore[import-untyped]
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    def answered(*headers: tuple[str, str]) -> bool:
        with grpc.insecure_channel(address) as channel:
            try:
                channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", metadata=headers, timeout=10)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                    return False
                raise no_cluster(address, error.details()) from None
        return True

    if answered():
        raise ServiceError(f"The Ray cluster at {address!r} asks for no token, so anybody who reaches it can run code; start it with {_MODE}=token.")
    ours = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    if not answered(("authorization", f"Bearer {ours}")):
        raise ServiceError(f"The Ray cluster at {address!r} wants another token than this machine has; copy ~/.ray/auth_token from its head node.")


def no_cluster(address: str, problem: object) -> ServiceError:
    """The error for an address where no cluster answers, and why."""
    return ServiceError(
        f"ray.address {address!r}: no Ray cluster answers there ({problem}); start one ({_MODE}=token ray start --head), or leave it out for a local one.",
        parameter="ray.address",
    )


def is_alone() -> bool:
    """Whether the Ray of this process was started by `start_ray`; holds in its workers too."""
    return os.environ.get(_CLUSTERS) == "0"


def close_serves_port() -> tempfile.TemporaryDirectory[str]:
    """Keep a replica of Serve, which is being made, from opening a port on all interfaces, where it would unpickle whatever comes with Ray's token.

    It gets a socket instead, in a folder that this user alone can enter. No other deployment calls that way unless RAY_SERVE_USE_GRPC_BY_DEFAULT is set.

    Returns:
        The folder; keep it as long as the replica lives.
    """
    from ray.serve._private import replica

    folder = tempfile.TemporaryDirectory(prefix="selftrain-serve-")

    def add_socket(server: Any, address: str) -> int:
        return int(server.add_insecure_port(f"unix:{folder.name}/calls"))

    replica.add_port_to_grpc_server = add_socket
    return folder


def _settings_read_again(*, alone: bool) -> None:
    """Ray reads these when it is imported, which may have been before they were set."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = not alone
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _keep_token() -> None:
    """Make sure that there is a token which this user alone can read; Ray would write one that everybody can read."""
    file = _default_file()
    if _known_token() is None:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The name appears with all of the token behind it; not by `replacing`, since of two runs that begin at the same time the first one's token stays.
            with tempfile.NamedTemporaryFile("w", dir=file.parent) as new:  # mode 0600
                new.write(secrets.token_hex(32))
                new.flush()
                os.fsync(new.fileno())
                with suppress(FileExistsError):
                    os.link(new.name, file)
        except OSError as error:
            raise OutputError(
                f"The token of Ray cannot be written to {file} ({error.strerror}); make the folder writable, or set {_TOKEN}."
            ) from None


def _known_token() -> str | Path | None:
    """Where Ray will find its token; a file of ours that others can read is closed first."""
    if os.environ.get(_TOKEN):
        return _TOKEN
    named = os.environ.get(_TOKEN_FILE)
    file = Path(named) if named else _default_file()
    try:
        mode = file.stat().st_mode
        if mode & 0o077 and file.stat().st_uid == os.geteuid():
            file.chmod(0o600)
        if file.read_text(encoding="utf-8").strip():
            return file
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The token of Ray {file} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'}); delete it, or set {_TOKEN}."
        ) from None
    if named:
        raise ConfigError(f"{_TOKEN_FILE} must be a file with a token (got {named}); fix or unset it.")
    return None


def _default_file() -> Path:
    return Path.home() / ".ray" / "auth_token"
