"""A door that stored files use: models logged before the room `bundle` existed name `selftrain.export.pyfunc` as their loader.

Importing it makes the module an attribute of `selftrain`, where the function `selftrain.export` is looked for: so the module does what the function does.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Door(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from selftrain.compress.onnx import export_bundle

        return export_bundle(*arguments, **options)


sys.modules[__name__].__class__ = _Door
