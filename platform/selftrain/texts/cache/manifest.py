"""The manifest of a text cache: which merged files count, and up to where the log is in them.

`manifest-00000007.json` is generation 7. Whoever creates a generation first has committed it, names are never free again, and the newest counts. What no
reader may still be reading (older than the one before the newest) is emptied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from selftrain.errors import DataError

_NAME = re.compile(r"manifest-(\d{8,})\.json")
FORMAT = 1
MERGED = "merged"  # folder of the merged files


@dataclass(frozen=True)
class MergedFile:
    """A large Parquet file, sorted by the hash of the key."""

    name: str  # with the folder
    rows: int
    bytes: int  # in memory
    size: int  # on disk
    first: int  # lowest hash
    last: int  # highest hash


@dataclass(frozen=True)
class Manifest:
    """One generation.

    Args:
        generation: its number; 0 is the empty one that no file is needed for.
        through: blocks of the log with this number or a lower one are in `runs`, or never counted.
        runs: what was merged at once, oldest first; the files of a run have hashes of their own each, in ascending order.
    """

    generation: int = 0
    through: int = -1
    runs: tuple[tuple[MergedFile, ...], ...] = ()

    @property
    def files(self) -> list[MergedFile]:
        """All files, in the order in which they count."""
        return [file for run in self.runs for file in run]

    def swapped(self, name: str, files: Iterable[MergedFile]) -> Manifest:
        """The next generation, with `files` in place of the file `name`."""
        new = tuple(files)
        runs = [tuple(got for file in run for got in (new if file.name == name else (file,))) for run in self.runs]
        return replace(self, generation=self.generation + 1, runs=tuple(run for run in runs if run))

    def to_bytes(self) -> bytes:
        """Its file."""
        fields = {
            "format": FORMAT,
            "generation": self.generation,
            "through": self.through,
            "runs": [[asdict(file) for file in run] for run in self.runs],
        }
        return (json.dumps(fields, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, path: str) -> Manifest:
        """What `to_bytes` wrote.

        Raises:
            ValueError: it is damaged.
            DataError: a later version wrote it.
        """
        try:
            fields = json.loads(content)
            written = fields["format"]
            if written == FORMAT:
                runs = tuple(tuple(MergedFile(**file) for file in run) for run in fields["runs"])
                return cls(int(fields["generation"]), int(fields["through"]), runs)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no manifest ({error})") from None
        raise DataError(
            f"The text cache's {path} was written by a later version of selftrain (format {written!r}); install that, or set augment.cache."
        )


def manifest_name(generation: int) -> str:
    """The file of a generation."""
    return f"manifest-{generation:08d}.json"


def newest_generation(names: Iterable[str]) -> int:
    """The highest generation among names of files; 0 where there is none."""
    return max((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), default=0)


def merged_name(generation: int, unique: str) -> str:
    """The file for a merge that wants to become `generation`."""
    return f"{MERGED}/{generation:08d}-{unique}.parquet"


def unlisted(names: Iterable[str], manifest: Manifest) -> list[str]:
    """Merged files that this generation or an earlier one may have had, and that it does not have: of merges that lost or died, or merged again.

    Args:
        names: in that folder, without it.
        manifest: a generation. A file of a higher one may be of a merge that is at work.
    """
    counts = {file.name for file in manifest.files}
    found = re.compile(r"(\d{8,})-.*\.parquet")
    return [
        f"{MERGED}/{name}"
        for name in names
        if (match := found.fullmatch(name)) and int(match[1]) <= manifest.generation and f"{MERGED}/{name}" not in counts
    ]
