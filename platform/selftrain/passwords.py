"""Passwords inside addresses: finding them, to refuse them, and hiding them, to show the address. Tokens and keys, from a file or the environment alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from selftrain.errors import ConfigError

TOKEN_VARIABLE = "SELFTRAIN_SERVE_TOKEN"
KEY_VARIABLE = "SELFTRAIN_LANGUAGE_MODEL_KEY"
MIN_TOKEN_CHARACTERS = 16
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
        elif isinstance(value, list | tuple):
            yield from keys_with_passwords({str(place): one for place, one in enumerate(value) if isinstance(one, Mapping)}, f"{prefix}{name}.")
        elif isinstance(value, str) and re.match(r"[A-Za-z][\w+.-]*://\S+$", value) and has_password(value):
            yield f"{prefix}{name}"


class Secret(NamedTuple):
    """The content of a file or of an environment variable, without the blanks around it."""

    where: str  # it comes from, as the first words of a sentence
    text: str

    @property
    def printable(self) -> bool:
        """Whether a header can carry it: printable ASCII without spaces."""
        return bool(self.text) and self.text.isascii() and self.text.isprintable() and " " not in self.text


def read_token(file: str | Path | None) -> bytes | None:
    """The token that requests to the endpoint must carry: from `file`, else from the environment variable SELFTRAIN_SERVE_TOKEN; None where neither is set.

    Raises:
        ConfigError: the file cannot be read, or its content is not a token.
    """
    found = read_secret(file, TOKEN_VARIABLE, "token_file")
    if found is None:
        return None
    if len(found.text) < MIN_TOKEN_CHARACTERS or not found.printable:
        raise ConfigError(
            f"{found.where} is not a token: it must be at least {MIN_TOKEN_CHARACTERS} printable ASCII characters without spaces, "
            "e.g. from `openssl rand -hex 32`.",
            parameter="token_file" if file is not None else None,
        )
    return found.text.encode()


def read_key(file: str | Path | None = None, variable: str = KEY_VARIABLE) -> str | None:
    """The API key of a language model's server: from `file`, else from the environment variable; None where neither is set.

    Args:
        file: path of the file, or None.
        variable: name of the environment variable.

    Raises:
        ConfigError: the file cannot be read, or its content or the variable's is not a key.
    """
    found = read_secret(file, variable, "language_model_key_file")
    if found is None or (file is None and not found.text):  # an empty variable is one that was taken back
        return None
    if not found.printable:
        raise ConfigError(f"{found.where} holds no key: a key is printable ASCII characters without spaces.")
    return found.text


def read_secret(file: str | Path | None, variable: str, parameter: str) -> Secret | None:
    """The content of a file, else of an environment variable; None where neither is set.

    Args:
        file: path of the file, or None.
        variable: name of the environment variable.
        parameter: name of the parameter that `file` was passed as; it ends in `_file`, and errors begin with it.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file is None:
        value = os.environ.get(variable)
        return None if value is None else Secret(f"The variable {variable}", value.strip())
    where = f"{parameter}: the {parameter.replace('_', ' ')} {file}"
    try:
        return Secret(where, Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{where} cannot be read ({problem}); set another file.", parameter=parameter) from None
