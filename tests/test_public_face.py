"""`from selftrain import ...`: what is there, that it is imported when first used, and that the old door changes nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import selftrain


@pytest.mark.parametrize("name", selftrain.__all__)
def test_every_public_name_is_there_and_callable(name):
    assert name in dir(selftrain)
    found = getattr(selftrain, name)
    assert callable(found) and found.__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        selftrain.trainer  # noqa: B018
    assert selftrain._PLACES.keys() == set(selftrain.__all__)


def test_export_is_the_function_also_after_an_old_model_was_opened():
    code = (
        "import selftrain, selftrain.export.pyfunc; from selftrain import SelfTrainError, export\n"
        "try: export('no such bundle', None, backends=())\n"
        "except SelfTrainError: print('refused')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "refused"
