"""The Python way: a scikit-learn estimator over texts, class names and labels; prediction without Ray."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tiny import tiny_backbone

from selftrain import Classifier, ConfigError, DataError, SelfTrainer, SelfTrainError
from selftrain.models.locate import fingerprint

TEXTS = [f"the team and its coach won match {n}" for n in range(10)] + [f"the bank and the market lost profit {n}" for n in range(10)]
LABELS = ["sport"] * 10 + ["business"] * 10
SMALL = {"similarity": "dot", "hidden": 8, "word_dimensions": 8, "vocabulary": 100}


@pytest.fixture
def encoder_folder(tmp_path):
    tiny_backbone(tmp_path / "parts").save_pretrained(str(tmp_path / "encoder"))
    return str(tmp_path / "encoder")


@pytest.fixture
def head(encoder_folder, tmp_path):
    """A trainer of a head, with labels."""
    options = {"rounds": 2, "steps_per_round": 6}
    return SelfTrainer(method="cross_entropy", options=options, encoder=encoder_folder, train="head", model={"cache": str(tmp_path / "embeddings")})


def weights(trainer, folder):
    saved = trainer.save(folder)
    return {str(file.relative_to(saved)): load_file(str(file)) for file in sorted(saved.rglob("*.safetensors"))}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[file][name], other[file][name]) for file in one for name in one[file])


def test_fit_predict_and_save(encoder_folder, tmp_path):
    trainer = SelfTrainer(encoder=encoder_folder, method={"rounds": 2, "steps_per_round": 3}).fit(
        [*TEXTS, "", TEXTS[0]], classes=["sport", "business"]
    )
    probabilities = trainer.predict_proba(TEXTS)
    assert probabilities.shape == (20, 2)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    assert list(trainer.classes_) == ["sport", "business"]
    again = Classifier.load(trainer.save(tmp_path / "saved"))
    assert np.array_equal(again.predict(TEXTS), trainer.predict(TEXTS))
    card = again.card
    assert card.encoder_fingerprint == fingerprint(tmp_path / "encoder") and card.data_fingerprint
    assert (card.supervision, card.method, card.llm, card.llm_fingerprint) == ("none", "genco", None, None)
    assert card.experiment["method"]["rounds"] == 2 and card.experiment["data"]["classes"] == ["sport", "business"]


def test_windows_are_set_and_saved(head, tmp_path):
    model = {**head.model, "max_tokens": 8, "windows": 2}
    trainer = head.set_params(model=model).fit(TEXTS, LABELS)
    long = [f"{one} {other}" for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    again = Classifier.load(trainer.save(tmp_path / "saved"))
    assert again.card.windows == 2 and {len(one.windows) for one in again.tokenize(long)} == {2}
    assert again.predict_proba(long) == pytest.approx(trainer.predict_proba(long), abs=1e-6)


def test_the_same_seed_gives_the_same_weights_also_of_a_model_that_starts_from_random_ones(tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(100 + number)  # what was drawn before has no say
        trainer = SelfTrainer(encoder="bilstm", model=SMALL, options={"rounds": 1, "steps_per_round": 2}, seed=seed)
        trainer.fit(TEXTS, classes=["sport", "business"])
        found.append(weights(trainer, tmp_path / str(number)))
    assert equal(found[0], found[1]) and not equal(found[0], found[2])


def test_labels_of_some_texts_are_learned_from_and_the_others_are_unlabeled(head, tmp_path):
    y = [label if place % 3 == 0 else None for place, label in enumerate(LABELS)]
    trainer = head.set_params(options={"rounds": 3, "steps_per_round": 20, "learning_rate": 0.05}).fit(TEXTS, y)
    assert list(trainer.classes_) == ["business", "sport"]
    assert trainer.score(TEXTS, LABELS) == 1.0
    assert trainer.classifier_.card.supervision == "7 labeled documents"
    assert head.fit(TEXTS, np.array(LABELS)).classifier_.card.supervision == "all"
    given = trainer.fit(TEXTS, [*y[:-1], float("nan")], classes=["sport", "business", "culture"])
    assert list(given.classes_) == ["sport", "business", "culture"]


@pytest.mark.parametrize(
    ("method", "y", "classes", "error", "words"),
    [
        ("genco", LABELS, None, ConfigError, "learns from no labels, and y holds some; set method='ssc'"),
        ("ssc", None, ["sport", "business"], ConfigError, "y must hold class names for the method 'ssc'"),
        ("ssc", [None] * 20, ["sport", "business"], ConfigError, "y must hold class names"),
        ("genco", None, None, ConfigError, "classes must hold the class names"),
        ("genco", [None] * 20, None, ConfigError, "classes must hold the class names"),
        ("proden", LABELS, None, ConfigError, "learns from candidate sets"),
        ("ssc", LABELS[1:], None, DataError, r"y must be as long as X, 20 \(got 19\)"),
        ("ssc", [*LABELS[:19], "culture"], ["sport", "business"], DataError, r"y\[19\] must be one of classes, sport, business"),
        ("gencoo", None, ["sport", "business"], ConfigError, "Unknown method 'gencoo'"),
        ({"name": "genco", "input_augmentation": True}, None, ["sport", "business"], ConfigError, "language_model must be set"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_fitted(method, y, classes, error, words):
    trainer = SelfTrainer(method=method)
    with pytest.raises(error, match=words) as caught:
        trainer.fit(TEXTS, y, classes=classes)
    assert isinstance(caught.value, ValueError)


def test_one_text_with_two_labels_is_refused():
    with pytest.raises(DataError, match=r"y\[20\] must be 'sport', as the same text has it before"):
        SelfTrainer(method="ssc").fit([*TEXTS, f" {TEXTS[0]} "], [*LABELS, "business"])


def test_one_class_is_refused(encoder_folder):
    with pytest.raises(SelfTrainError, match="at least two"):
        SelfTrainer(encoder=encoder_folder).fit(TEXTS, classes=["sport"])


def test_predict_needs_no_ray(encoder_folder, tmp_path):
    SelfTrainer(encoder=encoder_folder, options={"rounds": 0}).fit(TEXTS, classes=["sport", "business"]).save(tmp_path / "saved")
    code = f"import sys; from selftrain import Classifier; Classifier.load({str(tmp_path / 'saved')!r}).predict(['a match']); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("texts", "classes"), [("one string", ["a", "b"]), (["a text"] * 30, "ab"), (["a text"] * 30, {"a": 1, "b": 2}), (b"bytes", ["a", "b"])]
)
def test_one_string_is_no_list(texts, classes):
    with pytest.raises(SelfTrainError, match=r"must be a list of (texts|names)"):
        SelfTrainer().fit(texts, classes=classes)


def test_classes_may_be_a_tree(encoder_folder):
    tree = {"free time": ["sport"], "work": ["business", "culture"]}
    card = SelfTrainer(encoder=encoder_folder, options={"rounds": 0}).fit(TEXTS, classes=tree).classifier_.card
    assert card.labels == ("sport", "business", "culture") and card.parents == (("free time",), ("work",), ("work",))
    assert card.label_prompts[1] == ("Category: business (work).", "It is about business (work).")


def test_the_constructor_only_stores_what_it_gets():
    options = {"rounds": "many"}
    trainer = SelfTrainer(method="no such method", options=options)
    assert trainer.get_params()["options"] is options and trainer.method == "no such method"
    copied = clone(SelfTrainer(method="ssc", options={"rounds": 3}, seed=4))
    assert (copied.method, copied.options, copied.seed) == ("ssc", {"rounds": 3}, 4)
    with pytest.raises(NotFittedError):
        SelfTrainer().predict(TEXTS)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
    ],
)
def test_scikit_learns_own_checks_that_fit_no_numbers(check):
    check("SelfTrainer", SelfTrainer())


def test_in_a_pipeline(head):
    pipeline = Pipeline([("clean", FunctionTransformer(lambda texts: [text.lower() for text in texts])), ("model", head)])
    pipeline.fit([text.upper() for text in TEXTS], LABELS, model__classes=["sport", "business"])
    assert list(pipeline.classes_) == ["sport", "business"]
    assert pipeline.predict_proba(["THE TEAM"]).shape == (1, 2)


def test_in_a_grid_search(head):
    rates = [{"rounds": 1, "learning_rate": 1e-9}, {"rounds": 3, "steps_per_round": 20, "learning_rate": 0.05}]
    search = GridSearchCV(head, {"options": rates}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_ == {"options": rates[1]} and search.best_score_ == 1.0
    assert search.predict(TEXTS[:1]).tolist() == ["sport"]
