"""The order of an epoch is drawn once, and is the one that every step would draw."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from by_hand import CLASSES, TEXTS, WORDS, LinearEncoder

from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.data.texts import no_texts
from selftrain.methods import method_class, options_of
from selftrain.methods.orders import LatestOrder


def test_an_order_is_drawn_again_where_it_is_of_something_else():
    latest, drawn = LatestOrder(), []

    def order(of):
        return latest(of, lambda: drawn.append(of) or np.arange(3))

    for of in (0, 0, 1, 1, 0):
        order(of)
    assert drawn == [0, 1, 0]


@pytest.mark.parametrize("name", ["supervised", "zerogen"])
def test_a_permutation_an_epoch_and_every_document_once(name):
    ids = tuple(map(str, range(len(TEXTS))))
    labels = tuple(Label(one, one, one) for one in CLASSES)
    corpus = Corpus("x", labels, ("about {label}",), Documents(ids, TEXTS), Documents(), granted={id_: int(id_) % 3 for id_ in ids})
    encoder = LinearEncoder(WORDS)
    method = method_class(name)(options=options_of({"name": name, "epochs": 2, "batch_size": 3}), corpus=corpus, encoder=encoder)
    if name == "zerogen":
        method.classifier.double()
    real, made = np.random.default_rng, []
    generator = SimpleNamespace(permutation=lambda *given: made.append(1) or real(len(made)).permutation(*given))
    with patch.object(np.random, "default_rng", return_value=generator), patch.object(method, "embed", side_effect=method.embed) as embed:
        for round_ in range(2):
            method.refresh(round_, no_texts)
            for step in range(method.steps(round_)):
                method.step(round_, step)
        read = [list(call.args[0]) for call in embed.call_args_list if call.args[0][0] in TEXTS]
    epochs = [[text for batch in read[start : start + 4] for text in batch] for start in (0, 4)]
    assert len(made) == 2 and all(sorted(epoch) == sorted(TEXTS) for epoch in epochs) and epochs[0] != epochs[1]
    assert torch.isfinite(encoder.weight).all()
