"""deploy/kuberay and deploy/helm: every field exists, operator, Serve and our command line take what stands in it, and pods are closed and agree with each other."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from manifests import ROOT, at, clusters, commands, documents, found, keys_of, mistakes, pods, schema_of, validator, values

from selftrain.cli.common import load_experiment
from selftrain.cli.main import build_parser
from selftrain.errors import SelfTrainError

# Below these keys names are free: what they name is checked by the tests below.
FREE = {"labels", "matchLabels", "selector", "rayStartParams", "resources", "requests", "limits", "data", "additionalWorkerGroups"}
CHART = "ray_cluster_chart.yaml"
HELD = {name: (document, schema_of(document)) for name, document in documents().items()} | {"values": (values(), CHART)}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RAY = re.search(r"^ray==(\S+)", (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8"), re.M)[1]


def test_there_is_a_manifest_for_each_way():
    kinds = [name.partition("/")[0] for name in documents()]
    assert kinds.count("RayJob") == 2 and kinds.count("RayCronJob") == kinds.count("RayService") == 1
    assert set(clusters()) == {name for name in documents() if name.startswith("Ray")}
    assert len(pods()) == 11


@pytest.mark.parametrize("name", HELD)
def test_the_schema_takes_it(name):
    assert mistakes(*HELD[name]) == []


@pytest.mark.parametrize("name", HELD)
def test_every_misspelt_field_is_seen(name):
    """Kubernetes drops unknown fields without a word: a schema that is open anywhere would hide a slip there."""
    document, reference = HELD[name]
    tried, unseen = 0, []
    for path in keys_of(document):
        changed = copy.deepcopy(document)
        parent = at(changed, path[:-1])
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        tried += 1
        if validator(reference).is_valid(changed) and (len(path) < 2 or path[-2] not in FREE):
            unseen.append(path)
    assert tried >= 9 and unseen == []


@pytest.mark.parametrize(
    ("kind", "place", "wrong"),
    [
        ("RayJob/selftrain-demo", ("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        ("RayJob/selftrain-demo", ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "dashboard-host"), 0),
        ("RayJob/selftrain-documents", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "4"),
        ("RayJob/selftrain-documents", ("metadata", "name"), "selftrain-documents-with-a-name-that-is-far-too-long"),
        ("RayCronJob/selftrain-nightly", ("spec", "schedule"), "2 o'clock"),
        ("RayService/selftrain-endpoint", ("spec", "upgradeStrategy", "type"), "Rolling"),
        ("NetworkPolicy/selftrain", ("spec", "policyTypes"), "Ingress"),
        ("values", ("head", "autoscalerOptions", "idleTimeoutSeconds"), "300"),
    ],
)
def test_a_wrong_value_is_seen(kind, place, wrong):
    document, reference = HELD[kind]
    changed = copy.deepcopy(document)
    at(changed, place[:-1])[place[-1]] = wrong
    assert mistakes(changed, reference)


def groups() -> dict[str, dict]:
    """The groups of nodes of all Ray clusters, by their document and name."""
    return {
        f"{name}:{group.get('groupName', 'head')}": group
        for name, cluster in clusters().items()
        for group in [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    }


def test_what_the_operator_refuses_although_the_schema_takes_it():
    for name, cluster in clusters().items():
        assert cluster["authOptions"] == {"mode": "token"}, name  # a RayJob and a RayService may not ask for more
        if cluster.get("enableInTreeAutoscaling"):
            assert all("restartPolicy" not in group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]), name
    for name, group in groups().items():
        given = set(group["rayStartParams"])
        assert "labels" not in given, f"{name}: labels have a field of their own"
        assert not (given & {"num-cpus", "num-gpus", "memory", "resources"} and group.get("resources")), name
        assert group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0), name
        assert all(re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", key) for key in group.get("labels", {})), name
    for name, document in documents().items():
        for template in found(document, "submitterPodTemplate"):
            assert template["spec"]["restartPolicy"] == "Never", name
        if found(document, "ttlSecondsAfterFinished"):
            assert found(document, "shutdownAfterJobFinishes") == [True], name


def test_ray_start_has_the_parameters_that_groups_set():
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    given = {name: set(group["rayStartParams"]) for name, group in groups().items()}
    given |= {f"values:{place}": set(params) for place, params in enumerate(found(values(), "rayStartParams"))}
    assert {name: params - known for name, params in given.items() if params - known} == {}
    assert any(given.values())


def test_versions_agree_with_the_lock_and_the_project():
    assert {cluster["rayVersion"] for cluster in clusters().values()} | {values()["head"]["rayVersion"]} == {RAY}
    images = {image for document in documents().values() for image in found(document, "image")}
    images |= {f"{values()['image']['repository']}:{values()['image']['tag']}"}
    assert images == {f"selftrain:{PYPROJECT['version']}-{extra}" for extra in ("cpu", "gpu")}


def test_the_page_names_every_file_and_the_images_of_today():
    page = (ROOT / "docs" / "howto" / "deploy.md").read_text(encoding="utf-8")
    files = [file.name for file in (ROOT / "deploy").rglob("*") if file.is_file()]
    assert len(files) == 11 and [name for name in files if name not in page] == []
    assert set(re.findall(r"selftrain(?:-endpoint)?:(\d[\d.]*\d)", page)) == {PYPROJECT["version"]}


def test_a_pod_with_a_gpu_has_the_image_and_the_tolerance_for_it():
    checked = 0
    for name, pod in pods().items():
        gpus = [limits["nvidia.com/gpu"] for limits in found(pod, "limits") if "nvidia.com/gpu" in limits]
        if gpus:
            checked += 1
            assert pod["containers"][0]["image"].endswith("-gpu"), name
            assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"], name
    assert checked == 2


def test_one_cluster_has_one_image():
    """What a driver pickles must be opened by workers with the same versions."""
    for name, document in documents().items():
        if name.startswith("Ray"):
            assert len(set(found(document, "image"))) == 1, name


def test_pods_are_closed():
    for name, pod in pods().items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == security["fsGroup"] == 1000, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        if "headGroupSpec" not in name or "autoscal" not in str(documents()[name.partition(":")[0]]).lower():
            assert pod["automountServiceAccountToken"] is False, f"{name}: only an autoscaler asks Kubernetes"
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, name
    for options in [*(cluster.get("autoscalerOptions") for cluster in clusters().values()), values()["head"]["autoscalerOptions"]]:
        assert options is None or options["securityContext"]["allowPrivilegeEscalation"] is False


def test_containers_say_what_they_need():
    for name, pod in pods().items():
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            needs = container["resources"]
            assert {"cpu", "memory"} <= set(needs["requests"]) and "memory" in needs["limits"], name
            assert set(needs["requests"]) | set(needs["limits"]) <= {"cpu", "memory", "nvidia.com/gpu"}, name
            if container["name"].startswith("ray-"):
                assert needs["requests"]["memory"] == needs["limits"]["memory"], f"{name}: Ray takes the limit for what there is"


def test_names_that_manifests_share_lead_somewhere():
    """Volumes, claims, ConfigMaps, labels and the tracking server's address: each name is defined in another place than it is used."""
    every = documents()
    assert {claim["claimName"] for pod in pods().values() for claim in found(pod, "persistentVolumeClaim")} == {"selftrain"}
    assert "PersistentVolumeClaim/selftrain" in every
    maps = {reference["name"] for pod in pods().values() for reference in found(pod, "configMapRef")}
    assert {f"ConfigMap/{name}" for name in maps} == {name for name in every if name.startswith("ConfigMap/")}
    for name, pod in pods().items():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in [*pod["containers"], *pod.get("initContainers", [])] for mount in container.get("volumeMounts", [])}
        assert mounted == volumes, name
    part = {"app.kubernetes.io/part-of": "selftrain"}
    assert every["NetworkPolicy/selftrain"]["spec"]["podSelector"] == {"matchLabels": part}
    templates = [template for document in every.values() for key in ("template", "submitterPodTemplate") for template in found(document, key)]
    assert len(templates) == len(pods()) and all(part.items() <= template["metadata"]["labels"].items() for template in templates)
    service, server = every["Service/mlflow"], every["Deployment/mlflow"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= server["metadata"]["labels"].items()
    address = every["ConfigMap/selftrain"]["data"]["MLFLOW_TRACKING_URI"]
    assert address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert address.removeprefix("http://") in server["spec"]["containers"][0]["args"][-1].split(",")


def test_resources_of_groups_are_those_of_the_launchers_node_types():
    """One experiment is placed alike on both: names and amounts are those of cluster.yaml."""
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["available_node_types"]
    expected = {name.replace("_", "-"): kind for name, kind in types.items()}
    found_groups = {name.partition(":")[2]: group for name, group in groups().items() if name.startswith("RayJob/selftrain-documents:")}
    assert set(found_groups) == set(expected)
    for name, group in found_groups.items():
        assert {key: int(amount) for key, amount in group["resources"].items()} == expected[name]["resources"], name
        assert group["labels"] == expected[name]["labels"], name
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert (int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0))) == (int(group["resources"]["CPU"]), int(group["resources"].get("GPU", 0)))
        assert group.get("maxReplicas") == expected[name].get("max_workers"), name
    chart = {values()["worker"]["groupName"]: values()["worker"]} | values()["additionalWorkerGroups"]
    for name, group in chart.items():
        limits = group["resources"]["limits"]
        assert {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"])} == expected[name]["resources"], name


def test_the_job_asks_for_the_labels_of_its_groups():
    words = commands()["RayJob/selftrain-documents"]
    experiment = load_experiment(build_parser().parse_args(words[1:]))
    found = {name.partition(":")[2]: group["labels"] for name, group in groups().items() if name.startswith("RayJob/selftrain-documents:")}
    assert experiment.augment.placement == found["language-model"] and experiment.training.placement == found["training"]


@pytest.mark.parametrize("name", commands())
def test_our_command_line_takes_the_entrypoint(name):
    program, *words = commands()[name]
    assert program == "selftrain"
    options = build_parser().parse_args(words)
    if options.experiment:
        options.experiment = str(ROOT / Path(options.experiment).relative_to("/opt/selftrain"))
    experiment = load_experiment(options)
    assert experiment.ray.address == "auto"
    assert all(folder.startswith("/data/") for folder in (experiment.output, experiment.augment.cache, experiment.model.cache))
    assert options.experiment or experiment.data.source.startswith("/data/")
    if experiment.augment.gpus not in (0, "auto"):
        assert experiment.ray.wait_seconds >= 600, "GPU nodes start from zero"
        assert experiment.training.storage.startswith("/data/"), "several nodes train"


def test_an_entrypoint_that_we_do_not_take_would_be_seen():
    with pytest.raises(SelfTrainError):
        load_experiment(build_parser().parse_args(["run", "--address", "auto", "--set", "augment.gpu=1"]))
    assert len(commands()) == 3


def test_serve_takes_the_endpoints_configuration():
    """It is that of serve/cluster.yaml, but for the model's name and where the numbers are written."""
    from ray.serve.schema import ServeDeploySchema
    from selftrain_serve.app import build

    text = documents()["RayService/selftrain-endpoint"]["spec"]["serveConfigV2"]
    ours, ships = yaml.safe_load(text), yaml.safe_load((ROOT / "serve" / "cluster.yaml").read_text(encoding="utf-8"))
    ServeDeploySchema(**ours)
    build(ours["applications"][0]["args"])
    ships["applications"][0]["args"]["models"] = [{"model": "documents"}]
    assert ours == ships
    assert any("--set name=documents" in " ".join(words) for words in commands().values())
    ports = found(clusters()["RayService/selftrain-endpoint"], "ports")
    assert all({"name": "serve", "containerPort": ours["http_options"]["port"]} in listed for listed in ports) and len(ports) == 2


def test_mlflow_takes_the_options_of_the_tracking_server():
    from mlflow.cli import cli

    (container,) = documents()["Deployment/mlflow"]["spec"]["template"]["spec"]["containers"]
    program, command, *words = container["command"] + container["args"]
    assert program == "mlflow"
    parser = cli.commands[command]
    parser.make_context("mlflow server", words)
    with pytest.raises(click.NoSuchOption, match=r"[Nn]o such option"):
        parser.make_context("mlflow server", [*words, "--no-such-option"])
