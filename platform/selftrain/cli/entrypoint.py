"""What a submitted job runs on the cluster: `python -m selftrain.cli.entrypoint STORAGE COMMAND ...`, for `selftrain COMMAND ...` in the folder STORAGE.

Where STORAGE is empty the job needs none: it works in the folder that Ray throws away, and what it leaves goes to addresses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from selftrain.errors import SelfTrainError, say
from selftrain.runtime.upload import keep_files


def main(given: Sequence[str]) -> int:
    """Keep what the job took along, and run its command; the exit codes are the command's.

    Args:
        given: the storage, and the words of the command line.
    """
    storage, *words = given
    if storage:
        try:
            keep_files(Path.cwd(), Path(storage))
        except SelfTrainError as error:
            say(error)
            return 2
        os.chdir(storage)  # what is relative all the same is not lost
        os.environ["MLFLOW_TRACKING_URI"] = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"
    from selftrain.cli import main as selftrain

    return selftrain(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
