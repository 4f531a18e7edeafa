"""MLmodel files written by versions up to 0.1.0 name this module as their loader."""

from selftrain.bundle.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
