"""cluster.yaml, against the schema and the checks of Ray's cluster launcher; and what a job uploads."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UPLOAD_LIMIT = 2_000_000  # bytes


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def prepared(cluster):
    """What `ray up` makes of the file before it asks the provider for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    result = prepare_config(cluster)
    validate_config(result)
    return result


def test_the_launcher_accepts_it(cluster):
    result = prepared(cluster)
    assert result["head_node_type"] == "head"
    assert set(result["available_node_types"]) == {"head", "language_model", "training"}


def test_the_launcher_would_refuse_a_mistake(cluster):
    import jsonschema

    cluster["available_node_types"]["training"]["min_worker"] = 0  # the key is min_workers
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        prepared(cluster)


def test_workers_start_from_zero_and_the_head_has_no_gpu(cluster):
    types = prepared(cluster)["available_node_types"]
    assert types["head"]["resources"].get("GPU", 0) == 0
    for name in ("language_model", "training"):
        assert (types[name]["min_workers"], types[name]["resources"]["GPU"]) == (0, 1)
        assert 1 <= types[name]["max_workers"] <= cluster["max_workers"]


def test_every_resource_and_label_is_one_that_a_command_of_the_file_asks_for(cluster):
    types = cluster["available_node_types"]
    assert {name for kind in types.values() for name in kind["resources"]} == {"CPU", "GPU"}
    asked = re.findall(r'--set "(?:augment|training)\.placement=\{([^}]*)\}"', (ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert [yaml.safe_load(f"{{{one}}}") for one in asked] == [types["language_model"]["labels"], types["training"]["labels"]]


def test_the_cluster_is_closed(cluster):
    starts = [line for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_image_has_the_ray_and_the_python_of_the_lock(cluster):
    ray = re.search(r"^ray==(\S+)", (ROOT / "requirements" / "gpu.txt").read_text(), re.MULTILINE).group(1)
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{ray}-py311")


def test_what_nodes_install_is_mounted(cluster):
    (mount,) = [place for place, source in cluster["file_mounts"].items() if source == "."]
    files = [word.removeprefix(f"{mount}/") for line in cluster["setup_commands"] for word in line.split() if word.startswith(f"{mount}/")]
    assert files == ["requirements/gpu.txt"]
    assert all((ROOT / file).is_file() for file in files)
    assert f"-e {mount}" in cluster["setup_commands"][-1]


def test_a_job_uploads_its_entry_points_and_experiments_and_a_small_part_of_what_it_may(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, logger=logging.getLogger(__name__))
    names = {name for name in zipfile.ZipFile(package).namelist() if "/" in name}
    folders = (ROOT / "jobs", ROOT / "tune_spaces")
    assert names == {str(file.relative_to(ROOT)) for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".yaml")}
    assert package.stat().st_size < UPLOAD_LIMIT / 8
