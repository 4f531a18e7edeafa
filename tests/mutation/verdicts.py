"""What is known of mutants, kept under .mutants: a line for every verdict, and which test reaches which function."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from report import ROOT, Mutant

HOME = ROOT / ".mutants"
CODE = HOME / "mutants"  # mutmut's copy of the code, all mutants in it
SECONDS_OF_TESTS = 20.0  # at most, for one mutant


class Verdicts:
    """What is known, in files under .mutants: a line for every verdict, and which test reaches which function."""

    def __init__(self) -> None:
        self._file, self._reach_file = HOME / "verdicts.jsonl", HOME / "reach.json"
        self.by_identity: dict[str, dict[str, Any]] = {}
        if self._file.is_file():
            for line in self._file.read_bytes().splitlines():
                with contextlib.suppress(ValueError):  # cut short by a kill
                    entry = json.loads(line)
                    self.by_identity[entry["mutant"]] = entry
        # test file -> {"digest", "hashes" of the functions reached, "tests": {id: {"seconds", "functions", "failed", "digest" of its source}}}
        self.reach: dict[str, dict[str, Any]] = json.loads(self._reach_file.read_text()) if self._reach_file.is_file() else {}

    def add(self, mutant: Mutant, status: str, **more: Any) -> None:
        """Write a verdict down at once."""
        entry = {"mutant": mutant.identity, "name": mutant.name, "status": status, **more}
        self.by_identity[mutant.identity] = entry
        with self._file.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def set_reach(self, file: str, found: Mapping[str, Any]) -> None:
        """What the tests of a file reach."""
        self.reach[file] = dict(found)
        self.save_reach()

    def save_reach(self) -> None:
        """Write down what tests reach."""
        scratch = self._reach_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(self.reach))
        scratch.replace(self._reach_file)

    def tests_of(self, function: str, path: str, collected: Collection[str]) -> list[str]:
        """The ids of the tests that reach a function: those that killed its mutants, those of its own test file, then the fastest; as many as the time allows."""
        killers = self._killers.get(function, Counter())
        own = f"test_{Path(path).stem}.py"
        reaching = [test for test in self._reaching.get(function, []) if test[0] in collected]
        ordered = sorted(reaching, key=lambda test: (-killers[test[0]], not test[0].partition("::")[0].endswith(own), test[1]))
        seconds = 0.0
        taken: list[str] = []
        for name, needed in ordered:
            if taken and seconds + needed > SECONDS_OF_TESTS:
                continue
            seconds += needed
            taken.append(name)
        return taken

    def reaching(self, function: str) -> set[str]:
        """The ids of all tests that reach a function, as far as they were measured."""
        return {name for name, _ in self._reaching.get(function, [])}

    def index(self) -> None:
        """Prepare `tests_of` and `known` for what `reach` holds now."""
        # Where a test file was not measured yet, nobody knows that a function is reached by none.
        places = [CODE / place for place in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]["tests"]]
        files = [file for place in places for file in (sorted(place.rglob("test_*.py")) if place.is_dir() else [place])]
        self._complete = all(
            self.reach.get(str(file.relative_to(CODE)), {}).get("digest") == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for file in files
            if file.is_file()
        )
        self._reaching: dict[str, list[tuple[str, float]]] = defaultdict(list)
        self._seconds: dict[str, float] = {}
        self._digests = {name: test.get("digest", "") for found in self.reach.values() for name, test in found["tests"].items()}
        for found in self.reach.values():
            for name, test in found["tests"].items():
                self._seconds[name] = test["seconds"]
                if not test["failed"]:
                    for function in test["functions"]:
                        self._reaching[function].append((name, test["seconds"]))
        self._killers: dict[str, Counter[str]] = defaultdict(Counter)
        for entry in self.by_identity.values():
            if entry["status"] == "killed":
                self._killers[entry["name"].partition("__mutmut_")[0]][entry["by"]] += 1

    def seconds(self, tests: Sequence[str]) -> float:
        """How long tests take."""
        return sum(self._seconds[name] for name in tests)

    def digest(self, tests: Sequence[str]) -> str:
        """Of the tests, by name and source."""
        return hashlib.sha256(json.dumps(sorted((name, self._digests[name]) for name in tests)).encode()).hexdigest()[:16]

    def known(self, mutant: Mutant) -> dict[str, Any] | None:
        """The verdict, where it still holds: the test that killed it is unchanged, or no test that reaches it is new or changed."""
        entry = self.by_identity.get(mutant.identity)
        reaching = sorted(self.reaching(mutant.function))
        if entry is None:
            return {"status": "unreached"} if not reaching and self._complete else None
        if entry["status"] == "killed":
            return entry if entry["by"] in reaching and entry["digest"] == self._digests[entry["by"]] else None
        return entry if entry["digest"] == self.digest(reaching) else None

    def record(self, mutant: Mutant, status: str, by: str | None) -> None:
        """A verdict with what it depends on."""
        if status == "killed" and by:
            self.add(mutant, status, by=by, digest=self._digests[by])
            self._killers[mutant.function][by] += 1
        else:
            self.add(mutant, status, digest=self.digest(sorted(self.reaching(mutant.function))))
