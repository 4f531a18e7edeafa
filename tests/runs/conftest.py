"""The audit of `audits`."""

from __future__ import annotations

from audits import here, made

__all__ = ["here", "made"]
