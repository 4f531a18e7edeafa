"""A slice of the work on mutants: pytest collects the tests, and every mutant gets a child of that process."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _pytest.fixtures import FixtureDef
from report import Mutant
from verdicts import CODE, Verdicts

MEMORY = 6 << 30  # that a mutant may take beside what the process has


@dataclass
class Child:
    """A process that runs tests."""

    folder: Path
    started: float
    wall: float
    done: Callable[[int, Path, float], None]


class Slice:
    """A pytest plugin: in place of the tests, a slice of the work on mutants."""

    def __init__(self, mutants: Sequence[Mutant], chosen: Sequence[Mutant], verdicts: Verdicts, options: argparse.Namespace) -> None:
        self._hashes = {mutant.function: _digest(mutant.original) for mutant in mutants}
        self._mutants, self._verdicts, self._until, self._children = chosen, verdicts, time.monotonic() + 60 * options.minutes, options.children
        self._partial = bool(options.tests)
        self._running: dict[int, Child] = {}
        self._shared: set[str] | None = None
        self._failed: str | None = None
        self.tested = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which test failed."""
        if report.failed:
            self._failed = report.nodeid

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: FixtureDef[Any]) -> Any:
        """What a fixture of several tests reaches, all of them reach."""
        if self._shared is None or fixturedef.scope == "function":
            return (yield)
        from mutmut.state import state

        before = set(state()._stats)
        state()._stats.clear()
        result = yield
        self._shared |= state()._stats
        state()._stats |= before
        return result

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All of the work."""
        from selftrain.files import journal

        if not Path(journal.__file__).is_relative_to(CODE):
            raise pytest.UsageError(f"The tests import {journal.__file__} in place of the copy that holds the mutants.")
        if session.testsfailed:
            raise pytest.UsageError("Some tests cannot be collected; run pytest on them and fix that first.")
        items: dict[str, pytest.Item] = {item.nodeid: item for item in session.items}
        self._scratch = Path(tempfile.mkdtemp(prefix="mutants-"))
        try:
            self._find_reach(items)
            for name, item in items.items():
                if test := self._verdicts.reach.get(name.partition("::")[0], {}).get("tests", {}).get(name):
                    test["digest"] = _digest(inspect.getsource(item.function))  # type: ignore[attr-defined]
            self._verdicts.save_reach()
            self._verdicts.index()
            self._test(items)
        except KeyboardInterrupt:
            print("\nStopped; what is known is kept.")
        finally:
            for pid in list(self._running):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            shutil.rmtree(self._scratch, ignore_errors=True)
        return True

    def _find_reach(self, items: Mapping[str, pytest.Item]) -> None:
        """Run every test file that is new or changed, or that reaches a function that changed, and note who reaches what."""
        hashes = self._hashes
        by_file: dict[str, list[pytest.Item]] = defaultdict(list)
        for name, item in items.items():
            by_file[name.partition("::")[0]].append(item)
        if not self._partial:
            for file in set(self._verdicts.reach) - set(by_file):
                del self._verdicts.reach[file]
        for file, tests in by_file.items():
            digest = hashlib.sha256((CODE / file).read_bytes()).hexdigest()[:16]
            known = self._verdicts.reach.get(file, {})
            same = bool(known) and known["digest"] == digest and set(known["tests"]) == {item.nodeid for item in tests}
            if same and all(hashes.get(function) == old for function, old in known["hashes"].items()):
                continue
            if not self._wait_for_room():
                break
            print(f"  which code does {file} reach?", flush=True)

            def done(status: int, folder: Path, seconds: float, file: str = file, digest: str = digest) -> None:
                if status != 0:
                    raise pytest.UsageError(f"The tests in {file} ended their process with {status} where nothing was changed.")
                found = json.loads((folder / "reach.json").read_text())
                reached = {function for test in found.values() for function in test["functions"]}
                self._verdicts.set_reach(file, {"digest": digest, "hashes": {f: hashes[f] for f in sorted(reached) if f in hashes}, "tests": found})
                for name, test in found.items():
                    if test["failed"]:
                        print(f"  left out, because it fails where nothing is changed: {name}", flush=True)

            self._fork(partial(self._reach, tests), done, cpu=3000, wall=3000)
        self._drain()

    def _reach(self, tests: Sequence[pytest.Item], folder: Path) -> int:
        from mutmut.mutation.trampoline import set_mutant_under_test
        from mutmut.state import state

        set_mutant_under_test("stats")
        found: dict[str, dict[str, Any]] = {}
        self._shared = set()
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            state()._stats.clear()
            self._failed, started = None, time.monotonic()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            found[item.nodeid] = {
                "seconds": round(time.monotonic() - started, 3),
                "functions": set(state()._stats),
                "failed": self._failed is not None,
            }
        for test in found.values():
            test["functions"] = sorted(test["functions"] | self._shared)
        (folder / "reach.json").write_text(json.dumps(found))
        return 0

    def _test(self, items: Mapping[str, pytest.Item]) -> None:
        # An order by chance that is always the same: where the time does not suffice, what was tested is a random sample of every file.
        waiting = sorted((mutant for mutant in self._mutants if self._verdicts.known(mutant) is None), key=lambda mutant: mutant.identity)
        print(f"  {len(self._mutants)} mutants, {len(waiting)} to be tested", flush=True)
        shown = time.monotonic()
        for mutant in waiting:
            if not self._wait_for_room():
                break
            tests = self._verdicts.tests_of(mutant.function, mutant.path, items)
            if not tests:
                continue
            seconds = self._verdicts.seconds(tests)

            def done(status: int, folder: Path, taken: float, mutant: Mutant = mutant) -> None:
                killer = folder / "killer"
                if status == 0:
                    verdict = "survived"
                elif killer.is_file():
                    verdict = "killed"
                else:  # a signal: out of time, out of memory, a crash of native code
                    verdict = "timeout"
                if verdict == "survived" and not self._verdicts.reaching(mutant.function) <= items.keys():  # a test that was not asked may notice it
                    print(f"\n{mutant.name} survived these tests\n{mutant.change}", flush=True)
                    return
                self._verdicts.record(mutant, verdict, killer.read_text() if verdict == "killed" else None)
                self.tested += 1

            chosen = [items[name] for name in tests]
            self._fork(partial(self._run, mutant, chosen), done, cpu=10 + 6 * seconds, wall=60 + 12 * seconds)
            if time.monotonic() > shown + 15:
                shown = time.monotonic()
                print(f"  {self.tested} of {len(waiting)} tested", flush=True)
        self._drain()

    def _run(self, mutant: Mutant, tests: Sequence[pytest.Item], folder: Path) -> int:
        from mutmut.mutation.trampoline import set_mutant_under_test

        set_mutant_under_test(mutant.name)
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed is not None:
                (folder / "killer").write_text(item.nodeid)
                return 1
        return 0

    def _fork(self, work: Callable[[Path], int], done: Callable[[int, Path, float], None], *, cpu: float, wall: float) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        pid = os.fork()
        if pid:
            self._running[pid] = Child(folder, time.monotonic(), wall, done)
            return
        status = 3
        try:
            os.setsid()  # what a test starts ends with it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 2))
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
            sys.stdout = sys.stderr = io.StringIO()
            self._config.pluginmanager.unregister(name="terminalreporter")
            tempfile.tempdir = str(folder)
            self._session_folder(folder / "tests")
            status = work(folder)
        finally:
            os._exit(status)

    def _session_folder(self, folder: Path) -> None:
        self._config._tmp_path_factory._given_basetemp = folder  # type: ignore[attr-defined]
        self._config._tmp_path_factory._basetemp = None  # type: ignore[attr-defined]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Keep the configuration: every child has temporary folders of its own."""
        self._config = config

    def _wait_for_room(self) -> bool:
        """Whether there is time to start another child; there is room then."""
        while len(self._running) >= self._children:
            self._reap()
        return time.monotonic() < self._until

    def _drain(self) -> None:
        while self._running:
            self._reap()

    def _reap(self) -> None:
        for pid, child in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            taken = time.monotonic() - child.started
            if not ended and taken > child.wall:
                os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
            if ended:
                del self._running[pid]
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # what it left behind
                child.done(os.waitstatus_to_exitcode(status), child.folder, taken)
                shutil.rmtree(child.folder, ignore_errors=True)
        time.sleep(0.01)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
