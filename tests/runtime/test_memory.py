"""Giving back what a process no longer uses."""

import subprocess
import sys

FRAGMENTS = """
import psutil
from selftrain.runtime.memory import keep_trimming, trim

def private():
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) >> 20

blocks = [bytes(60_000) for _ in range(4000)]  # 229 MiB in blocks that glibc takes from its heap
last = bytes(60_000)  # ends the heap: what is freed before it stays with the process
del blocks
kept = private()
{give_back}
print(kept - private())
"""


def given_back(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", FRAGMENTS.format(give_back=how)], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_free_pages_go_back_to_the_system_when_asked():
    assert given_back("pass") < 20
    assert given_back("trim()") > 150


def test_a_process_can_go_on_giving_back():
    assert given_back("import time; keep_trimming(0.05); time.sleep(1)") > 150


SETTLED = """
import gc, weakref
from selftrain.runtime.memory import settle

class Ring:
    def __init__(self):
        self.itself = self

ring = Ring()
seen = weakref.ref(ring)
settle()
print(gc.get_freeze_count() > 1000, any(one is ring for one in gc.get_objects()))
del ring
gc.collect()
print(seen() is None)
settle()
print(seen() is None)
"""


def test_the_collector_passes_over_what_has_settled_until_it_settles_again():
    run = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "False", "False", "True"]
