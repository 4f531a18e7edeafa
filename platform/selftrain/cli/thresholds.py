"""The command that sets how many labels a bundle with several of them may miss: thresholds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.audit import UNSUPPORTED
from selftrain.cli.common import add_command


def add_commands(commands: Any) -> None:
    """Add `thresholds`."""
    thresholds = add_command(
        commands,
        "thresholds",
        _thresholds,
        "set how many labels a bundle with several of them may miss, by texts that you labeled",
        examples=("selftrain thresholds bundle --answers labeled.csv --label-column labels --risk 0.1",),
        sets={"answers": "data.source", "label_column": "data.label_column", "text_column": "data.text_column", "separator": "data.label_separator"},
    )
    thresholds.add_argument("bundle", metavar="BUNDLE", help="a bundle folder that was trained with --multi-label")
    thresholds.add_argument(
        "--answers",
        metavar="FILE",
        required=True,
        help="CSV, TSV, JSONL or Parquet: texts drawn at random, with all labels of each; selftrain audit draws them, and selftrain label asks",
    )
    thresholds.add_argument("--label-column", required=True, help="column of the labels; a separator alone: none of the classes")
    thresholds.add_argument("--text-column", default="text", help="column of the text (default: text)")
    thresholds.add_argument("--separator", default=",", help="between the labels of a cell (default: a comma)")
    thresholds.add_argument("--risk", type=float, default=0.1, metavar="SHARE", help="of a class's texts that may lack it, at most (default: 0.1)")


def _thresholds(options: argparse.Namespace) -> int:
    from selftrain.runs.thresholds import set_thresholds

    found = set_thresholds(
        Path(options.bundle),
        Path(options.answers),
        risk=options.risk,
        label_column=options.label_column,
        text_column=options.text_column,
        separator=options.separator,
    )
    print(found.text)
    return 0 if found.promise is not None else UNSUPPORTED
