"""GenCo on a tiny real encoder: what is learned from, what is asked of the language model, and what must not matter."""

import pytest
import torch
from tiny import tiny_backbone

from selftrain import methods
from selftrain.config import parse
from selftrain.data.texts import TextRequest, no_texts
from selftrain.errors import SelfTrainError
from selftrain.methods.losses import similarity
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import TextEncoder
from selftrain.training.loop import train


def experiment(**method):
    return parse({"method": {"name": "genco", "rounds": 2, "steps_per_round": 3, "learning_rate": 1e-3, **method}})


class Writer:
    """Answers every request from its own words, and remembers what it was asked."""

    def __init__(self, corpus, missing=lambda request: False):
        self.corpus, self.missing = corpus, missing
        self.asked = []

    def __call__(self, requests):
        self.asked.append(list(requests))
        names = self.corpus.class_names
        return {
            request: f"more on it, part {request.sample}" if request.kind == "input" else f"all about {names[request.label]} {request.sample}"
            for request in requests
            if not self.missing(request)
        }


def trained(corpus, folder, texts=no_texts, seed=0, **method):
    torch.manual_seed(0)
    found = resolve(experiment(**method)).build(corpus, TextEncoder(tiny_backbone(folder), max_tokens=16), seed=seed)
    history = train(found, texts=texts, report=lambda figures, state: None, seed=seed)
    return found, history


def weights(method):
    return {name: value.clone() for name, value in method.encoder.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_zero_rounds_leave_the_encoder_as_it_is(corpus, tmp_path):
    before = TextEncoder(tiny_backbone(tmp_path / "a"), max_tokens=16).state_dict()
    method, history = trained(corpus, tmp_path / "b", rounds=0)
    assert equal(before, weights(method))
    assert history.rounds == []


def test_full_genco_asks_for_continuations_once_and_for_conditional_texts_every_round(corpus, tmp_path):
    writer = Writer(corpus)
    _, history = trained(corpus, tmp_path / "e", writer)
    assert [{request.kind for request in batch} for batch in writer.asked] == [{"input"}, {"conditional"}, {"conditional"}]
    assert len(writer.asked[0]) == len(corpus.unlabeled)
    assert all(len(batch) == entry["pairs_drawn"] <= entry["selected"] for batch, entry in zip(writer.asked[1:], history.rounds, strict=True))
    assert {"g2l", "t2g", "loss"} <= set(history.rounds[0])


@pytest.mark.parametrize(
    ("ia", "ca", "losses"), [(False, False, {"t2l"}), (True, False, {"t2l", "t2g"}), (False, True, {"g2l"}), (True, True, {"g2l", "t2g"})]
)
def test_the_rows_of_table_2_are_two_switches(corpus, tmp_path, ia, ca, losses):
    method, history = trained(corpus, tmp_path / "e", Writer(corpus), input_augmentation=ia, conditional_augmentation=ca)
    assert set(history.rounds[0]) & {"t2l", "g2l", "t2g"} == losses
    assert method.wants_texts == (ia or ca)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(corpus, tmp_path):
    first, one = trained(corpus, tmp_path / "a", Writer(corpus))
    second, two = trained(corpus, tmp_path / "b", Writer(corpus))
    other, _ = trained(corpus, tmp_path / "c", Writer(corpus), seed=1)
    assert equal(weights(first), weights(second))
    assert one.rounds == two.rounds
    assert not equal(weights(first), weights(other))


def test_training_changes_the_weights(corpus, tmp_path):
    before = TextEncoder(tiny_backbone(tmp_path / "a"), max_tokens=16).state_dict()
    method, _ = trained(corpus, tmp_path / "b", Writer(corpus))
    assert not equal(before, weights(method))


@pytest.mark.parametrize("missing", [lambda request: True, lambda request: request.kind == "input", lambda request: request.kind == "conditional"])
def test_filtered_texts_are_done_without(corpus, tmp_path, missing):
    _, history = trained(corpus, tmp_path / "e", Writer(corpus, missing))
    assert len(history.rounds) == 2
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in history.rounds)


def test_a_document_without_conditional_text_is_trained_on_itself(corpus, tmp_path):
    without, history = trained(corpus, tmp_path / "e", Writer(corpus, lambda request: request.kind == "conditional"))
    assert history.rounds[0]["pairs_without_conditional_text"] == history.rounds[0]["pairs_drawn"] > 0
    assert history.rounds[0]["conditional_texts_filed_under_their_label"] == 0.0
    never_asked, _ = trained(corpus, tmp_path / "f", Writer(corpus), conditional_augmentation=False)
    assert equal(weights(without), weights(never_asked))


def test_s_t_grows_from_first_to_last_share(corpus, encoder):
    method = resolve(experiment(rounds=5, first_share=0.25, last_share=0.75)).build(corpus, encoder)
    # 24 documents, 2 classes: 12 a class
    assert [method.selection_size(round_) for round_ in range(5)] == [3, 4, 6, 8, 9]


def test_the_released_filter_keeps_the_texts_that_the_lagging_model_scores_highest(corpus, tmp_path):
    config = parse({"augment": {"conditional_samples": 4}, "method": {"rounds": 1, "steps_per_round": 1, "conditional_filter": 2}})
    method = resolve(config).build(corpus, TextEncoder(tiny_backbone(tmp_path / "e"), max_tokens=16))
    method.refresh(0, Writer(corpus))
    index, kept = next(iter(method._conditional.items()))
    label = method.selection.label_of[index]
    everything = [f"all about {corpus.class_names[label]} {sample}" for sample in range(4)]
    scores = torch.softmax(similarity(method.encoder.encode(everything), method.prototypes(), method.scale), dim=-1)[:, label]
    best = {everything[int(place)] for place in scores.argsort(descending=True)[:2]}
    assert {text for text, _ in kept} == best


