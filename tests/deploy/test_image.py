"""deploy/Dockerfile: it copies what is there, installs as set-up does, holds no secret and runs as nobody; somebody reads each of its commands and variables."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest
from manifests import ROOT, documents, found, pods

from selftrain.cli.main import build_parser
from selftrain.serving.gate import OPEN_PATHS

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Variables that other packages read: the file of the installed package that names it.
READERS = {
    "RAY_USAGE_STATS_ENABLED": "ray/_common/usage/usage_constants.py",
    "RAY_AUTH_MODE": "ray/_private/authentication/authentication_token_setup.py",
    "DO_NOT_TRACK": "vllm/usage/usage_lib.py",
    "HF_HOME": "huggingface_hub/constants.py",
    "HF_TOKEN": "huggingface_hub/utils/_auth.py",
    "MLFLOW_TRACKING_URI": "mlflow/environment_variables.py",
    "MLFLOW_TRACKING_USERNAME": "mlflow/environment_variables.py",
    "MLFLOW_TRACKING_PASSWORD": "mlflow/environment_variables.py",
}
OF_THE_SYSTEM = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "NVIDIA_DRIVER_CAPABILITIES", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of the Dockerfile, continuation lines joined; a parser of Dockerfiles would be one more package for twenty lines."""
    lines = [line for line in (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name."""
    found_stages: dict[str, list[tuple[str, str]]] = {"": []}
    for word, rest in instructions():
        if word == "FROM":
            found_stages[rest.rpartition(" AS ")[2]] = []
        list(found_stages.values())[-1].append((word, rest))
    return found_stages


def copied() -> list[str]:
    """What the stages copy from the repository."""
    rests = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from=")]
    return [source for sources in rests for source in sources[:-1]]


def test_stages_and_their_base():
    assert list(stages()) == ["", "build", "base", "endpoint", "selftrain"]  # the last one is what `docker build` makes without --target
    bases = {name: stage[0][1].split()[0] for name, stage in stages().items() if name}
    assert bases == {"build": "${PYTHON_IMAGE}", "base": "${PYTHON_IMAGE}", "endpoint": "base", "selftrain": "base"}
    ((_, image),) = stages()[""]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11-slim-[a-z]+", image)
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.12"


def test_what_it_copies_is_there_and_is_not_ignored():
    """The ignore file lets in what is listed, and nothing else."""
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert {source.rstrip("/") for source in copied()} == let_in
    for source in copied():
        assert (ROOT / source).is_dir() if source.endswith("/") else (ROOT / source).is_file(), source
    kept_out = [rule for rule in rules[1:] if not rule.startswith("!")]
    tracked = subprocess.run(["git", "ls-files", *let_in], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert tracked and all(rule.startswith("**/") for rule in kept_out)
    assert [file for file in tracked for rule in kept_out if any(fnmatch.fnmatch(part, rule[3:]) for part in PurePosixPath(file).parts)] == []


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_set_up_finds_all_it_reads_among_what_is_copied(tmp_path, extra):
    """`make setup` is planned in a folder that holds what is copied before it, and nothing else."""
    build = stages()["build"]
    at = next(place for place, (word, rest) in enumerate(build) if word == "RUN" and "make setup" in rest)
    before = [source for word, rest in build[:at] if word == "COPY" for source in rest.split()[:-1]]
    for source in before:
        (shutil.copytree if source.endswith("/") else shutil.copy)(ROOT / source, tmp_path / source)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    planned = subprocess.run(
        ["make", "-n", "setup", f"EXTRA={extra}"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60, check=False
    )
    assert planned.returncode == 0, planned.stderr
    files = set(re.findall(r"-r (\S+\.txt)", planned.stdout))
    assert f"requirements/{extra}.txt" in files and all((tmp_path / file).is_file() for file in files)
    packages = PYPROJECT["tool"]["setuptools"]["package-dir"].values()
    assert all((tmp_path / place).exists() for place in [*packages, PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]])
    assert 'EXTRA="${EXTRA}"' in build[at][1] and ("ARG", "EXTRA=cpu") in build


def test_it_runs_as_the_user_of_the_pods():
    users = [rest for word, rest in stages()["base"] if word == "USER"]
    assert users == ["1000:1000"] and not any(word == "USER" for name in ("endpoint", "selftrain") for word, _ in stages()[name])
    assert {pod["securityContext"]["runAsUser"] for pod in pods().values()} == {1000}
    (created,) = [rest for word, rest in stages()["base"] if word == "RUN" and "useradd" in rest]
    assert "--uid 1000 --gid 1000" in created and "groupadd --gid 1000" in created


def test_it_holds_no_secret_and_fetches_nothing_unseen():
    for word, rest in instructions():
        assert word not in ("ADD", "VOLUME", "ONBUILD"), word
        if word in ("ARG", "ENV"):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL", rest), rest
        if word == "RUN":
            assert not re.search(r"\b(curl|git clone|pip install)\b|https?://", rest), rest
    assert not re.search(r"TOKEN|PASSWORD|SECRET|KEY", str(documents()["ConfigMap/selftrain"]["data"]))
    assert [name for name in documents() if name.startswith("Secret/")] == []


def test_its_commands_are_ours():
    commands = {name: json.loads(rest) for name in ("endpoint", "selftrain") for word, rest in stages()[name] if word == "CMD"}
    assert commands["selftrain"] == ["selftrain", "--help"]
    program, *words = commands["endpoint"]
    options = build_parser().parse_args(words)
    assert program == "selftrain" and options.host == "0.0.0.0" and not options.no_token


def test_the_health_check_asks_what_needs_no_token():
    (check,) = [rest for word, rest in stages()["endpoint"] if word == "HEALTHCHECK"]
    (exposed,) = [rest for word, rest in stages()["endpoint"] if word == "EXPOSE"]
    program, *_, address = json.loads(check.partition("CMD ")[2])
    port = build_parser().parse_args(["serve", "--model", "selftrain"]).port
    assert address.removeprefix(f"http://127.0.0.1:{port}") == "/readyz" in OPEN_PATHS and int(exposed) == port
    assert program in " ".join(rest for word, rest in stages()["base"] if word == "RUN"), "the image has the program that asks"


def variables() -> set[str]:
    """All environment variables that image and manifests set or name."""
    (env,) = [rest for word, rest in stages()["base"] if word == "ENV"]
    named = set(re.findall(r"(\w+)=", env)) | set(documents()["ConfigMap/selftrain"]["data"])
    comments = (ROOT / "deploy" / "kuberay" / "configuration.yaml").read_text(encoding="utf-8").partition("apiVersion")[0]
    named |= set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", comments))
    values = (ROOT / "deploy" / "helm" / "ray-cluster.values.yaml").read_text(encoding="utf-8")
    named |= set(re.findall(r"name: ([A-Z_]+),", values))
    return named | {one["name"] for document in documents().values() for listed in found(document, "env") for one in listed}


def test_somebody_reads_every_variable():
    ours = "\n".join(file.read_text(encoding="utf-8") for folder in ("platform", "serve") for file in (ROOT / folder).rglob("*.py"))
    assert {"SELFTRAIN_HOME", "SELFTRAIN_SERVE_TOKEN", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"} <= variables()
    for name in variables() - OF_THE_SYSTEM:
        if name not in READERS:
            assert f'"{name}"' in ours, name
        else:
            package, _, rest = READERS[name].partition("/")
            file = Path(find_spec(package).submodule_search_locations[0]) / rest
            assert re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")), f"{file} does not read {name}"
