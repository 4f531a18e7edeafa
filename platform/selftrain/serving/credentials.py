"""The secrets of a replica: its bearer token, and the key of a language model's server. They stand in a file or in the environment alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from selftrain.errors import ConfigError

TOKEN_VARIABLE = "SELFTRAIN_SERVE_TOKEN"
MIN_TOKEN_CHARACTERS = 16


class Secret(NamedTuple):
    """The content of a file or of an environment variable, without the blanks around it."""

    where: str  # it comes from, as the first words of a sentence
    text: str

    @property
    def printable(self) -> bool:
        """Whether a header can carry it: printable ASCII without spaces."""
        return bool(self.text) and self.text.isascii() and self.text.isprintable() and " " not in self.text


def read_token(file: str | Path | None) -> bytes | None:
    """The token that requests must carry: from `file`, else from the environment variable SELFTRAIN_SERVE_TOKEN; None where neither is set.

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
