"""Where served models come from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from selftrain.errors import ConfigError


class ModelSource(BaseModel, extra="forbid", frozen=True):
    """Where a served model comes from: a bundle's folder, or the registry."""

    bundle: str | None = Field(default=None, description="folder of a bundle; every node must reach it")
    model: str | None = Field(default=None, description="name in the MLflow registry; its champion is served and followed")
    version: str | None = Field(
        default=None, description="of a registered model: the version to serve, which is not followed; of a bundle: the version to show"
    )
    name: str | None = Field(default=None, description="the name in requests; default: the name in the registry or in the bundle")

    @model_validator(mode="after")
    def _one_of_both(self) -> ModelSource:
        if (self.bundle is None) == (self.model is None):
            raise ValueError("a model must be either `bundle` (a folder) or `model` (a name in the registry); set one of them")
        return self

    @classmethod
    def registered(cls, wanted: str) -> ModelSource:
        """A registered model: `NAME`, whose champion is served and followed, or `NAME@VERSION`.

        Raises:
            ConfigError: `wanted` is neither.
        """
        name, at, version = wanted.partition("@")
        if not name or "/" in name or (at and not version.isdecimal()):
            raise ConfigError(f"models must be NAME or NAME@VERSION, names of the registry (got {wanted!r}).", parameter="models")
        return cls(model=name, version=version or None)

    @property
    def followed(self) -> bool:
        """Whether it changes with the registry's champion."""
        return self.model is not None and self.version is None

    def locate(self, tracking_uri: str | None) -> tuple[Path, str | None]:
        """(folder of the bundle, version; None where the bundle's date shall do).

        Raises:
            SelfTrainError: there is no such model, version or champion.
        """
        if self.bundle is not None:
            return Path(self.bundle), self.version
        from selftrain.tracking import CHAMPION, registered_bundle

        return registered_bundle(f"models:/{self.model}{f'@{CHAMPION}' if self.version is None else f'/{self.version}'}", tracking_uri)
