"""Runs in MLflow: a parent run with a child for every variant and seed, their figures and files, and what a leaderboard reads of them.

The driver alone writes here.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from selftrain.config import TrackingConfig
from selftrain.errors import ConfigError
from selftrain.passwords import without_passwords
from selftrain.tracking.address import artifact_root, connect, connected, require_database, tracking_uri
from selftrain.tracking.champion import Lead, decide
from selftrain.tracking.registry import CHAMPION, RegisteredVersion, present_champion, write_mlmodel

RUN_TAG = "selftrain.run"
BUNDLE = "bundle"  # the folder of a run's files that a version is
KIND_TAG = "selftrain.kind"  # sweep; a run of `selftrain run` has none
# MLflow's own limits (mlflow/utils/validation.py). Its own truncation logs a warning a value, and leaves tags of a new run alone.
_PARAM_LENGTH, _TAG_LENGTH, _KEY_LENGTH = 6000, 8000, 250

Status = Literal["FINISHED", "FAILED", "KILLED"]


class RoundFigures(TypedDict):
    """The figures of one self-training round."""

    round: int
    figures: Mapping[str, float]


def figures_of_round(entry: Mapping[str, float]) -> RoundFigures:
    """What training says of a round, with its number apart."""
    return RoundFigures(round=int(entry["round"]), figures={name: value for name, value in entry.items() if name != "round"})


class Run:
    """A run of MLflow: the figures of one variant and seed, or of the whole experiment."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write settings; nested ones are flattened to `section.key`, long ones are cut to MLflow's limit."""
        from mlflow.entities import Param

        self._client.log_batch(self.run_id, params=[Param(_key(name), _cut(value, _PARAM_LENGTH)) for name, value in flattened(params)])

    def log_rounds(self, rounds: Sequence[RoundFigures], *, when: int | None = None) -> None:
        """Write the figures of self-training rounds; `round` becomes MLflow's step. `when`: milliseconds since 1970, default: now."""
        self._log([(name, value, one["round"]) for one in rounds for name, value in one["figures"].items()], when)

    def log_metrics(self, metrics: Mapping[str, float | None], *, when: int | None = None) -> None:
        """Write final figures; those that are None are left out. `when`: as in `log_rounds`."""
        self._log([(name, value, 0) for name, value in metrics.items() if value is not None], when)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or the content of a folder, into `folder` of the run's artifacts."""
        upload = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        upload(self.run_id, str(path), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run."""
        self._client.set_terminated(self.run_id, status)

    def _log(self, figures: Sequence[tuple[str, float, int]], when: int | None) -> None:
        from mlflow.entities import Metric

        now = when if when is not None else int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(_key(name), float(value), now, step) for name, value, step in figures])


class Tracker:
    """One experiment's runs: a parent, and a child for every variant and seed.

    Args:
        config: server, experiment's name, registry.
        run_folder: the folder of the run, or its address, noted as a tag.
        name: the run's name as MLflow shows it.

    Attributes:
        uri: the absolute address that is written to.

    Raises:
        ServiceError: the store does not answer, or cannot be used.
        ConfigError: no such kind of address, or the MLflow experiment was deleted.
        OutputError: the database file cannot be written.
    """

    def __init__(self, config: TrackingConfig, run_folder: Path | str, name: str) -> None:
        self.config = config
        self.name = name
        self.uri = tracking_uri(config.uri)
        self._run_folder = run_folder
        with connected(self.uri) as client:
            self._client, self._experiment_id = client, _experiment(client, config.experiment, artifact_root(self.uri))
        self._run: Run | None = None

    def start(self, run_id_tag: str, params: Mapping[str, Any], tags: Mapping[str, Any] | None = None) -> str:
        """Start the parent run, or find the one that a restarted driver began with the same `run_id_tag`.

        Args:
            run_id_tag: selftrain's id of the run.
            params: the resolved configuration, nested or flat.
            tags: git commit, config hash, data digest and whatever else says what was run.

        Returns:
            MLflow's run id.
        """
        found = self._find(f"tags.`{RUN_TAG}` = '{run_id_tag}'")
        if found is not None:
            self._run = found
            self._client.update_run(self._run.run_id, status="RUNNING")
        else:
            self._run = self._create(self.name, {**(tags or {}), RUN_TAG: run_id_tag, "selftrain.run_folder": self._run_folder})
            self._run.log_params(params)
        return self._run.run_id

    def child(
        self, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, Any] | None = None, *, key: tuple[str, str] | None = None
    ) -> Run:
        """Start a run below the parent.

        Args:
            name: as MLflow shows it, such as variant and seed.
            params: settings of the child alone.
            tags: tags of the child alone.
            key: one of `tags` that tells the child from its siblings; a child that has it already is continued.
        """
        found = self._find(f"{self._below()} and tags.`{key[0]}` = '{key[1]}'") if key is not None else None
        below = found or self._create(name, {**(tags or {}), "mlflow.parentRunId": self.run.run_id})
        below.log_params(params or {})
        return below

    def tags_of_children(self, tag: str) -> set[str]:
        """The values of `tag` on the runs below the parent."""
        return {run.data.tags[tag] for run in _all_runs(self._client, self._experiment_id, self._below()) if tag in run.data.tags}

    @property
    def run(self) -> Run:
        """The parent run; `start` comes first."""
        if self._run is None:
            raise RuntimeError("Tracker.start comes before anything is logged")
        return self._run

    def log_bundle_and_register(
        self,
        bundle: Path,
        model_name: str,
        metrics: Mapping[str, float | None],
        *,
        labeled: bool,
        promote: bool = False,
        why: str = "",
        evaluate: Callable[[Path], float | Lead] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> RegisteredVersion:
        """Upload a bundle to the parent run, register it as a new version, and make it champion where `champion.decide` says so.

        Args:
            bundle: the bundle's folder; the file MLmodel is written into it.
            model_name: name in the registry.
            metrics: figures of the bundle; `accuracy` is what is compared, `documents` how many labeled documents it is from.
            labeled: whether the test documents have labels.
            promote: make it champion where nothing compares it.
            why: what it is promoted for, in words.
            evaluate: a bundle's accuracy on the same labeled documents as `metrics`, or the lead of `bundle` over it; called with the present champion's bundle.
            tags: further tags of the version, such as the data fingerprint.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        client, run_id = self._client, self.run.run_id
        write_mlmodel(bundle, run_id)
        # A version's files never change: a driver that was restarted in the same run, and registers again, must not write over the first ones.
        earlier = len(client.search_model_versions(f"run_id = '{run_id}'"))
        folder = BUNDLE if earlier == 0 else f"{BUNDLE}-{earlier + 1}"
        client.log_artifacts(run_id, str(bundle), folder)
        try:
            client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        facts = {**{name: value for name, value in metrics.items() if value is not None}, **(tags or {})}
        source = f"{client.get_run(run_id).info.artifact_uri.rstrip('/')}/{folder}"
        version = client.create_model_version(model_name, source, run_id, tags=_tags(facts)).version
        accuracy = metrics.get("accuracy")
        present = present_champion(client, self.uri, model_name, evaluate) if labeled and accuracy is not None else None
        decision = decide(accuracy, present, labeled=labeled, promote=promote, why=why)
        if decision.champion:
            client.set_registered_model_alias(model_name, CHAMPION, version)
        client.set_model_version_tag(model_name, version, "champion_decision", decision.reason)
        return RegisteredVersion(model_name, str(version), decision.champion, decision.reason)

    def _below(self) -> str:
        return f"tags.`mlflow.parentRunId` = '{self.run.run_id}'"

    def _find(self, query: str) -> Run | None:
        found = self._client.search_runs([self._experiment_id], filter_string=query, max_results=1)
        return Run(self._client, found[0].info.run_id) if found else None

    def _create(self, name: str, tags: Mapping[str, Any]) -> Run:
        return Run(self._client, self._client.create_run(self._experiment_id, tags=_tags(tags), run_name=name).info.run_id)


def finished_metrics(uri: str | None = None, experiment: str = "selftrain") -> list[dict[str, Any]]:
    """metrics.json of every finished run of an experiment; runs without one (sweeps, single seeds) are left out.

    Raises:
        ServiceError: no database yet, or a store that does not answer.
        ConfigError: no such kind of address, or no such experiment.
    """
    uri = tracking_uri(uri)
    require_database(uri)
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(sorted(one.name for one in client.search_experiments()))
        raise ConfigError(
            f"experiment {experiment!r} is not in the tracking store {without_passwords(uri)}; it has: {known}.", parameter="experiment"
        )
    runs: list[dict[str, Any]] = []
    for run in _all_runs(client, found.experiment_id, f"attributes.status = 'FINISHED' and tags.`{RUN_TAG}` != ''"):
        if run.data.tags.get(KIND_TAG) != "sweep" and any(one.path == "metrics.json" for one in client.list_artifacts(run.info.run_id)):
            with tempfile.TemporaryDirectory() as scratch:
                runs.append(json.loads(Path(client.download_artifacts(run.info.run_id, "metrics.json", scratch)).read_text(encoding="utf-8")))
    return runs


def _all_runs(client: Any, experiment_id: str, query: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], filter_string=query, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _experiment(client: Any, name: str, artifacts: Path | None) -> str:
    """The id of the MLflow experiment; it is created where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts.as_uri() if artifacts is not None else None))
        except MlflowException:
            # Another driver made it in between (a server has no lock of ours).
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(f"tracking.experiment {name!r} was deleted in MLflow; restore it there, or set another.", parameter="tracking.experiment")
    return str(found.experiment_id)


def flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`section.key`, value) of a nested mapping."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {_key(name): _cut(value, _TAG_LENGTH) for name, value in tags.items()}


def _key(name: str) -> str:
    """A name that MLflow accepts for a parameter, metric or tag."""
    return re.sub(r"/{2,}|^/|/$", "_", re.sub(r"[^\w.\- /]", "_", name))[:_KEY_LENGTH]


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
