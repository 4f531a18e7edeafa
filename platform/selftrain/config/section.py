"""What every part of the document is."""

from __future__ import annotations

from pydantic import BaseModel


class Section(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """A part of the document: immutable, and strict about unknown keys."""
