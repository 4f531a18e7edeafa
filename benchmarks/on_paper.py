"""What a run on very many documents would take, on paper: `python benchmarks/on_paper.py [--documents 100e6] [--gpus 64]`.

Costs of this code are the measured ones of docs/results (on two cores); what GPUs do and cost are **assumptions**, each an option, since none was at hand. A stage's
seconds are the longest of what it waits for, as its parts work side by side. The result is the table of docs/howto/large.md.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


@dataclass(frozen=True)
class Stage:
    """A line of the table."""

    name: str
    seconds: float
    limit: str  # what it waits for
    gpus: bool  # whether it keeps the GPUs busy
    gigabytes: str  # what it holds or writes


def measured(file: str, figure: str, **row: str) -> float:
    """A figure of the last line of a CSV in docs/results with these values."""
    with (RESULTS / file).open(newline="", encoding="utf-8") as lines:
        found = [line for line in csv.DictReader(lines) if all(line[key] == value for key, value in row.items())]
    return float(found[-1][figure])


def stages(options: argparse.Namespace) -> list[Stage]:
    """A run of GenCo without conditional texts, and a prediction of everything."""
    count, million = options.documents, 1e6
    size = options.characters / 300  # of a document, as a multiple of that which was measured
    loaded = [{"code": "now", "documents": number, "limit": ""} for number in ("400000", "1000000")]
    read = measured("loading.csv", "processor_microseconds_a_document", **loaded[1]) * 1e-6 * count * size
    # Of a further document, between two numbers of which both have their texts in files.
    before, behind = ([measured("loading.csv", figure, **row) for figure in ("own_peak_mb", "own_after_mb", "file_mb")] for row in loaded)
    *own, mapped = ((more - less) / 600e3 / 1e3 * count for less, more in zip(before, behind, strict=True))

    texts = count * options.samples
    path = measured("generation.csv", "texts_per_second", engine="stub", concurrent_requests="256", replicas="1")
    written, sent = texts * options.tokens / (options.gpus * options.written), texts / path
    cache = measured("text_cache.csv", "disk_mb", cache="now", step="write", entries="10000000") / 1e3 * texts / 1e7 * options.tokens / 11  # 8 words
    index = 8e-9 * texts

    ranking = {"way": "Ray, up to 2 actors"}
    small, large = (measured("pseudo_labeling.csv", "rank_seconds", **ranking, documents=one) for one in ("10000", "1000000"))
    around = 2 * (large - small) / (million - 1e4)  # seconds of one core a document, beside the encoder
    embedded = count / (options.gpus * options.embedded)
    ranked = count * around / options.gpus
    driver = measured("pseudo_labeling.csv", "driver_peak_mb", **ranking, documents="1000000") / 1e3

    def longest(**parts: float) -> tuple[float, str]:
        name = max(parts, key=lambda part: parts[part])
        return parts[name], name.replace("_", " ")

    rounds = [options.rounds * part for part in (embedded, ranked)]
    return [
        Stage("read", read, "one process", False, f"{mapped * size:.0f} GB in mapped files, {max(own):.0f} GB of the driver's own"),
        Stage("texts", *longest(the_GPUs=written, one_text_service=sent), True, f"{cache:.0f} GB of cache, {index:.1f} GB to open it"),
        Stage(
            f"{options.rounds} rounds",
            *longest(the_GPUs=rounds[0], cores_beside_the_GPUs=rounds[1]),
            True,
            f"{driver:.1f} GB in the driver beside the corpus",
        ),
        Stage("predict", embedded, "the GPUs", True, f"{count * (options.characters + 60) / 1e9:.0f} GB of Parquet, uncompressed"),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, default=100e6)
    parser.add_argument("--characters", type=float, default=300, help="of a document")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--samples", type=float, default=1, help="texts a document")
    parser.add_argument("--tokens", type=float, default=32, help="of a text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--written", type=float, default=10_000, help="tokens a second that a GPU writes (assumed)")
    parser.add_argument("--embedded", type=float, default=5_000, help="documents a second that a GPU embeds (assumed)")
    parser.add_argument("--price", type=float, default=3.0, help="dollars a GPU and hour (assumed)")
    options = parser.parse_args()
    print("| stage | hours | waits for | holds or writes | GPUs, dollars |\n| --- | --- | --- | --- | --- |")
    found = stages(options)
    for stage in found:
        cost = f"{stage.seconds / 3600 * options.gpus * options.price:,.0f}" if stage.gpus else "none yet"
        print(f"| {stage.name} | {stage.seconds / 3600:.1f} | {stage.limit} | {stage.gigabytes} | {cost} |")
    total = sum(stage.seconds for stage in found) / 3600
    paid = sum(stage.seconds for stage in found if stage.gpus) / 3600 * options.gpus * options.price
    print(f"| all | {total:.1f} | | | {paid:,.0f} |")


if __name__ == "__main__":
    main()
