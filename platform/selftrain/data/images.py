"""Images as documents: encoded bytes (JPEG, PNG, whatever Pillow opens) to arrays of one size, each with an id that follows from its pixels.

An image is a uint8 array `[3, height, width]`; a split of them is one array `[documents, 3, height, width]`. Grey images get three equal channels.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from selftrain.data.splits import hash_order
from selftrain.errors import DataError

if TYPE_CHECKING:
    from selftrain.data.cleaning import SourceRow

# Pillow opens some forty kinds of files; PostScript among them would be run by another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
PIXELS = 1 << 20  # of an image: 1,024 by 1,024; the networks here are for 32 to 224 a side
# A file of a few bytes may stand for a million equal pixels: beyond this many bytes of pixels, an image has at least a hundredth of them in its file.
FREE_BYTES, EXPANSION = 256 << 20, 100
COLUMNS = ("image", "img")  # names of image columns, on the hub and in files
_PROBED = 100  # images that vote on the size of a source


# Pillow raises each of them on a torn file; numbers in a header that make no sense are errors of Python.
_TORN = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error, zlib.error)


@contextmanager
def _image(content: bytes) -> Iterator[Any]:
    """An image whose header was read; Pillow's warning of its size says nothing that is not checked here."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    with opened:
        yield opened


def image_id(pixels: np.ndarray) -> str:
    """A stable id: the first 16 hexadecimal digits of the SHA-256 of the pixels."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def encoded(value: object) -> bytes | None:
    """The bytes of an image cell: bytes as they are, or what the hub's image columns hold (`{bytes, path}`); None where there are none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


def usable_image(value: object, size: tuple[int, int] | None) -> tuple[np.ndarray, str]:
    """(pixels `[3, height, width]`, "") or (an empty array, reason).

    Args:
        value: a cell of the image column.
        size: (width, height) that all images of the source have; None where no image could be read.
    """
    none = np.empty(0, dtype=np.uint8)
    content = encoded(value)
    if content is None:
        return none, "empty" if value is None or isinstance(value, bytes | dict) else "not an image"
    from PIL import Image

    try:
        with _image(content) as image:
            if image.size != size or image.width * image.height > PIXELS:
                return none, "another size"
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1)), ""
    except (*_TORN, Image.DecompressionBombError):
        return none, "not an image"


def common_size(rows: Sequence[SourceRow]) -> tuple[int, int] | None:
    """(width, height) of most of the first 100 rows, from the files' headers; None where none is an image."""
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    for row in rows[:_PROBED]:
        try:
            with _image(encoded(row.text) or b"") as image:
                sizes[image.size] += 1
        except (*_TORN, Image.DecompressionBombError):
            continue
    return sizes.most_common(1)[0][0] if sizes else None


def check_sizes(rows: Sequence[SourceRow], size: tuple[int, int] | None, where: str) -> None:
    """Raise a `DataError` where images of `size` have too many pixels, or all of them together many more than their files let expect.

    Args:
        rows: rows of images.
        size: (width, height) of all of them; None where no image could be read.
        where: name of the source, for the error.
    """
    if size is None:
        return
    width, height = size
    if width * height > PIXELS:
        raise DataError(f"The images of {where} have {width:,} by {height:,} pixels, more than {PIXELS:,} in all; make them smaller first.")
    pixels = 3 * width * height * len(rows)
    if pixels > FREE_BYTES and sum(len(encoded(row.text) or b"") for row in rows) * EXPANSION < pixels:
        raise DataError(
            f"The images of {where} would take {pixels / 1e9:,.1f} GB, more than {EXPANSION} times their files: these are not pictures; leave the empty ones out."
        )


def thinned(rows: Sequence[SourceRow], count: int | None, preferred: Callable[[SourceRow], bool] | None = None) -> list[SourceRow]:
    """The `count` rows that come first in the hash order of their bytes: what is not used is not decoded.

    Args:
        rows: rows of images.
        count: of rows to keep; None for all.
        preferred: which rows come before all others; None for no such order.
    """
    if count is None or len(rows) <= count:
        return list(rows)
    by_hash: dict[str, SourceRow] = {}
    for row in rows:
        by_hash.setdefault(hashlib.sha256(encoded(row.text) or b"").hexdigest(), row)
    ordered = [by_hash[key] for key in hash_order(by_hash)]
    if preferred is not None:
        ordered = sorted(ordered, key=lambda row: not preferred(row))
    return ordered[:count]


def stacked(images: Sequence[Any]) -> Any:
    """`[images, 3, height, width]`, read-only: documents do not change."""
    array = np.stack(images) if images else np.empty((0, 3, 1, 1), dtype=np.uint8)
    array.flags.writeable = False
    return array
