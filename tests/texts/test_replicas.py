"""What is made of the ends of Serve's processes, and of those that have not begun, without Ray."""

import math
import time
from types import SimpleNamespace

import pytest

from selftrain.texts.engines import replicas
from selftrain.texts.engines.replicas import Replicas

KILLED, ENDED = "The actor died unexpectedly before finishing this task.", "The actor is dead because it was killed by `ray.kill`."


@pytest.mark.parametrize(
    ("error", "begun", "shrank", "ill", "retired"),
    [
        (ENDED, True, 0, math.inf, True),
        (ENDED, True, 64, math.inf, True),  # what it was writing may take a minute
        (ENDED, True, 66, math.inf, False),
        (ENDED, True, math.inf, math.inf, False),  # it could not be made, or no longer answered
        (ENDED, True, 0, 1, False),
        (ENDED, True, 0, 6, True),
        (ENDED, False, math.inf, math.inf, True),  # it never had room
        (KILLED, True, 0, math.inf, False),
        (KILLED, False, 0, math.inf, False),
    ],
)
def test_what_serve_ends_because_it_needs_fewer_has_not_died(monkeypatch, error, begun, shrank, ill, retired):
    def deaths(drain_seconds):
        found = Replicas("application", drain_seconds)
        now = time.monotonic()
        found._found = {"one": SimpleNamespace(begun=begun, poll=lambda: RuntimeError(error))}
        monkeypatch.setattr(found, "_look", lambda: None)
        monkeypatch.setattr(found, "_ask_serve", lambda: vars(found).update(_shrank=now - shrank, _ill=now - ill))
        return found.deaths()

    assert len(deaths(60.0)) == (not retired)
    assert len(deaths(None)) == 1  # where Serve ends none of itself


def test_what_has_not_begun_after_a_minute_waits_for_room():
    found = Replicas("application", 60.0)

    def one(age=0.0, begun=False, dead=False):
        return SimpleNamespace(begun=begun, ready=begun and not dead, dead=dead, since=time.monotonic() - age)

    late = one(replicas.ROOM_SECONDS + 1)
    for others, waiting in (
        ([late], False),
        ([late, one(begun=True)], True),
        ([one(), one(begun=True)], False),
        ([one(99, dead=True), one(begun=True)], False),
    ):
        found._found = dict(enumerate(others))
        assert found.waiting() == waiting
