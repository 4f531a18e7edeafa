"""Entry point for `ray job submit --working-dir . -- python jobs/sweep.py tune_spaces/genco_tau.yaml [--small]`.

The same as `selftrain sweep` with the same options, on the cluster that runs the job; what jobs/train.py says of paths and of the uploaded library holds here too.
Set `output` in the base to a folder that stays: there the sweep keeps what it has finished, and there the same command finds it again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def command(given: Sequence[str]) -> list[str]:
    """The arguments of the command line that sweep with the options `given` on the job's own cluster, which is what `auto` finds."""
    return ["sweep", *given, "--address", "auto"]


if __name__ == "__main__":
    from selftrain.cli import main

    sys.exit(main(command(sys.argv[1:])))
