"""PESCO, iPET and LOTClass on tiny real models whose weights know which words belong together."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import tiny_masked

from selftrain import methods
from selftrain.config import parse
from selftrain.data.corpus import Documents, Label, document_id
from selftrain.data.texts import no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.recipe import resolve
from selftrain.methods.zero_shot.selection import batch_of
from selftrain.models.encoder import TextEncoder
from selftrain.models.head import HeadEncoder
from selftrain.training.loop import train

SHORT = {
    "pesco": {"rounds": 3, "steps_per_round": 4, "per_class": 2, "learning_rate": 1e-3},
    "ipet": {
        "patterns": ["{mask}: {text}", "{text} ({mask})"],
        "repeats": 2,
        "generations": 2,
        "first_examples": 4,
        "first_candidates": 5,
        "growth": 2,
        "labelers": 0.5,
        "model_steps": 2,
        "unlabeled_batch": 2,
        "classifier_steps": 20,
        "learning_rate": 5e-3,
    },
    "lotclass": {
        "top_words": 9,
        "vocabulary": 9,
        "match_threshold": 6,
        "fewest_documents": 3,
        "batch_size": 8,
        "mcp_epochs": 10,
        "mcp_learning_rate": 1e-2,
        "self_training_epochs": 2,
        "update_interval": 2,
        "learning_rate": 1e-3,
    },
}
MASKED = ("ipet", "lotclass")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_masked(tmp_path_factory.mktemp("masked"), WORDS)


@pytest.fixture
def toy(corpus):
    """The toy corpus; every third document says its class's name, as LOTClass needs."""
    half = len(corpus.unlabeled) // 2
    texts = tuple(f"{corpus.class_names[i // half]} {text}" if i % 3 == 0 else text for i, text in enumerate(corpus.unlabeled.contents))
    return replace(corpus, unlabeled=Documents(tuple(document_id(text) for text in texts), texts))


def sentence_encoder(folder, head=False):
    body = Transformer(str(folder))
    backbone = SentenceTransformer(modules=[body, Pooling(32, "mean")], device="cpu")
    return HeadEncoder(backbone, max_tokens=16) if head else TextEncoder(backbone, max_tokens=16)


def built(corpus, folder, name, seed=0, head=False, **options):
    experiment = parse({"model": {"masked_lm": str(folder), "max_tokens": 16}, "method": {"name": name, **SHORT[name], **options}})
    torch.manual_seed(seed)
    return resolve(experiment).build(corpus, sentence_encoder(folder, head), seed=seed)


def run(method, **how):
    return train(method, texts=no_texts, report=how.pop("report", lambda figures, state: None), seed=method.seed, **how)


def probabilities(method, corpus):
    """Of the true class, `[documents]`: the toy corpus lists one class after the other."""
    found = method.student().predict(corpus.unlabeled.contents)
    half = len(corpus.unlabeled) // 2
    return torch.cat([found[:half, 0], found[half:, 1]])


@pytest.mark.parametrize(("name", "head"), [("pesco", False), ("pesco", True), ("ipet", False), ("lotclass", False)])
def test_every_baseline_learns_the_toy_classes_and_follows_its_seed(toy, folder, name, head):
    method = built(toy, folder, name, head=head)
    before = probabilities(method, toy)
    history = run(method)
    after = probabilities(method, toy)
    assert len(history.rounds) == method.rounds
    assert all(np.isfinite(value) for figures in history.rounds for value in figures.values())
    assert (after > 0.5).double().mean() >= 0.9
    assert after.mean() > before.mean() + 0.02
    again = built(toy, folder, name, head=head)
    assert run(again).rounds == history.rounds
    assert torch.equal(probabilities(again, toy), after)
    other = built(toy, folder, name, seed=1, head=head)
    run(other)
    assert not torch.equal(probabilities(other, toy), after)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("stopped", [0, -2])
def test_a_resumed_training_ends_as_the_one_that_was_never_stopped(toy, folder, name, stopped):
    states = []
    whole = built(toy, folder, name)
    run(whole, report=lambda figures, state: states.append(copy.deepcopy(state)))
    rest = built(toy, folder, name, seed=1)  # other weights at the start: all of them come from the state
    rest.seed = 0
    run(rest, resume=states[stopped])
    assert torch.equal(probabilities(whole, toy), probabilities(rest, toy))


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_language_model_is_asked_for_and_left_as_it_is(toy, folder, name):
    with pytest.raises(SelfTrainError, match=r"model\.masked_lm is not set"):
        resolve(parse({"method": {"name": name}})).build(toy, sentence_encoder(folder))
    method = built(toy, folder, name)
    before = copy.deepcopy(method.encoder.language_model.state_dict())
    run(method)
    assert all(torch.equal(before[key], value) for key, value in method.encoder.language_model.state_dict().items())


# PESCO


