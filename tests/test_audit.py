"""`make audit`: pip-audit reads both locks whole, and what the service did not answer is no success."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pip_audit._dependency_source.requirement import RequirementSource
from programs import program

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("lock", ["cpu.txt", "gpu.txt"])
def test_pip_audit_reads_every_package_of_a_lock_with_its_hash(lock) -> None:
    file = ROOT / "requirements" / lock
    pinned = set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==", file.read_text(), re.MULTILINE))
    found = list(RequirementSource([file], require_hashes=True, disable_pip=True).collect())  # raises where one has no hash
    assert {one.name for one in found} == pinned and len(pinned) > 200


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages audited"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}], 1, "a 1: PYSEC-1, fixed in 2"),
        (
            [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found on PyPI"}],
            2,
            "knows nothing of 1 of 2 packages, e.g. b",
        ),
        (None, 2, "pip-audit did not finish: Failed to resolve"),
    ],
)
def test_what_it_says(monkeypatch, capsys, answers, code, words) -> None:
    module = program("requirements/audit.py")
    output = "" if answers is None else json.dumps({"dependencies": answers})
    asked = []

    def run(command, **_):
        asked.append(command)
        return SimpleNamespace(stdout=output, stderr="Traceback\nFailed to resolve", returncode=1)

    monkeypatch.setattr(module.subprocess, "run", run)
    assert module.main(["-s", "osv"]) == code
    said = capsys.readouterr()
    assert words in said.out + said.err
    assert all("--require-hashes" in command and command[-2:] == ["-s", "osv"] for command in asked)
    assert len(asked) == (1 if code == 2 else 2)
