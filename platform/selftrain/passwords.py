"""Passwords inside addresses: finding them, to refuse them, and hiding them, to show the address."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_USER_AND_PASSWORD = re.compile(r"([A-Za-z][\w+.-]*://[^:/?#\s]*):([^/?#\s]+)@")  # up to the last @: a password may hold one
_PARAMETER = re.compile(r"([?&;](?:password|passwd|pwd|sslpassword|token|api_key|secret)=)[^&;\s]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """`text` with *** in place of each password inside an address."""
    return _PARAMETER.sub(r"\1***", _USER_AND_PASSWORD.sub(r"\1:***@", text))


def has_password(text: str) -> bool:
    """Whether `text` is an address with a password in it."""
    return "://" in text and without_passwords(text) != text


def keys_with_passwords(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a nested mapping whose values are addresses with a password."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from keys_with_passwords(value, f"{prefix}{name}.")
        elif isinstance(value, str) and re.match(r"[A-Za-z][\w+.-]*://\S+$", value) and has_password(value):
            yield f"{prefix}{name}"
