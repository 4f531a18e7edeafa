"""Two processes that write the same keys to one text cache at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from selftrain.texts.cache import TextCache

KEYS = [f"k{number}" for number in range(30)]
WRITER = """
import sys
from selftrain.texts.cache import Completion, TextCache, merging, text_cache
merging.LOG_BLOCKS = text_cache.LOG_BLOCKS = int(sys.argv[3])
cache, keys = TextCache(sys.argv[1]), sys.argv[4:]
print("ready", flush=True)
sys.stdin.readline()
for key in keys:
    cache.add([Completion(key, "doc", "input", "", 0, f"{key} of {sys.argv[2]}", False, 1, 1)])
found = cache.lookup(keys)
print("|".join(found[key].text for key in keys))
"""


def two_writers_agree(place: Path | str, *, log_blocks: int) -> bool:
    """Whether both, and a later run, find the same text for each of KEYS; `log_blocks` are merged at a time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place), name, str(log_blocks), *KEYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        reported = [process.communicate(timeout=300)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
    later = TextCache(place).lookup(KEYS)
    return reported[0] == reported[1] == "|".join(later[key].text for key in KEYS)
