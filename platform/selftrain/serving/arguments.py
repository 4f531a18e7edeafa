"""The `args` of a Serve config file: what the deployment in serve/app.py is told, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrain.bundle.format import read_card, read_prototypes
from selftrain.config.hardware import WorkerGpu
from selftrain.errors import ConfigError, nearest
from selftrain.passwords import TOKEN_VARIABLE, has_password, read_token
from selftrain.serving.headers import is_local
from selftrain.serving.language_model import Augmentation
from selftrain.serving.seen import SeenSettings
from selftrain.serving.sources import ModelSource
from selftrain.tracking import tracking_uri as absolute_uri


class Arguments(BaseModel):
    """The `args` of a Serve config file, which `build` takes."""

    model_config = ConfigDict(extra="forbid")

    models: tuple[ModelSource, ...] = Field(min_length=1, description="the models; the first answers requests that name none")
    tracking_uri: str | None = Field(default=None, description="the registry; default: MLFLOW_TRACKING_URI of the cluster")
    poll_seconds: float = Field(default=5.0, gt=0, description="seconds between two looks at the registry's champion")
    threads: int = Field(default=1, ge=1, description="torch threads of a replica")
    gpus: WorkerGpu = Field(
        default="auto",
        description="GPU of a replica: true for one, false for the CPU, or a part of one (0.5); auto: a quarter where the cluster has GPUs. What the deployment "
        "sets in `ray_actor_options` wins",
    )
    host: str | None = Field(default=None, description="address that each replica listens on itself; default: none, Serve's proxies do")
    port: int = Field(default=8000, ge=1, le=65535, description="port of `host`")
    token_file: str | None = Field(
        default=None, description=f"file with the bearer token; default: the environment variable {TOKEN_VARIABLE}, if set"
    )
    no_token: bool = Field(default=False, description="answer without a token, although other machines can reach the port")
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="names that the header host may have, besides localhost and `host`; beyond this machine also any IP address, and with a token any name "
        "unless some are listed",
    )
    max_connections: int = Field(default=1024, ge=1, description="open connections of a replica that listens itself; further ones get 503")
    max_connections_per_client: int = Field(
        default=256, ge=1, description="open connections from one address (IPv6: /64 network); a proxy is one client"
    )
    timeout_seconds: float = Field(default=30.0, gt=0, description="seconds after which a request gets 504")
    max_waiting_texts: int = Field(default=2048, ge=1, description="texts that may wait for a model; further requests get 503")
    augmentation: Augmentation | None = Field(
        default=None, description="the language model for requests with augment; default: none, and they are refused"
    )

    seen: SeenSettings | None = Field(default=None, description="what is kept of answered texts for selftrain watch; default: nothing")
    labelling: str | None = Field(
        default=None, description="folder of questions that the page at /label asks, on a disk that every replica reaches; default: no such page"
    )

    @classmethod
    def checked(cls, args: Mapping[str, Any]) -> Arguments:
        """The arguments of `args`.

        Raises:
            ConfigError: one is unknown or wrong.
        """
        try:
            return cls.model_validate(args)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            parts: dict[str | int, type[BaseModel]] = {"models": ModelSource, "augmentation": Augmentation, "seen": SeenSettings}
            known = parts[first["loc"][0]].model_fields if len(first["loc"]) > 1 else cls.model_fields
            hint = nearest(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"args.{key} is not valid: {hint}.") from None

    def token(self) -> bytes | None:
        """The token that requests must carry.

        Raises:
            ConfigError: it is missing although other machines can reach the port, or it cannot be read.
        """
        return token_for(self.host, self.token_file, no_token=self.no_token)

    def check_models(self) -> list[str]:
        """The names of the models, after a look at each bundle: what is wrong is said before Ray starts.

        Raises:
            SelfTrainError: there is no such bundle, model, version or champion, or it is damaged.
        """
        names = []
        for source in self.models:
            folder, _ = source.locate(self.tracking_uri)
            card = read_card(folder)
            read_prototypes(folder, card)
            names.append(source.name or source.model or card.name)
        return names


def token_for(host: str | None, token_file: str | None, *, no_token: bool) -> bytes | None:
    """The token that requests to a server must carry; None for none.

    Args:
        host: the address that it listens on; None for Serve's proxies.
        token_file: file with the token; None for the environment variable SELFTRAIN_SERVE_TOKEN, if set.
        no_token: whether it may do without, although other machines can reach it.

    Raises:
        ConfigError: it is missing, or cannot be read.
    """
    token = read_token(token_file)
    if token is None and not no_token and not (host is not None and is_local(host)):
        raise ConfigError(
            f"token_file must be set, or the variable {TOKEN_VARIABLE}: other machines can reach {host or 'the proxies of the cluster'}. "
            "Set no_token if anybody may ask.",
            parameter="token_file",
        )
    return token


def registry_of(tracking_uri: str | None) -> str | None:
    """The registry as it may stand in Serve's configuration; None where its address holds a password, which replicas then read from the environment.

    Raises:
        ConfigError: `tracking_uri` itself holds a password.
    """
    if tracking_uri is not None and has_password(tracking_uri):
        raise ConfigError(
            "tracking_uri holds a password, which would stand in Serve's configuration; set the environment variable MLFLOW_TRACKING_URI.",
            parameter="tracking_uri",
        )
    uri = absolute_uri(tracking_uri)
    return uri if not has_password(uri) else None
