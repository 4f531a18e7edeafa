"""What all steps by hand need: float64 everywhere, so that they are compared to ten digits, and one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """See the fixture of that name."""