def test_one_class_that_is_never_predicted(corpus, tmp_path, monkeypatch):
    method = resolve(experiment(input_augmentation=False, conditional_augmentation=False)).build(
        corpus, TextEncoder(tiny_backbone(tmp_path / "e"), max_tokens=16)
    )
    prototypes = method.prototypes()
    monkeypatch.setattr(method, "prototypes", lambda: torch.stack([prototypes[0], -prototypes[0]]))
    monkeypatch.setattr(method.encoder, "encode", lambda texts, max_tokens=None: prototypes[:1].repeat(len(texts), 1))
    figures = method.refresh(0, no_texts)
    assert figures["classes_without_pseudo_labels"] == 1
    size = method.selection_size(0)
    assert method.selection.groups == (tuple(range(size)), ()) and figures["selected"] == size == 2  # of equal ones the first
    batches, embed = [], method.embed
    monkeypatch.setattr(method, "embed", lambda texts: batches.append(texts) or embed(texts))
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    loss = method.step(0, 0)["loss"]
    assert len(batches[0]) == 3 and set(batches[0]) <= set(corpus.unlabeled.contents[:size])  # with repetition, and of the one class alone
    assert 0 < loss < 10 and not equal(before, weights(method))


def test_augmented_embeddings_are_the_mean_over_concatenations(encoder):
    # equation 9 by hand: mean of f(x + a1) and f(x + a2), then of length one
    text, continuations = "match goal", ["team wins", "league score"]
    parts = encoder.encode([f"{text} {tail}" for tail in continuations])
    expected = torch.nn.functional.normalize(parts.mean(dim=0), dim=0)
    found = encoder.encode_augmented([text, "bank"], [continuations, []])
    assert torch.allclose(found[0], expected, atol=1e-6)
    assert torch.allclose(found[1], encoder.encode(["bank"])[0], atol=1e-6)


def test_a_long_document_leaves_room_for_its_continuation(encoder):
    long = " ".join(["match"] * 100)
    found = encoder.encode_augmented([long, long], [["bank profit"], ["film music"]])
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_supervised_needs_granted_labels(corpus, encoder):
    with pytest.raises(SelfTrainError, match=r"data\.supervision: all"):
        resolve(parse({"method": {"name": "supervised"}})).build(corpus, encoder)


def test_unknown_option_names_the_nearest():
    with pytest.raises(SelfTrainError, match="did you mean 'tau'"):
        methods.options_of({"name": "genco", "tua": 0.1})


def test_raw_dot_products_differ_from_cosines_on_a_real_encoder(corpus, tmp_path):
    """A backbone that ends in `Normalize`, as all-MiniLM-L6-v2 does: without it, lengths count."""
    plain = {"input_augmentation": False, "conditional_augmentation": False}
    cosines, _ = trained(corpus, tmp_path / "a", **plain)
    released, _ = trained(corpus, tmp_path / "b", **plain, target_similarity="released")
    assert not equal(weights(cosines), weights(released))


def test_q_with_its_gradient_is_of_the_scores_alone():
    with pytest.raises(SelfTrainError, match="target_gradient must be false with target_similarity 'released'"):
        methods.options_of({"name": "genco", "target_gradient": True, "target_similarity": "released"})


@pytest.mark.parametrize("document", [{"tau": 0}, {"tau": 1.5}, {"rounds": -1}, {"first_share": 0.5, "last_share": 0.2}, {"t2g_denominator": "all"}])
def test_options_out_of_range_are_refused(document):
    with pytest.raises(SelfTrainError, match=r"method\."):
        methods.options_of({"name": "genco", **document})


def test_unknown_method_names_the_nearest():
    with pytest.raises(SelfTrainError, match="did you mean 'genco'"):
        methods.options_of({"name": "gencoo"})


def test_a_request_is_its_own_key():
    assert TextRequest("a", "input") == TextRequest("a", "input", -1, 0)
    assert len({TextRequest("a", "input", sample=0), TextRequest("a", "input", sample=1), TextRequest("a", "conditional", 0)}) == 3


@pytest.mark.parametrize("samples", [{"input_augmentation": False}, {}], ids=["documents", "continuations"])
def test_a_corpus_of_several_blocks_is_learned_as_one_block_is(corpus, tmp_path, monkeypatch, samples):
    """The numbers of an embedding may differ in their last digit with what else is in its batch; which documents are kept may not."""
    writer = Writer(corpus, missing=lambda request: request.document_id[0] in "0123")
    whole, history = trained(corpus, tmp_path / "a", writer, first_share=0.3, last_share=0.6, **samples)
    monkeypatch.setattr("selftrain.methods.zero_shot.selection.BLOCK", 7)
    cut = Writer(corpus, missing=writer.missing)
    found, others = trained(corpus, tmp_path / "b", cut, first_share=0.3, last_share=0.6, **samples)
    assert found.selection.groups == whole.selection.groups and len(found.selection) > 7
    assert [round_["loss"] for round_ in others.rounds] == pytest.approx([round_["loss"] for round_ in history.rounds], rel=1e-3)
    asked = [{request.kind for request in requests}.pop() for requests in cut.asked]
    if samples:
        assert set(asked) == {"conditional"}
        return
    # In each round the continuations of one block after the other, then those of the documents that batches draw, then the texts on their labels.
    assert asked == (["input"] * 5 + ["conditional"]) * 2
    assert [len(requests) for requests in cut.asked[:4]] == [7, 7, 7, 3]
    drawn = {request.document_id for request in cut.asked[-1]}
    assert {corpus.unlabeled.ids[index] for index in found._continuations} == drawn  # nobody holds those of all documents
    assert [{request.kind for request in requests}.pop() for requests in writer.asked].count("input") == 1
