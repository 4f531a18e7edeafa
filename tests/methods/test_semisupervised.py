"""The family with few labels on a tiny real encoder: every member trains, follows its seed, resumes, refuses what it cannot do, and sees no other label."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import tiny_backbone

from selftrain import methods
from selftrain.bundle.classifier import Classifier
from selftrain.bundle.handover import card_of, write_student
from selftrain.config import parse
from selftrain.data.texts import TextRequest, no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.few_labels.ns3l import choose_negatives
from selftrain.methods.recipe import resolve
from selftrain.methods.semisupervised import SemiSupervised
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.training.loop import train

FAMILY = [
    name for name in methods.METHODS if issubclass(methods.method_class(name), SemiSupervised) and methods.method_class(name).supervision == "labels"
]
SHORT = {"rounds": 2, "steps_per_round": 3, "batch_size": 4, "unlabeled_ratio": 2}


def true_label(corpus, index):
    return 0 if index < len(corpus.unlabeled) // 2 else 1  # the toy corpus lists one class after the other


@pytest.fixture
def few(corpus):
    chosen = [0, 1, 2, 12, 13, 14]
    return replace(corpus, granted={corpus.unlabeled.ids[index]: true_label(corpus, index) for index in chosen})


def built(corpus, folder, seed=0, head=True, **method):
    experiment = parse({"method": {**SHORT, **({"objective_steps": 2} if method["name"] == "seal" else {}), **method}})
    backbone = tiny_backbone(folder)
    encoder = HeadEncoder(backbone, max_tokens=16) if head else TextEncoder(backbone, max_tokens=16)
    torch.manual_seed(seed)
    return resolve(experiment).build(corpus, encoder, seed=seed)


def run(method, texts=no_texts, seed=0, **how):
    return train(method, texts=texts, report=how.pop("report", lambda figures, state: None), seed=seed, **how)


def predictions(method, corpus):
    return method.student().predict(corpus.unlabeled.contents)


def test_the_family_has_the_members_of_both_papers():
    assert set(FAMILY) >= {"ns3l", "ssc", "cross_entropy", "pseudo_label", "pi_model", "mean_teacher", "vat", "mixmatch", "fixmatch"}


@pytest.mark.parametrize("name", FAMILY)
def test_every_member_learns_the_toy_classes_and_follows_its_seed(few, tmp_path, name):
    longer = {"rounds": 4, "steps_per_round": 20, "learning_rate": 1e-2} | ({"weight": 1.0} if name in {"pi_model", "mixmatch"} else {})
    method = built(few, tmp_path / "a", name=name, **longer)
    history = run(method)
    assert len(history.rounds) == method.rounds
    assert all(np.isfinite(value) for figures in history.rounds for value in figures.values())
    labeled = [few.unlabeled.ids.index(id_) for id_ in few.granted]
    found = predictions(method, few).argmax(dim=1)
    assert sum(int(found[index]) == few.granted[few.unlabeled.ids[index]] for index in labeled) >= 5  # of 6
    again = built(few, tmp_path / "b", name=name, **longer)
    assert run(again).rounds == history.rounds
    assert torch.equal(predictions(again, few), predictions(method, few))


@pytest.mark.parametrize("name", FAMILY)
def test_a_resumed_training_ends_as_the_one_that_was_never_stopped(few, tmp_path, name):
    import copy

    states = []
    whole = built(few, tmp_path / "a", name=name)
    run(whole, report=lambda figures, state: states.append(copy.deepcopy(state)))
    rest = built(few, tmp_path / "b", seed=1, name=name)  # other weights at the start: all of them come from the state
    rest.seed = 0
    run(rest, resume=states[0])
    assert torch.equal(predictions(whole, few), predictions(rest, few))


@pytest.mark.parametrize("name", FAMILY)
def test_labels_that_are_not_granted_cannot_matter(few, tmp_path, name):
    """Whatever an oracle says of the documents without a granted label, training is the same; a further granted label makes it another."""
    known = {id_: true_label(few, index) for index, id_ in enumerate(few.unlabeled.ids)}
    lied = {id_: label if id_ in few.granted else 1 - label for id_, label in known.items()}
    more = replace(few, granted={**few.granted, few.unlabeled.ids[20]: 0})
    added = {"ns3l_weight": 0.3, "ns3l_threshold": 0.4, "ramp": 0.0}
    base, told, misled, granted = (
        predictions(_done(built(seen, tmp_path / "a", name=name, **added)), few)
        for seen in (few, replace(few, oracle=known), replace(few, oracle=lied), more)
    )
    assert torch.equal(base, told) and torch.equal(base, misled)
    assert not torch.equal(base, granted)


def test_an_oracle_matters_where_it_is_asked_for(few, tmp_path):
    """So the test above can fail."""
    options = {"name": "ns3l", "ns3l_negatives": "oracle", "ns3l_threshold": 0.4, "ramp": 0.0}
    known = {id_: true_label(few, index) for index, id_ in enumerate(few.unlabeled.ids)}
    lied = {id_: label if id_ in few.granted else 1 - label for id_, label in known.items()}
    told, misled = (predictions(_done(built(replace(few, oracle=oracle), tmp_path / "a", **options)), few) for oracle in (known, lied))
    assert not torch.equal(told, misled)


def _done(method):
    run(method)
    return method


@pytest.mark.parametrize("name", ["cross_entropy", "ns3l", "fixmatch", "ssc", "mean_teacher"])
def test_a_full_encoder_is_trained_too(few, tmp_path, name):
    method = built(few, tmp_path / "a", head=False, name=name)
    before = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    run(method)
    after = method.encoder.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["vat", "mixmatch"])
def test_methods_that_change_inputs_need_a_head(few, tmp_path, name):
    with pytest.raises(SelfTrainError, match=r"model\.train must be 'head'"):
        built(few, tmp_path / "a", head=False, name=name)


def test_labels_are_needed(corpus, tmp_path):
    with pytest.raises(SelfTrainError, match=r"needs labels; set data\.supervision: few"):
        built(corpus, tmp_path / "a", name="ns3l")


def test_a_threshold_of_one_over_the_classes_is_refused_with_the_reason(few, tmp_path):
    with pytest.raises(SelfTrainError, match="must be below 1/2"):
        built(few, tmp_path / "a", name="ns3l", ns3l_threshold=0.5)


def test_two_classes_are_told_that_ns3l_is_pseudo_labeling(few, tmp_path):
    with pytest.warns(UserWarning, match="pseudo-labeling with threshold"):
        built(few, tmp_path / "a", name="ns3l")


@pytest.mark.parametrize("name", FAMILY)
def test_ns3l_is_added_to_any_member_with_its_weight_and_ramp(few, tmp_path, name):
    """The same first step with lambda_1 = 0, 0.3 and 0.6: NS3L's figure is proportional to it, and the loss grows by the ramped figure."""
    figures = []
    for weight in (0.0, 0.3, 0.6):
        method = built(few, tmp_path / "a", name=name, ns3l_weight=weight, ns3l_threshold=0.4999, ramp=1.0)
        method.refresh(0, no_texts)
        method.encoder.train()
        figures.append(method.step(0, 0))
    ramp = {"ssc": 1.0, "seal": 0.0, "mixmatch": 0.0}.get(name, np.exp(-5))  # no ramp, and linear ones
    assert "ns3l" not in figures[0] and figures[1]["ns3l"] > 0
    assert figures[2]["ns3l"] == pytest.approx(2 * figures[1]["ns3l"], rel=1e-5)
    for found in figures[1:]:
        assert found["loss"] - figures[0]["loss"] == pytest.approx(ramp * found["ns3l"], rel=1e-2, abs=1e-6)


