"""What tests of the repository's experiments and spaces ask of each: that it names what there is."""

from __future__ import annotations

import re

from selftrain.config import Experiment
from selftrain.data.catalogue import CATALOGUE
from selftrain.methods.recipe import resolve
from selftrain.models.locate import BILSTM, ENCODER, IMAGE_ENCODERS

# docs/howto/paper.md makes these: an encoder by jobs/pooler.py, and sets by selftrain generate.
MADE = {"sup-simcse-roberta-base-pooler"}
GENERATED = "generated/"
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_settings(experiment: Experiment) -> None:
    """Assert that the method takes its options and the documents, the catalogue knows the data, and encoder and models have names that can be found."""
    recipe = resolve(experiment)
    data, model = experiment.data, experiment.model
    named = CATALOGUE[data.source.removeprefix(GENERATED)]
    if data.source.startswith(GENERATED):  # a set that a language model wrote for the classes of the set that tests it
        assert data.test_source == named.name and data.supervision == "all"
    elif data.test_source is not None:
        assert data.test_source in CATALOGUE
    classes = {one.name for one in named.classes}
    assert set(data.descriptions) <= classes and set(getattr(recipe.options, "verbalizers", {})) <= classes
    assert (recipe.method.supervision == "none") == (data.supervision == "none") or experiment.method["name"] == "supervised", data.supervision
    assert named.kind in recipe.method.kinds
    assert (model.encoder in IMAGE_ENCODERS) == (named.kind == "image")
    if model.encoder not in (BILSTM, ENCODER, *IMAGE_ENCODERS, *MADE):
        assert _HUB.fullmatch(model.encoder), model.encoder
    for other in (model.masked_lm, experiment.augment.model):
        assert other is None or _HUB.fullmatch(other), other
    assert recipe.method.masked_lm is (model.masked_lm is not None) or not recipe.method.masked_lm
    assert experiment.augment.model is not None or not recipe.wants_texts
    threshold = getattr(recipe.options, "ns3l_threshold", 0.0) if getattr(recipe.options, "ns3l_weight", 0.0) else 0.0
    assert not classes or threshold < 1 / len(classes), "NS3L refuses a threshold that an undecided prediction falls below"
    if named.kind == "image":
        assert model.train == "full"
    assert getattr(recipe.options, "ns3l_negatives", "") != "oracle" or data.supervision == "oracle"
