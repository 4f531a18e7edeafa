"""The processes of an application of Ray Serve, as seen from outside: which can be asked, why one died, and whether some wait for room.

Serve ends processes, too, where it has more than it needs. Such an end is told from a death by three things: Ray says `ray.kill`, Serve has said lately that it
scales down, and it has not said that a process is ill.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

from selftrain.runtime.watch import why_it_died

ROOM_SECONDS = 60.0  # a process that has not begun after so long waits for room
_LATELY_SECONDS = 5.0  # between what Serve says and the end of a process
_ILL = ("UNHEALTHY", "DEPLOY_FAILED")


class Replicas:
    """The processes of one application.

    Args:
        application: its name.
        drain_seconds: how long one that Serve ends may still answer what it was asked; None: Serve ends none.
    """

    def __init__(self, application: str, drain_seconds: float | None) -> None:
        self._application = application
        self._drain_seconds = drain_seconds
        self._found: dict[str, _Replica] = {}
        self._shrank = self._ill = -math.inf  # when Serve has last said so

    def deaths(self) -> list[str]:
        """Why processes died since the last call: the rest of a sentence each."""
        self._look()
        errors = [(replica, error) for replica in list(self._found.values()) if (error := replica.poll()) is not None]
        if self._found and self._drain_seconds is not None:
            self._ask_serve()
        return [why_it_died(error) for replica, error in errors if not self._retired(replica, str(error))]

    def ready(self) -> bool:
        """Whether one of them can be asked."""
        return any(replica.ready for replica in list(self._found.values()))

    def waiting(self) -> bool:
        """Whether some wait for room, beside one that can be asked."""
        late = time.monotonic() - ROOM_SECONDS
        return self.ready() and any(not replica.begun and not replica.dead and replica.since < late for replica in list(self._found.values()))

    def kill(self) -> None:
        """End them all now."""
        import ray

        self._look()
        for replica in list(self._found.values()):
            if not replica.dead:
                ray.kill(replica.actor)

    def _look(self) -> None:
        import ray

        for entry in ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            # Serve names the actors of its replicas so; the only way to learn why one died is its handle, and no public function gives that.
            if name.startswith(f"SERVE_REPLICA::{self._application}#") and name not in self._found:
                with suppress(ValueError):  # gone already
                    self._found[name] = _Replica(ray.get_actor(name, namespace=entry["namespace"]))

    def _ask_serve(self) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        with suppress(ray.exceptions.RayError, RayServeException):  # its controller is being started again
            application = serve.status().applications.get(self._application)
            for one in application.deployments.values() if application is not None else ():
                if one.status in _ILL:
                    self._ill = time.monotonic()
                if one.status == "DOWNSCALING" or one.status_trigger == "DOWNSCALE_COMPLETED":
                    self._shrank = time.monotonic()

    def _retired(self, replica: _Replica, error: str) -> bool:
        if self._drain_seconds is None or "ray.kill" not in error:
            return False
        if not replica.begun:  # no longer wanted before it had room
            return True
        now = time.monotonic()
        return now - self._shrank < self._drain_seconds + _LATELY_SECONDS and now - self._ill > _LATELY_SECONDS


class _Replica:
    """One process."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.since = time.monotonic()
        self.begun = self.ready = self.dead = False
        self._probe: Any = None

    def poll(self) -> Exception | None:
        """Update what is known of it; returns what it died of, once."""
        import ray

        if self.dead:
            return None
        self._probe = self._probe or self.actor.__ray_ready__.remote()
        if not ray.wait([self._probe], timeout=0)[0]:
            return None
        try:
            ray.get(self._probe)
            self.begun = self.ready = True
        except ray.exceptions.ActorUnavailableError:
            pass
        except ray.exceptions.RayError as error:
            self.dead, self.ready = True, False
            return error
        self._probe = None
        return None
