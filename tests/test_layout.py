"""The shape of the house: nothing of ours hides a module of Python or of an installed package, and importing the library is light."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"
HEAVY = ("ray", "vllm", "mlflow", "torch", "transformers", "sentence_transformers", "datasets", "sklearn", "matplotlib", "pandas")


def answer(code: str, *, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints, started in `cwd` as `python -c` is: with the working directory first on its path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    environment["PYTHONPATH"] = str(ROOT / "platform")
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def hidden(root: Path) -> set[str]:
    """Top-level packages and modules of `root` that have the name of a standard module or of an installed package."""
    importable = {folder.parent.name for folder in root.glob("*/__init__.py")} | {file.stem for file in root.glob("*.py")}
    return importable & (set(sys.stdlib_module_names) | set(metadata.packages_distributions()))


def test_import_platform_finds_the_standard_library():
    file = Path(answer("import platform; print(platform.__file__)"))
    assert file.parent == Path(sysconfig.get_path("stdlib"))
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.slow
def test_no_top_level_package_hides_another():
    assert hidden(ROOT) == set()


@pytest.mark.slow
def test_a_package_that_hides_another_would_be_seen(tmp_path):
    for name in ("platform", "ray", "numpy", "jobs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "types.py").touch()
    assert hidden(tmp_path) == {"platform", "ray", "numpy", "types"}


def test_the_picture_of_the_rooms_is_the_linters_contract():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]["layers"]
    picture = ElementTree.parse(ROOT / "docs" / "pictures" / "rooms.svg")
    layers = [group for group in picture.iter(f"{SVG}g") if group.get("id", "").startswith("layer-")]
    drawn = [[text.text for text in group.iter(f"{SVG}text") if text.get("class") != "note"] for group in layers]
    assert [[f"selftrain.{name}" for name in names] for names in drawn] == [names.split(" : ") for names in contract]
    heights = [float(group.find(f"{SVG}rect").get("y")) for group in layers]
    assert heights == sorted(heights)  # from above


def test_the_hops_of_today_name_what_is_there():
    """docs/architecture.md lists hops before and after the redesign; each name of the latter is a module, or is defined in the module or class that it names."""
    defined, modules = set(), set()
    for file in (ROOT / "platform" / "selftrain").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT / "platform").with_suffix("").parts).removesuffix(".__init__")
        modules.add(module)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            for name in [getattr(node, "name", ""), *(alias.asname or alias.name for alias in getattr(node, "names", []))]:
                defined.add(f"{module}.{name}")
            if isinstance(node, ast.ClassDef):
                own = {getattr(inner, "name", None) or getattr(getattr(inner, "target", None), "id", "") for inner in node.body}
                defined |= {f"{module}.{node.name}.{name}" for name in own}
    # What a method inherits counts as its own.
    known = defined | modules | {name.replace("zero_shot.selection.SelectingMethod.", "zero_shot.genco.GenCo.") for name in defined}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    after = re.findall(r"^After.*?(?=^Before|^#|\Z)", text, re.DOTALL | re.MULTILINE)
    names = [name for part in after for name in re.findall(r"`([A-Za-z_][\w.]*)`", part)]
    assert len(after) == 4 and len(names) > 50
    assert [name for name in names if not any(one == name or one.endswith(f".{name}") for one in known)] == []


def test_the_wheel_lists_every_package():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    found = {".".join(file.parent.relative_to(ROOT / "platform").parts) for file in (ROOT / "platform").rglob("__init__.py")}
    assert listed == found | {"selftrain_serve"}


@pytest.mark.slow
def test_serve_hides_nothing():
    # `serve/` has an __init__.py and is importable from the root; Ray's is `ray.serve`, and nothing installed is called plain `serve`.
    assert "serve" not in metadata.packages_distributions()
    assert answer("from ray import serve; print(serve.__name__)") == "ray.serve"


@pytest.mark.parametrize("module", ["selftrain", "selftrain.config", "selftrain.cli", "selftrain.doctor"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert answer(code) == "[]"


def test_help_imports_nothing_but_the_standard_library_and_the_command_line():
    """What makes it answer at once on any machine: a clock would test the machine."""
    code = (
        "import contextlib, io, sys; before = set(sys.modules); from selftrain.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit): main(['--help'])\n"
        "assert 'doctor' in said.getvalue()\n"
        "print(sorted(name for name in set(sys.modules) - before if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    found = set(ast.literal_eval(answer(code)))
    assert {"selftrain", "selftrain.cli"} <= found
    assert {name.partition(".")[0] for name in found} == {"selftrain"} and len(found) <= 18, sorted(found)


def test_the_installed_command_helps():
    helped = subprocess.run([Path(sys.executable).parent / "selftrain", "--help"], capture_output=True, text=True, timeout=180, check=False)
    assert helped.returncode == 0, helped.stderr
    assert "doctor" in helped.stdout
