"""The audits of `audits` and of `several`."""

from __future__ import annotations

from audits import here, made
from several import several_here, several_made

__all__ = ["here", "made", "several_here", "several_made"]
