"""deploy/cluster.local.yaml, against the schema and the checks of Ray's cluster launcher, and beside cluster.yaml."""

from __future__ import annotations

import copy
import shlex

import jsonschema
import pytest
import yaml
from manifests import DEPLOY, ROOT


@pytest.fixture
def machines():
    return yaml.safe_load((DEPLOY / "cluster.local.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def cloud():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def prepared(cluster):
    """What `ray up` makes of the file before it asks for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    result = prepare_config(copy.deepcopy(cluster))
    validate_config(result)
    return result


def starts(cluster) -> list[str]:
    return [line for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"] if "ray start" in line]


def test_the_launcher_accepts_it(machines):
    result = prepared(machines)
    (kind,) = result["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(machines["provider"]["worker_ips"])


def test_the_launcher_would_refuse_a_mistake(machines):
    machines["idle_timeout_minute"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        prepared(machines)


def test_it_is_as_closed_as_the_cloud(machines, cloud):
    for one in (machines, cloud):
        assert len(starts(one)) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts(one))
        assert "--dashboard-host=127.0.0.1" in starts(one)[0]
    for key in ("file_mounts", "rsync_exclude"):
        assert machines[key] == cloud[key]


def test_ray_start_takes_its_options(machines):
    from ray.scripts.scripts import start

    for line in starts(machines):
        words = shlex.split(line)
        context = start.make_context("ray start", words[words.index("start") + 1 :])
        assert context.params["address"] or context.params["head"]


def test_the_head_has_the_label_of_cluster_yaml_s(machines, cloud):
    assert f"--labels=selftrain/role={cloud['available_node_types']['head']['labels']['selftrain/role']}" in starts(machines)[0]


def test_set_up_is_that_of_the_makefile(machines):
    words = shlex.split(machines["setup_commands"][-1])
    assert words == ["make", "-C", "~/selftrain", "setup", "EXTRA=gpu"] and machines["file_mounts"]["~/selftrain"] == "."
    assert all("~/selftrain/.venv/bin/ray" in line for line in machines["head_start_ray_commands"] + machines["worker_start_ray_commands"])
