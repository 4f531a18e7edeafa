"""Known vulnerabilities of what the locks pin: `make audit`. pip-audit asks PyPI's service about each version; what it was not told about counts as not audited.

Exit code 0: all audited and none known; 1: some are vulnerable; 2: the service did not answer for every package, so nothing can be said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCKS = tuple(Path(__file__).with_name(name) for name in ("cpu.txt", "gpu.txt"))


def audit(lock: Path, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What pip-audit finds of each package of a lock with hashes; nothing is installed or resolved.

    Raises:
        ConnectionError: the service did not answer, or does not know some of the packages.
    """
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner",
        "off",
        "--format",
        "json",
        "-r",
        str(lock),
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConnectionError(f"pip-audit did not finish: {said[-1][:300]}") from None
    if skipped := [one["name"] for one in found if "skip_reason" in one]:
        raise ConnectionError(f"the service knows nothing of {len(skipped)} of {len(found)} packages, e.g. {', '.join(skipped[:3])}")
    return found


def main(options: Sequence[str]) -> int:
    """Audit all locks, print what is vulnerable, return the exit code."""
    vulnerable = False
    for lock in LOCKS:
        try:
            found = audit(lock, options)
        except ConnectionError as error:
            print(
                f"audit: {lock.name} could not be audited ({error}); run it where the service of PyPI answers, or ask another service with "
                "make audit ARGS='--vulnerability-service osv'.",
                file=sys.stderr,
            )
            return 2
        for one in found:
            for known in one["vulns"]:
                vulnerable = True
                print(
                    f"audit: {lock.name}: {one['name']} {one['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
                )
        print(f"audit: {lock.name}: {len(found)} packages audited")
    return int(vulnerable)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
