"""Processes that are lost are named within seconds, and nothing outlives a session that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import alive

from selftrain.errors import ProcessDied
from selftrain.runtime import reaper, watch

CHILD = "import time; time.sleep(600)"
# A session in a process of its own, as a run has it: one child that ends by itself and one that has taken leave of its parent, as Ray's workers have.
SESSION = f"""
import subprocess, sys, time
from selftrain.runtime.watch import guarded
with guarded():
    first = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
    second = subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True)
    print(first.pid, second.pid, flush=True)
    if sys.argv[1] == "end":
        sys.exit(0)
    time.sleep(600)
"""


def gone(pids: list[int], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not alive(pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", ["kill", "end"])
def test_what_a_session_started_ends_with_it(how) -> None:
    with subprocess.Popen([sys.executable, "-c", SESSION, how], stdout=subprocess.PIPE, text=True) as session:
        pids = [int(word) for word in session.stdout.readline().split()]
        if how == "kill":
            assert len(alive(pids)) == len(pids) > 0
            session.kill()
        session.wait(60)
    assert gone(pids)


def test_a_descendant_without_the_mark_ends_too_though_its_parent_was_killed_before() -> None:
    """Ray's agents write their title over their environment."""
    starts = (
        f"import os, subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {CHILD!r}], env={{}}).pid, flush=True); time.sleep(600)"
    )
    session = f"""
import os, signal, subprocess, sys, time
from selftrain.runtime.watch import guarded
with guarded():
    parent = subprocess.Popen([sys.executable, "-c", {starts!r}], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(3)  # the reaper looks once a second
    print(parent.pid, child, flush=True)
    parent.kill()
    parent.wait()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", session], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        process.wait(60)
    assert len(pids) == 2 and gone(pids)


def test_processes_without_the_mark_are_left_alone() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], env={**os.environ, reaper.MARK: "another"})
    try:
        assert reaper.kill_all("0123456789abcdef", grace=0.0, limit=1.0)
        assert child.poll() is None
        assert list(reaper.session_of("another")) == [child.pid]
        assert reaper.kill_all("another", grace=0.0, limit=30.0)
        assert child.wait(30) == -signal.SIGKILL
    finally:
        child.kill()


def impostor(tmp_path) -> subprocess.Popen:
    """A process that has the name of Ray's control store."""
    program = tmp_path / "gcs_server"
    program.symlink_to(sys.executable)
    return subprocess.Popen([str(program), "-c", "open('/proc/self/comm', 'w').write('gcs_server'); import time; time.sleep(600)"])


def test_a_lost_control_store_ends_the_wait_with_a_sentence(tmp_path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = impostor(tmp_path)
    try:
        with pytest.raises(ProcessDied, match=r"Ray's control store \(gcs_server\) was killed"), watch.guarded() as guard:
            end = time.monotonic() + 60
            while not guard._watched:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert not watch.ray_is_lost()
            child.kill()
            time.sleep(120)  # what waits for Ray waits for ever
        assert watch._guard is None and reaper.MARK not in os.environ
    finally:
        child.kill()
        child.wait()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_a_person_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), watch.guarded():
        raise KeyboardInterrupt
    error = ValueError()
    assert watch.cause_of(error) is error


def test_little_memory_is_told_once_until_there_is_more(monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 3600.0)
    with watch.guarded(told.append) as guard:
        kills = watch.kernel_kills()
        for available, more in ((50, 0), (4, 0), (3, 0), (10, 0), (4, 0), (50, 0), (4, 1)):
            memory = type("Memory", (), {"available": available * 2**30, "total": 100 * 2**30})
            monkeypatch.setattr(watch.psutil, "virtual_memory", lambda memory=memory: memory)
            monkeypatch.setattr(watch, "kernel_kills", lambda more=more: kills + more)
            guard._memory()
        guard._over.set()
    assert [sentence.partition(":")[0] for sentence in told] == [
        "memory is short",
        "memory is short",
        "the kernel killed a process of this machine for lack of memory",
    ]
    assert "4.0 of 100.0 GiB are free" in told[0]


RAY_SAYS = {
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer due to "
    "high memory usage": "was killed, or crashed",
    "1 worker(s) were killed due to the node running low on memory. Refer to the documentation": "was killed for lack of memory (by Ray's memory monitor)",
    "The actor is dead because it was killed by `ray.kill`.": "was ended by Ray (ray.kill), which it does when a process no longer answers",
    "The actor is dead because its owner has died. Worker exit detail: Owner's node has crashed.": "was lost with its node",
    "The actor 0263 is unavailable: The actor is temporarily unavailable: RpcError: RPC error: Socket closed rpc_code: 14. The task may or may not have been "
    "executed on the actor.": "was killed, or crashed",
    "something else": "died (something else)",
}


@pytest.mark.parametrize(("said", "why"), RAY_SAYS.items())
def test_what_ray_says_of_a_death_in_words(said, why) -> None:
    assert watch.why_it_died(RuntimeError(said)) == why


def test_a_kill_that_the_kernel_counted_was_for_memory(monkeypatch) -> None:
    counted = [7]
    monkeypatch.setattr(watch, "kernel_kills", lambda: counted[0])
    monkeypatch.setattr(watch, "_KERNEL", watch.KernelKills())
    assert watch.why_it_died("exits unexpectedly") == "was killed, or crashed"
    counted[0] = 8
    assert watch.why_it_died("exits unexpectedly") == "was killed for lack of memory (by the kernel)"


def test_a_main_thread_that_no_signal_reaches_is_ended_with_the_sentence(tmp_path) -> None:
    """As inside of Ray's own code, which waits a minute for a lost control store."""
    program = f"""
import signal, subprocess, sys, time
from pathlib import Path
from selftrain.runtime import watch
watch._STUCK_SECONDS = 1.0
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from test_watch import impostor
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
with watch.guarded():
    child = impostor(Path({str(tmp_path)!r}))
    time.sleep(5)  # the guard looks twice a second
    child.kill()
    time.sleep(600)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and ended.stderr.startswith("selftrain: Ray's control store (gcs_server) was killed"), ended.stderr