def two_sentences(corpus):
    texts = ("market share trade cash. match team coach goal win", "player goal win league. bank profit price company share")
    return replace(corpus, unlabeled=Documents(tuple(document_id(text) for text in texts), texts))


def test_the_positive_is_the_sentence_nearest_to_the_pseudo_label(toy, folder):
    documents = two_sentences(toy)
    chosen = {}
    for how in ("salient", "first"):
        method = built(documents, folder, "pesco", sentence=how, first_share=1.0, last_share=1.0)
        method.refresh(0, no_texts)
        chosen[how] = {(index, label): method.positive(index, "P") for index, label in method.selection.label_of.items()}
    assert len(chosen["salient"]) == 2
    for (index, label), positive in chosen["salient"].items():
        words = WORDS[toy.class_names[label]]
        assert sum(word.strip(".") in words for word in positive.split()) >= 3, (index, label, positive)
    assert all(positive == f"P {documents.unlabeled.contents[index].split('. ')[0]}." for (index, _), positive in chosen["first"].items())
    plain = built(documents, folder, "pesco", sentence="first", prompt_in_positive=False, first_share=1.0, last_share=1.0)
    plain.refresh(0, no_texts)
    assert plain.positive(0, "P") == "market share trade cash."


def test_both_losses_are_those_of_the_formulas(toy, folder):
    method = built(toy, folder, "pesco", prompt_in_positive=False)
    method.refresh(0, no_texts)
    method.encoder.eval()
    batch = batch_of(method.selection, method.options.per_class, np.random.default_rng([0, 0, 0]))
    labels = [method.selection.label_of[index] for index in batch]
    x = method.encoder.encode([toy.unlabeled.contents[index] for index in batch]).double()
    keys = method.encoder.encode([method.positive(index, "") for index in batch]).double()
    p = method.prototypes().double()
    t2p = [-torch.log(torch.exp(row @ p[label]) / torch.exp(row @ p.T).sum()) for row, label in zip(x, labels, strict=True)]
    t2t = [
        -sum(torch.log(torch.exp(row @ keys[a]) / torch.exp(row @ keys.T).sum()) for a in own) / len(own)
        for row, own in zip(x, [[a for a, other in enumerate(labels) if other == label] for label in labels], strict=True)
    ]
    found = method.step(0, 0)
    assert found["t2p"] == pytest.approx(float(sum(t2p) / len(t2p)), abs=1e-5)
    assert found["t2t"] == pytest.approx(float(sum(t2t) / len(t2t)), abs=1e-5)


def test_a_class_that_no_document_is_nearest_to_stays_a_class(toy, folder):
    method = built(toy, folder, "pesco")
    first = method.prototypes()[0]
    method.prototypes = lambda: torch.stack([first, -first])
    method.encoder.encode = lambda texts: first.expand(len(texts), -1)
    method.refresh(0, no_texts)
    assert set(method.selection.label_of.values()) == {0}
    assert all(target.tolist() == [1.0, 0.0] for target in method.selection.targets.values())


def test_without_its_weight_the_second_loss_is_not_computed(toy, folder):
    assert "t2t" not in run(built(toy, folder, "pesco", t2t_weight=0.0)).rounds[0]
    with pytest.raises(SelfTrainError, match="must not shrink"):
        methods.options_of({"name": "pesco", "first_share": 0.5, "last_share": 0.2})


# iPET