def test_choice_of_negatives_by_hand():
    distances = np.array([[0.1, 0.5, 0.9], [0.7, 0.2, 0.3]])
    rng = np.random.default_rng(0)
    assert choose_negatives("furthest", 2, 3, 1, rng, distances).tolist() == [[False, False, True], [True, False, False]]
    for _ in range(20):
        found = choose_negatives("exclude_nearest", 2, 3, 1, rng, distances)
        assert not found[0, 0] and not found[1, 1] and found.sum(dim=1).tolist() == [1, 1]
    assert choose_negatives("uniform", 50, 4, 9, rng).sum(dim=1).tolist() == [3] * 50  # at most all but one
    assert len({tuple(row) for row in choose_negatives("uniform", 50, 4, 1, rng).tolist()}) == 4


def test_an_oracle_never_takes_the_true_class_as_a_negative_label():
    truth = np.array([0, 1, 2, 3] * 10)
    rng = np.random.default_rng(0)
    one = choose_negatives("oracle", 40, 4, 1, rng, truth=truth)
    assert one.sum(dim=1).tolist() == [1] * 40 and not one[range(40), truth].any()
    assert len({tuple(row) for row in one[::4].tolist()}) > 1  # drawn
    assert choose_negatives("oracle", 40, 4, 3, rng, truth=truth).tolist() == (np.arange(4) != truth[:, None]).tolist()


