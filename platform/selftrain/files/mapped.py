"""Bytes that become more: in memory while they are few, from then on in a file without a name, which is mapped.

Of a mapped file the system keeps in memory what is read, as long as nobody needs the room. The file lies in the temporary folder of this machine (TMPDIR), and is
gone with the process, however that ends.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import IO

from selftrain.files.durable import explained
from selftrain.files.scratch import TEMPORARY

MAPPED = 16 << 20  # bytes, from which they lie in a file


class GrowingBytes:
    """Bytes, one piece after the other."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, content: bytes | memoryview) -> None:
        """Append `content`.

        Raises:
            OutputError: the temporary folder has no room for it.
        """
        view = memoryview(content)
        self._size += view.nbytes
        if self._file is None and self._size < MAPPED:
            self._held += view
            return
        with explained(tempfile.gettempdir(), TEMPORARY):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="selftrain-", buffering=0)  # noqa: SIM115  it is there as long as the bytes are
                self._write(memoryview(self._held))
                self._held = bytearray()
            self._write(view)

    def _write(self, view: memoryview) -> None:
        assert self._file is not None
        left = view.cast("B") if view.nbytes else view
        while left:
            left = left[self._file.write(left) :]

    def whole(self) -> memoryview:
        """All of them; nothing can be appended after that."""
        if self._file is None:
            return memoryview(self._held).toreadonly()
        return memoryview(mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ))
