"""The types of keys that say where something computes: GPUs as numbers, parts or `auto`, what is worked on at once, and the labels of nodes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def _number(given: Any) -> Any:
    """`given` as a number where it is a string that holds one."""
    try:
        return given if not isinstance(given, str) else float(given) if "." in given else int(given)
    except ValueError:
        return given


def _engine_gpus(given: Any) -> Any:
    number = _number(given)
    if given == "auto":
        return given
    if not isinstance(number, int | float) or not 0 <= number < 2**16 or not (number < 1 or float(number).is_integer()):
        raise ValueError("must be auto, a whole number of GPUs, or a part of one such as 0.5")
    return int(number) if float(number).is_integer() else number


def _requests(given: Any) -> Any:
    if given == "auto":
        return given
    number = _number(given)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError("must be auto or a whole number of requests, at least 1")
    return number


def _worker_gpu(given: Any) -> Any:
    number = _number({"true": True, "false": False}.get(given.lower(), given) if isinstance(given, str) else given)
    if given == "auto":
        return given
    if not isinstance(number, int | float) or not 0 <= number <= 1:
        raise ValueError("must be auto, true, false, or a part of a GPU such as 0.5")
    return number if isinstance(number, bool) else bool(number) if number in (0, 1) else number


def _placement(given: Any) -> Any:
    fine = isinstance(given, dict) and all(
        isinstance(key, str) and _LABEL_KEY.fullmatch(key) and isinstance(value, str) and _LABEL_VALUE.fullmatch(value)
        for key, value in given.items()
    )
    if not fine:
        raise ValueError("must be labels of Ray nodes and their values, e.g. {selftrain/role: training}")
    return given


# Checked before the union is: its own error would list every member.
EngineGpus = Annotated[Literal["auto"] | int | float, BeforeValidator(_engine_gpus)]
WorkerGpu = Annotated[Literal["auto"] | bool | float, BeforeValidator(_worker_gpu)]
Requests = Annotated[Literal["auto"] | int, BeforeValidator(_requests)]
Placement = Annotated[dict[str, str], BeforeValidator(_placement)]


def decided(asked: str | float, key: str) -> float:
    """The number of GPUs where it is one.

    Args:
        asked: the value of `key`.
        key: `augment.gpus` or `training.gpu`.

    Raises:
        ValueError: it is still `auto`: a caller has left out `runtime.devices.decide`.
    """
    if isinstance(asked, str):
        raise ValueError(f"{key} is {asked!r}; runtime.devices.decide makes a number of it")
    return float(asked)
