"""Learning rates where the experiment names none: what is right for a whole encoder hardly moves a head, and the other way round it destroys."""

from dataclasses import replace

import pytest
from tiny import tiny_backbone

from selftrain.config import parse
from selftrain.methods.recipe import resolve
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder


@pytest.fixture
def rate(corpus, tmp_path):
    """The rate that a method starts with on a kind of encoder."""
    labeled = replace(corpus, granted={id_: int(index >= 12) for index, id_ in enumerate(corpus.unlabeled.ids)})
    encoders = {
        "full": lambda: TextEncoder(tiny_backbone(tmp_path / "full"), max_tokens=16),
        "head": lambda: HeadEncoder(tiny_backbone(tmp_path / "head"), max_tokens=16),
        "bilstm": lambda: BiLSTMEncoder(bilstm(vocabulary(corpus.unlabeled.contents, 100), word_dimensions=8, hidden=8)),
    }

    def found(name, kind, **options):
        method = resolve(parse({"method": {"name": name, **options}})).build(labeled, encoders[kind]())
        if hasattr(method, "start_optimizer"):
            method.start_optimizer(10)
        return method.optimizer.defaults["lr"]

    return found


@pytest.mark.parametrize(
    ("name", "head"), [("genco", 1e-3), ("pesco", 1e-3), ("combined", 1e-3), ("supervised", 3e-3), ("zerogen", 3e-3), ("cross_entropy", 1e-2)]
)
def test_the_rate_is_that_of_what_is_trained(rate, name, head):
    assert {kind: rate(name, kind) for kind in ("full", "head", "bilstm")} == {"full": 5e-5, "head": head, "bilstm": 1e-3}
    assert rate(name, "head", learning_rate=0.5) == 0.5
