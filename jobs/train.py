"""Entry point for `ray job submit --working-dir . -- python jobs/train.py jobs/experiments/bbc_news.yaml [--set section.key=value ...]`.

The same as `selftrain run` with the same options, on the cluster that runs the job, with the selftrain that its nodes have installed; the checkout's own is sent
and runs with `--runtime-env-json '{"py_modules": ["platform/selftrain"], "excludes": ["__pycache__"]}'`. Relative paths of the experiment lie in the job's copy of
the working directory, which Ray throws away: set `output` to an address (s3://bucket/runs), or to a folder that all nodes share, and MLFLOW_TRACKING_URI to a
server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def command(given: Sequence[str]) -> list[str]:
    """The arguments of the command line that run a job with the options `given` on the job's own cluster, which is what `auto` finds."""
    return ["run", *given, "--address", "auto"]


if __name__ == "__main__":
    from selftrain.cli import main

    sys.exit(main(command(sys.argv[1:])))
