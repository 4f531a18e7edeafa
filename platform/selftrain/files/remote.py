"""Object stores by address (`s3://bucket/folder`), through fsspec's packages.

Addresses and keys are where a store's own client looks for them (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selftrain.errors import MissingExtraError, SelfTrainError, ServiceError

# The package behind a protocol, and what to install for it; memory: of this process, for tests.
PACKAGES = {"s3": ("s3fs", "'selftrain[s3]'"), "gs": ("gcsfs", "gcsfs"), "memory": ("fsspec", "fsspec")}


def file_system(location: str, parameter: str) -> tuple[Any, str]:
    """(fsspec's file system of an address, the path in it).

    Args:
        location: an address that begins with one of `PACKAGES`.
        parameter: that holds it, for the error.

    Raises:
        MissingExtraError: the package of this kind of store is not installed.
    """
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(location, use_listings_cache=False)
    except ImportError as error:
        package, installed = PACKAGES[location.partition("://")[0]]
        raise MissingExtraError(f"{parameter} {location} needs the package {package}; pip install {installed}.") from error
    return files, str(root)


@contextmanager
def reached(name: str, remedy: str) -> Iterator[None]:
    """What a client of a store raises, as a `ServiceError`; that a file is not there, or is, stays what it is.

    Args:
        name: what is read or written, as the sentence begins.
        remedy: the sentence's end, besides the address, the credentials and the network.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, BlockingIOError, ImportError, SelfTrainError):
        raise
    except Exception as error:  # clients of object stores raise errors of their own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ServiceError(f"{name} cannot be reached ({reason}); check the address, the credentials and the network{remedy}.") from error