def test_oracle_negatives_need_that_supervision_and_then_use_it(few, tmp_path):
    with pytest.raises(SelfTrainError, match=r"a bound and no method; set data\.supervision: oracle"):
        built(few, tmp_path / "a", name="ns3l", ns3l_negatives="oracle")
    known = {id_: true_label(few, index) for index, id_ in enumerate(few.unlabeled.ids)}
    method = built(replace(few, oracle=known), tmp_path / "a", name="ns3l", ns3l_negatives="oracle", rounds=4, steps_per_round=20)
    assert run(method).rounds[-1]["ns3l"] > 0
    assert (predictions(method, few).argmax(dim=1) == torch.tensor([0] * 12 + [1] * 12)).all()  # as if all labels were granted


def test_continuations_are_the_strong_views_where_asked_for(few, tmp_path):
    asked = []

    def channel(requests):
        asked.extend(requests)
        return {request: f"continuation {request.sample}" for request in requests if request.sample == 0}

    method = built(few, tmp_path / "a", name="fixmatch", views="continuations", simclr_weight=0.2)
    others = [id_ for id_ in few.unlabeled.ids if id_ not in few.granted]  # no step takes a strong view of a labeled document
    assert method.wants_texts and method.texts_wanted() == 2 * len(others)
    run(method, channel)
    assert set(asked) == {TextRequest(id_, "input", sample=view) for id_ in others for view in (0, 1)}
    assert method.strong_view(3, 0).startswith("continuation 0 ")
    assert not method.strong_view(3, 1).startswith("continuation")  # none was written: word edits instead


def test_the_ramp_rises_to_one(few, tmp_path):
    method = built(few, tmp_path / "a", name="ns3l", ramp=0.5)
    assert method.ramped(0.0) == pytest.approx(np.exp(-5))
    assert method.ramped(0.25) == pytest.approx(np.exp(-1.25))
    assert method.ramped(0.5) == method.ramped(1.0) == 1.0
    assert built(few, tmp_path / "b", name="ns3l", ramp=0).ramped(0.0) == 1.0


@pytest.mark.parametrize("head", [True, False])
def test_a_bundle_of_ssc_answers_as_what_was_trained_though_embeddings_have_any_length(few, tmp_path, head):
    """`similarity: dot`: the bundle says cosine, so that it divides by the lengths as training did."""
    experiment = parse({"model": {"similarity": "dot", "max_tokens": 16}, "method": {**SHORT, "name": "ssc", "average": 0.5}})
    longer = SentenceTransformer(modules=list(tiny_backbone(tmp_path / "a"))[:2], device="cpu")  # without the module that makes all lengths one
    encoder = (HeadEncoder if head else TextEncoder)(longer, max_tokens=16, normalize=False)
    recipe = resolve(experiment)
    method = recipe.build(few, encoder)
    run(method)
    student, texts = method.student(), list(few.unlabeled.contents)
    card = card_of(student, name="few", recipe=recipe, corpus=few, experiment=experiment, supervision="few")
    opened = Classifier.load(write_student(tmp_path / "bundle", student, card))
    expected = student.predict(texts).numpy()
    assert (student.encoder.encode(texts).norm(dim=1) - 1).abs().min() > 0.01
    np.testing.assert_allclose(opened.predict_proba(texts), expected, atol=1e-5)
    logits = method.average.classifier(student.encoder.encode(texts)) / method.options.confidence_temperature  # what training took for probabilities
    np.testing.assert_allclose(expected, torch.softmax(logits, dim=1).detach().numpy(), atol=1e-5)


def test_mean_teacher_serves_the_teacher(few, tmp_path):
    method = built(few, tmp_path / "a", name="mean_teacher", decay=0.9)
    run(method)
    assert method.student().encoder is method.teacher.encoder
    assert not torch.equal(method.student().weights, method.classifier.weight)
