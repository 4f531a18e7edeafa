"""Table 5's job: its rows on the tiny corpus, and what it says when it cannot be done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from programs import program

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard
from selftrain.config import parse
from selftrain.errors import SelfTrainError
from selftrain.evaluation.diversity import self_bleu
from selftrain.methods.recipe import resolve
from selftrain.models.bilstm import BiLSTMEncoder, bilstm, vocabulary

job = program("jobs/text_quality.py")


@pytest.fixture
def method(corpus):
    torch.manual_seed(0)
    encoder = BiLSTMEncoder(bilstm(vocabulary(corpus.unlabeled.contents, 100), word_dimensions=4, hidden=4))
    granted = {id_: int(index >= 12) for index, id_ in enumerate(corpus.unlabeled.ids)}
    document = {"name": "sungen", "outer_iterations": 2, "batch_size": 8}
    return resolve(parse({"method": document})).build(replace(corpus, granted=granted), encoder)


@pytest.fixture
def judge(method):
    card = BundleCard(name="judge", labels=("sport", "money"), similarity="dot", method="zerogen")
    return Classifier(method.encoder.export(), torch.randn(2, 8), card)


def test_a_row_for_random_drawn_best_and_worst_texts(method, judge):
    found = job.rows(method, judge, ["sport", "money"], 6, 0)
    assert [name.split(":")[0] for name, _, _ in found] == ["ZeroGen", "SunGen", "SunGen", "SunGen"]
    assert all(0 < bleu < 1 and 0 <= right <= 1 for _, bleu, right in found)
    weights = method.learned().weights
    relative = weights.clone()
    for part in (slice(0, 12), slice(12, 24)):
        relative[part] /= weights[part].mean()
    best, worst = (np.argsort(sign * relative.numpy(), kind="stable")[:6] for sign in (-1, 1))
    predicted = judge.predict_proba(method.texts).argmax(axis=1)
    for row, places in ((found[2], best), (found[3], worst)):
        assert row[1] == pytest.approx(self_bleu([method.texts[place] for place in places]))
        assert row[2] == pytest.approx(np.mean([predicted[place] == (place >= 12) for place in places]))


def test_what_cannot_be_done_is_said(method, judge, capsys):
    with pytest.raises(SelfTrainError, match=r"judge must have the classes of the texts, good, bad \(got sport, money\)"):
        job.rows(method, judge, ["good", "bad"], 6, 0)
    with pytest.raises(SelfTrainError, match=r"texts must be from 2 to 24, the number of texts \(got 25\)"):
        job.rows(method, judge, ["sport", "money"], 25, 0)
    assert job.main(["nowhere.yaml", "--judge", "nowhere"]) == 2
    assert "No experiment file 'nowhere.yaml'" in capsys.readouterr().err
