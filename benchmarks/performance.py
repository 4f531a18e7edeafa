"""As fast as plain code? `python benchmarks/performance.py [--only genco] [--repeats 5]`, or `make bench [ONLY=genco]`.

Asks the questions of `QUESTIONS` one after the other, each a program that measures both sides in one run, and keeps the answers in
docs/results/performance.csv, a line a question; docs/results/performance.md has its table from there. A question that is asked alone replaces its own line. Larger
benchmarks have commands of their own.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "performance.csv"
PAGE = RESULTS.with_suffix(".md")
# Question -> (program, what is compared: ours, then theirs). Each takes less than two minutes on two cores.
QUESTIONS: dict[str, tuple[str, str]] = {
    "genco": ("training.py", "GenCo on a whole MiniLM: `fit`, and a file of plain PyTorch"),
    "ssc": ("training.py", "SSC on images with small-cnn: likewise"),
    "seal": ("training.py", "SEAL on a head: likewise"),
    "sungen": ("training.py", "SunGen on a BiLSTM: likewise"),
    "order": ("steps.py", "batches over 3.6 million documents: a permutation an epoch, and one a step"),
    "tokens": ("steps.py", "features of a batch: kept, and tokenised in every step"),
    "rows": ("steps.py", "frozen embeddings of a batch: found by the text, and by a hash of it, twice"),
    "parameters": ("steps.py", "a head called with other weights: without and with a search for weights used twice"),
    "fused": ("steps.py", "AdamW on a whole MiniLM: one weight after the other, and all in one pass"),
    "reduction": ("steps.py", "MiniLM's gradients averaged in two processes: one message, and one a weight"),
    "classifying": ("classifying.py", "answers of a bundle: `Classifier.predict`, and sentence-transformers by hand"),
    "lists": ("serving_lists.py", "lists of 64 texts to a static student: by `selftrain serve` with one replica, and by its backend in a loop"),
    "lists_clock": ("serving_lists.py", "the same by the clock, the load on the same cores"),
}
_TABLE = re.compile(r"(?<=<!-- performance -->\n)(.*?)(?=<!-- end of performance -->)", re.S)


def read(file: Path) -> dict[str, dict[str, str]]:
    """Lines of a CSV by question; none where there is no file."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as opened:
        return {line["question"]: line for line in csv.DictReader(opened)}


def write(lines: dict[str, dict[str, str]]) -> None:
    """Keep the answers in the order of `QUESTIONS`, and make the page's table again."""
    ordered = [lines[name] for name in QUESTIONS if name in lines]
    with RESULTS.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(ordered[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)
    PAGE.write_text(remade(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")


def remade(page: str, lines: dict[str, dict[str, str]]) -> str:
    """The page with its table made from `lines`."""
    table = ["", "| question | ours | theirs | unit | ratio | quartiles | n | command | date | machine, load |", "| --- " * 10 + "|"]
    for name, (_, compared) in QUESTIONS.items():
        if (line := lines.get(name)) is not None:
            cells = [f"**{name}**: {compared}", line["ours"], line["theirs"], line["unit"], line["ratio"], f"{line['q1']} to {line['q3']}", line["n"]]
            table.append("| " + " | ".join([*cells, f"`{line['command']}`", line["date"], f"{line['machine']}, {line['load']}"]) + " |")
    return _TABLE.sub(lambda _: "\n".join([*table, "", ""]), page, count=1)


def main() -> int:
    """Ask, and write; returns 1 where a program failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=QUESTIONS, action="append", help="this question alone; may be given several times")
    parser.add_argument("--repeats", type=int, help="pairs of turns; default: each program's own")
    options = parser.parse_args()
    failed = []
    for name in options.only or QUESTIONS:
        with tempfile.TemporaryDirectory(prefix="performance-") as folder:
            out = Path(folder) / "line.csv"
            command = [sys.executable, str(ROOT / "benchmarks" / QUESTIONS[name][0]), "--only", name, "--out", str(out)]
            command += ["--repeats", str(options.repeats)] if options.repeats is not None else []
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(name)
                continue
            write(read(RESULTS) | read(out))
    if failed:
        print(f"no answer: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
