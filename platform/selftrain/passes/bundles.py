"""A bundle on its way to the nodes of a cluster, which do not have its folder: its files go through Ray's object store, and each node unpacks them once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain.files.durable import explained, replacing_folder
from selftrain.files.scratch import own_folder

_PIECE = 64 << 20  # bytes that go into the object store at once


def bundle_id(folder: Path) -> str:
    """What stands for a bundle's content: a hash of its files and their names."""
    found = hashlib.sha256()
    for file in _files(folder):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        found.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()


@dataclass(frozen=True)
class SentBundle:
    """A bundle for the processes of a pass; of `send`."""

    id: str
    folder: str  # where the driver has it
    pieces: bytes | None  # pickled: [(file's name, [reference to a piece of it])]; None where all processes see the driver's folder

    def unpacked(self) -> Path:
        """The bundle's folder on this node; it is unpacked where it is not yet, and stays for the next pass."""
        if self.pieces is None:
            return Path(self.folder)
        import ray
        from ray import cloudpickle

        target = own_folder("bundles") / self.id
        if target.is_dir():
            return target
        try:
            with explained(target), replacing_folder(target) as made:
                for name, references in cloudpickle.loads(self.pieces):
                    (made / name).parent.mkdir(exist_ok=True)
                    with (made / name).open("wb") as stream:
                        for reference in references:
                            stream.write(ray.get(reference))
        except OSError:
            if not target.is_dir():  # another process of this node was first
                raise
        return target


def send(folder: Path, id_: str, *, alone: bool) -> SentBundle:
    """Make a bundle available to the processes of a cluster, for as long as this process is connected to it.

    Args:
        folder: of the bundle.
        id_: of `bundle_id`.
        alone: whether all of them are on this machine.
    """
    if alone:
        return SentBundle(id_, str(folder.absolute()), None)
    import ray
    from ray import cloudpickle

    sent: list[tuple[str, list[Any]]] = [
        (file.relative_to(folder).as_posix(), [ray.put(piece) for piece in _pieces(file)]) for file in _files(folder)
    ]
    # As bytes: what an actor gets as an argument is gone from the object store before a second one of its kind is started in its place.
    return SentBundle(id_, str(folder.absolute()), cloudpickle.dumps(sent))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece
