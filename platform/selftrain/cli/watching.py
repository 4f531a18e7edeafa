"""The command that looks at what an endpoint sees: watch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from selftrain.cli.common import add_command

ALARM = 3  # exit code


def add_commands(commands: Any) -> None:
    """Add this file's command."""
    watch = add_command(
        commands,
        "watch",
        _watch,
        "say whether the texts that an endpoint answers have changed since its bundle was trained; exit code 3 where they have",
        examples=("selftrain watch --bundle bundle --seen seen", "selftrain watch --bundle bundle --seen seen --accept"),
    )
    watch.add_argument("--bundle", metavar="FOLDER", required=True, help="the bundle that answers")
    watch.add_argument("--seen", metavar="FOLDER", required=True, help="what selftrain serve --seen writes")
    watch.add_argument("--out", metavar="PAGE.html", help="the page (default: watch.html beside what the bundle has seen)")
    watch.add_argument("--prometheus", metavar="FILE.prom", help="also write figures in Prometheus' text format")
    watch.add_argument("--accept", action="store_true", help="take the latest texts for normal: they become the reference, and the looks begin anew")


def _watch(options: argparse.Namespace) -> int:
    from selftrain.errors import ConfigError

    bundle, seen = Path(options.bundle), Path(options.seen)
    if options.accept:
        if options.out or options.prometheus:
            raise ConfigError("--accept writes no page and no figures; leave out --out and --prometheus.")
        from selftrain.runs.watch import accept

        print(f"{accept(bundle, seen):,} texts are the reference now; the looks begin anew with those that follow.")
        return 0
    from selftrain.runs.watch import watch

    out, prometheus = (None if name is None else Path(name) for name in (options.out, options.prometheus))
    found = watch(bundle, seen, out=out, prometheus=prometheus)
    print(f"{found.text}\npage: {found.page}")
    return ALARM if found.look.alarm is not None else 0
