"""Images as documents: encoded bytes (JPEG, PNG, whatever Pillow opens) to arrays of one size, each with an id that follows from its pixels.

An image is a uint8 array `[3, height, width]`; a split of them is one array `[documents, 3, height, width]`. Grey images get three equal channels.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selftrain.data.splits import hash_order

if TYPE_CHECKING:
    from selftrain.data.cleaning import Row

COLUMNS = ("image", "img")  # names of image columns, on the hub and in files
_PROBED = 100  # images that vote on the size of a source


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
        with Image.open(io.BytesIO(content)) as image:
            if image.size != size:
                return none, "another size"
            return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1)), ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow raises each of them on a torn file
        return none, "not an image"


def common_size(rows: Sequence[Row]) -> tuple[int, int] | None:
    """(width, height) of most of the first 100 rows, from the files' headers; None where none is an image."""
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    for row in rows[:_PROBED]:
        try:
            with Image.open(io.BytesIO(encoded(row.text) or b"")) as image:
                sizes[image.size] += 1
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return sizes.most_common(1)[0][0] if sizes else None


def thinned(rows: Sequence[Row], count: int | None) -> list[Row]:
    """The `count` rows that come first in the hash order of their bytes: what is not used is not decoded."""
    if count is None or len(rows) <= count:
        return list(rows)
    by_hash: dict[str, Row] = {}
    for row in rows:
        by_hash.setdefault(hashlib.sha256(encoded(row.text) or b"").hexdigest(), row)
    return [by_hash[key] for key in hash_order(by_hash)[:count]]


def stacked(images: Sequence[Any]) -> Any:
    """`[images, 3, height, width]`, read-only: documents do not change."""
    array = np.stack(images) if images else np.empty((0, 3, 1, 1), dtype=np.uint8)
    array.flags.writeable = False
    return array
