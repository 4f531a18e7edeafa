"""An imitation of S3 that speaks its protocol, for tests of what lies in an object store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKETS = itertools.count()


@contextmanager
def s3_server() -> Iterator[str]:
    """Its address, while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(server: str, patch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket; this process and those that it starts find the server."""
    import s3fs

    variables = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for variable, value in variables.items():
        patch.setenv(variable, value)
    s3fs.S3FileSystem.clear_instance_cache()  # one of another test may ask another server
    name = f"bucket-{next(BUCKETS)}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