def test_scores_are_the_logits_of_the_classes_words_at_the_mask(toy, folder):
    method = built(toy, folder, "ipet")
    found = method.scores(method.encoder.language_model, "{text} ({mask})")
    tokenizer = method.encoder.tokenizer
    for index in (0, 7, 20):
        row = tokenizer(f"{toy.unlabeled.contents[index]} ([MASK])", return_tensors="pt")
        place = int((row["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        with torch.no_grad():
            logits = method.encoder.language_model(**row).logits[0, place]
        assert torch.allclose(found[index], logits[tokenizer.convert_tokens_to_ids(["sport", "money"])], atol=1e-4)


def test_a_mask_that_stands_in_a_document_is_no_question(toy, folder):
    method = built(toy, folder, "ipet")
    with_mask, without = method._cloze(["match [MASK] goal", "match   goal"], "{text} ({mask})")
    assert with_mask == without


def test_examples_are_drawn_evenly_and_grow(toy, folder):
    method = built(toy, folder, "ipet")
    assert [method.examples_per_class(generation) for generation in range(3)] == [2, 4, 8]
    documents = len(toy.unlabeled)
    # Every model says money of all documents, least surely of the last five.
    scores = torch.stack([torch.linspace(-5, 0, documents), torch.full((documents,), 1.0)], dim=1)
    method._scores = scores.repeat(4, 1, 1)
    first = method.draw(0, 0)
    assert [label for _, label in first] == [0, 0, 1, 1]
    assert all(
        index >= documents - 5 for index, label in first if label == 0
    )  # the documents for which sport scores highest, though none is called so
    assert {label for _, label in method.draw(1, 0)} == {1}
    assert method.draw(1, 0) == method.draw(1, 0) and method.draw(1, 0) != method.draw(1, 1)


def test_a_model_does_not_label_its_own_examples(toy, folder):
    method = built(toy, folder, "ipet", labelers=1.0)
    right = torch.tensor([[9.0, 0.0]] * 12 + [[0.0, 9.0]] * 12)
    method._scores = torch.stack([-100 * right, right, right, right])
    for model, agree in ((0, True), (1, False)):
        drawn = method.draw(1, model)
        assert len(drawn) == 2 * method.examples_per_class(1) == 8
        assert all((label == (index >= 12)) is agree for index, label in drawn)


def test_hidden_words_are_those_that_are_asked_for(toy, folder):
    method = built(toy, folder, "ipet")
    row = method.encoder.tokens_of(["match goal team player coach league"])[0]
    rng = np.random.default_rng(0)
    hidden = [method._masked(row, rng) for _ in range(400)]
    assert all(row[place] == token for _, places in hidden for place, token in places)
    assert all(shown[0] == row[0] and shown[-1] == row[-1] for shown, _ in hidden)
    assert np.mean([len(places) for _, places in hidden]) / 6 == pytest.approx(0.15, abs=0.03)


def test_words_and_patterns_that_cannot_work_are_refused(toy, folder):
    unknown = replace(toy, labels=(Label("sport", "school and university", ""), toy.labels[1]))
    with pytest.raises(SelfTrainError, match=r"method\.verbalizers: \{sport"):
        built(unknown, folder, "ipet")
    assert built(unknown, folder, "ipet", verbalizers={"sport": "match"}).words[0] != built(toy, folder, "ipet").words[0]
    with pytest.raises(SelfTrainError, match="stands for two classes"):
        built(toy, folder, "ipet", verbalizers={"sport": "money"})
    with pytest.raises(SelfTrainError, match="is not a class"):
        built(toy, folder, "ipet", verbalizers={"sports": "match"})
    for pattern in ("{text}", "{mask} {mask} {text}", "{mask} {text} {name}"):
        with pytest.raises(SelfTrainError, match="a pattern must hold"):
            methods.options_of({"name": "ipet", "patterns": [pattern, "{mask}: {text}"]})


# LOTClass


def test_the_category_vocabulary_holds_the_words_of_the_class(toy, folder):
    method = built(toy, folder, "lotclass")
    found = method.category_vocabulary(method.encoder.tokens_of(toy.unlabeled.contents))
    for tokens, (name, words) in zip(found, WORDS.items(), strict=True):
        assert set(method.encoder.tokenizer.convert_ids_to_tokens(tokens)) <= {name, *words}
        assert len(tokens) >= 5


def test_a_name_of_several_pieces_becomes_one_mask(toy, folder):
    method = built(replace(toy, labels=(Label("golf", "golf", ""), toy.labels[1])), folder, "lotclass")
    text = "match golf money win"
    row = method.encoder.tokens_of([text])[0]
    tokens, places = method._with_names(text, row)
    assert places == [(2, 0), (3, 1)]
    assert tokens[2] == method.encoder.tokenizer.mask_token_id and len(tokens) == 6 < len(row)


def test_indicative_words_are_of_their_class_and_special_tokens_are_none(toy, folder):
    method = built(toy, folder, "lotclass")
    method.refresh(0, no_texts)
    right = [label == (index >= len(toy.unlabeled) // 2) for index, label, _ in method._indicative]
    assert np.mean(right) >= 0.9
    rows = method.encoder.tokens_of(toy.unlabeled.contents)
    assert all(0 < place < len(rows[index]) - 1 for index, _, places in method._indicative for place in places)


def test_stretches_of_self_training_pass_over_all_documents(toy, folder):
    method = built(toy, folder, "lotclass")
    # 24 documents twice in batches of 8 are 6 steps: 3 stretches of 2
    assert method.rounds == 10 + 3 and [method.steps(round_) for round_ in (10, 11, 12)] == [2, 2, 2]
    assert sorted(method.documents_of(10) + method.documents_of(11) + method.documents_of(12)) == sorted([*range(24)] * 2)


def test_what_lotclass_cannot_learn_from_is_said(toy, folder):
    absent = replace(toy, labels=(Label("zebra", "zebra", ""), toy.labels[1]))
    with pytest.raises(SelfTrainError, match="No unlabeled document contains 'zebra'"):
        built(absent, folder, "lotclass").refresh(0, no_texts)
    with pytest.raises(SelfTrainError, match="in the names of two classes"):
        built(replace(toy, labels=(Label("a", "ball sport", ""), Label("b", "water sport", ""))), folder, "lotclass")
    with pytest.raises(SelfTrainError, match=r"fewer than method\.fewest_documents"):
        built(toy, folder, "lotclass", match_threshold=9).refresh(0, no_texts)
