"""Steps by hand: pseudo-labels, the Pi model, mean teacher, VAT, MixMatch and FixMatch, each from its paper's equations."""

import pytest
import torch
from by_hand import softmax
from few_labels import LABELED, TEXTS, built, each_changes, follow, toy, weights_of
from few_labels_equations import SSC, VAT, FixMatch, MeanTeacher, MixMatch, MultiMatch, Pi, PseudoLabels

from selftrain.data.texts import TextRequest
from selftrain.methods.few_labels.ns3l import NS3LHostOptions

SHARED = NS3LHostOptions.model_fields.keys()


def results_of(name, cases, hand_of, **more):
    results = []
    for options in cases:
        method = built(name, **more, **options)
        results.append(follow(method, hand_of(method)))
    return results


def test_pseudo_labels():
    cases = [{"threshold": 0.5}, {"threshold": 0.6}, {"threshold": 0.0}, {"threshold": 0.5, "weight": 0.3}, {"threshold": 0.5, "weight": 4.0}]
    each_changes("pseudo_label", cases, results_of("pseudo_label", cases, PseudoLabels), SHARED)
    assert 0 < PseudoLabels.taken < 5 * 4 * 6


def test_pi_model():
    cases = [{}, {"weight": 2.0}, {"weight": 0.0}]
    each_changes("pi_model", cases, results_of("pi_model", cases, Pi), SHARED)


def test_mean_teacher():
    cases = [{"decay": 0.5}, {}, {"decay": 0.5, "weight": 1.0}, {"decay": 0.0}]
    results = []
    for options in cases:
        method = built("mean_teacher", **options)
        hand = MeanTeacher(method)
        results.append(follow(method, hand))
        student = method.student()  # what is served is the teacher
        torch.testing.assert_close(student.encoder.weight.detach(), hand.teacher["W"])
        torch.testing.assert_close(student.weights, hand.teacher["U"])
        torch.testing.assert_close(student.bias, hand.teacher["b"])
        assert student.scale == 1.0 and not student.weights.requires_grad and not student.bias.requires_grad
        expected = torch.stack([softmax(hand.logits(hand.teacher, text)) for text in TEXTS[:3]])
        torch.testing.assert_close(student.predict(TEXTS[:3]), expected)
    each_changes("mean_teacher", cases, results, SHARED)


def test_vat():
    cases = [
        {},
        {"weight": 3.0},
        {"radius": 2.0},
        {"probe": 1.5},
        {"iterations": 3},
        {"entropy_weight": 0.5},
        {"entropy_weight": 1.5},
        {"pseudo_weight": 0.5, "pseudo_threshold": 0.5},
        {"pseudo_weight": 1.5, "pseudo_threshold": 0.5},
        {"pseudo_weight": 0.5, "pseudo_threshold": 0.0},
        {"ns3l_weight": 0.3, "ns3l_threshold": 0.3},
        {"ns3l_weight": 0.9, "ns3l_threshold": 0.3},
        {"ns3l_weight": 0.3, "ns3l_threshold": 0.2},
    ]
    each_changes("vat", cases, results_of("vat", cases, VAT), SHARED)


def test_mixmatch():
    """The weight rises in a line; NS3L's negative labels are those of the mixed labeled and unlabeled documents (NS3L, section 4.3)."""
    cases = [{"ramp": 0.0}, {"temperature": 0.2}, {"alpha": 3.0}, {"weight": 5.0}, {"unlabeled_ratio": 1}, {}, {"ramp": 1.0}]
    cases += [{"ns3l_weight": 0.5, "ns3l_threshold": 0.3}, {"ns3l_weight": 0.5, "ns3l_threshold": 0.1}]
    each_changes("mixmatch", cases, results_of("mixmatch", cases, MixMatch), SHARED)
    assert 0 < MixMatch.negative[0] <= MixMatch.negative[1]


@pytest.mark.parametrize("normalize", [True, False])
def test_fixmatch(normalize):
    base = {"threshold": 0.5}
    cases = [base, {"threshold": 0.6}, {"threshold": 0.0}, base | {"weight": 0.4}, base | {"weight": 2.0}]
    cases += [base | {"simclr_weight": 0.2}, base | {"simclr_weight": 1.0}, base | {"simclr_weight": 0.2, "temperature": 0.5}]
    each_changes("fixmatch", cases, results_of("fixmatch", cases, FixMatch, normalize=normalize), SHARED)
    assert min(FixMatch.seen) > 0


def test_multimatch():
    base = {"rounds": 4, "steps_per_round": 3, "smoothing": 0.8, "threshold_momentum": 0.5, "percentile": 0.4}
    cases = [
        base,
        base | {"weight": 0.4},
        base | {"weight": 0.0},
        base | {"difficult_weight": 0.5},
        base | {"smoothing": 0.3},
        base | {"threshold_momentum": 0.0},
    ]
    cases += [base | {"percentile": 0.9}, base | {"percentile": 0.0}, base | {"ramp": 1.0}]
    cases += [base | {"ns3l_weight": 0.5, "ns3l_threshold": 0.33}]
    results = []
    for options in cases:
        method = built("multimatch", **options)
        hand = MultiMatch(method)
        results.append(follow(method, hand))
        student, parts = method.student(), [part.split(3) for part in (hand.weights["U"], hand.weights["b"])]
        torch.testing.assert_close(student.weights, sum(parts[0]) / 3)  # what is served is the mean of the heads
        torch.testing.assert_close(student.bias, sum(parts[1]) / 3)
        assert student.scale == 1.0 and not student.weights.requires_grad and not student.bias.requires_grad
    each_changes("multimatch", cases, results, SHARED)
    kinds = {f"{what}, {passed} pass" for what in ("same", "different") for passed in range(3)}
    assert {what for what, times in MultiMatch.seen.items() if times} == kinds | {"unsure"}


# --- Views, drawn anew in every step

WITH_VIEWS = {
    "pi_model": (Pi, {"weight": 2.0}),
    "mean_teacher": (MeanTeacher, {"weight": 2.0}),
    "mixmatch": (MixMatch, {"weight": 2.0}),
    "fixmatch": (FixMatch, {"threshold": 0.0}),
    "multimatch": (MultiMatch, {"rounds": 3}),
    "ssc": (SSC, {"threshold": 0.6, "confidence_temperature": 0.3}),
}


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_a_step_draws_its_views(name):
    """Of all that there are, of three, and the same ones in every step."""
    hand_of, options = WITH_VIEWS[name]
    results = []
    for pool in (None, 3, 1):
        method = built(name, view_pool=pool, **options)
        hand = hand_of(method)
        results.append(follow(method, hand)["W"])
        numbers = {number for drawn in hand.drawn for own in drawn.values() for number in own}
        assert {None: max(numbers, default=0) > 2**20, 3: numbers == {0, 1, 2}, 1: not numbers}[pool]
        assert pool == 1 or hand.drawn[0] != hand.drawn[1]
    assert not torch.allclose(results[0], results[1], rtol=0, atol=1e-6) and not torch.allclose(results[1], results[2], rtol=0, atol=1e-6)


# --- What the language model writes


def written(requests):
    words = list(dict.fromkeys(" ".join(TEXTS).split()))
    answers = {}
    for number, request in enumerate(sorted(requests)):
        if number != 4:  # one was filtered out
            answers[request] = " ".join(words[(number * 3 + step) % len(words)] for step in range(3))
    return answers


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_steps_with_continuations(name):
    hand_of, options = WITH_VIEWS[name]
    method, asked = built(name, views="continuations", **options), []
    hand = hand_of(method)

    def channel(requests):
        asked.extend(requests)
        answers = written(requests)
        places = {id_: index for index, id_ in enumerate(method.corpus.unlabeled.ids)}
        hand.continuations.update({(places[request.document_id], request.sample): text for request, text in answers.items()})
        return answers

    follow(method, hand, channel)
    assert len(asked) == len(set(asked)) == method.texts_wanted() == 7 * hand.compared


def test_steps_draw_among_the_continuations_that_were_asked_for():
    method = built("ssc", views="continuations", view_pool=3, threshold=0.6, confidence_temperature=0.3)
    hand = SSC(method)

    def channel(requests):
        assert len(requests) == method.texts_wanted() == 7 * 3
        places = {id_: index for index, id_ in enumerate(method.corpus.unlabeled.ids)}
        hand.continuations = {(places[request.document_id], request.sample): f"song {request.sample} goal" for request in requests}
        return {request: f"song {request.sample} goal" for request in requests}

    follow(method, hand, channel)


@pytest.mark.parametrize(
    ("name", "options", "views"),
    [
        ("pi_model", {"weight": 2.0}, 1),
        ("mean_teacher", {"weight": 2.0}, 1),
        ("mixmatch", {"weight": 2.0}, 2),
        ("fixmatch", {"threshold": 0.0}, 1),
        ("fixmatch", {"threshold": 1.0, "simclr_weight": 1.0}, 2),
        ("ssc", {"threshold": 0.5}, 2),
    ],
)
def test_every_text_that_is_asked_for_has_a_say(name, options, views):
    """A step takes all unlabeled documents; each text in turn is another one, and the weights become others."""

    def trained(changed=None):
        method = built(name, views="continuations", **options, batch_size=7, unlabeled_ratio=1, rounds=1, steps_per_round=1, ramp=0.0)
        asked = []

        def channel(requests):
            asked.extend(requests)
            return written(requests) | ({changed: "song song goal"} if changed is not None else {})

        method.refresh(0, channel)
        method.step(0, 0)
        return asked, method.workers.gradients[0]

    asked, base = trained()
    ids = toy().unlabeled.ids
    assert set(asked) == {TextRequest(id_, "input", sample=view) for index, id_ in enumerate(ids) if index not in LABELED for view in range(views)}
    for request in asked:
        _, other = trained(request)
        assert any((one - two).abs().max() > 1e-9 for one, two in zip(base, other, strict=True) if one is not None), request


def test_a_channel_is_asked_once():
    method, asked = built("fixmatch", views="continuations"), []

    def channel(requests):
        asked.append(len(requests))
        return {}

    for round_ in range(2):
        method.refresh(round_, channel)
    assert asked == [7]
    assert built("fixmatch").texts_wanted() == built("ns3l", views="continuations", ns3l_threshold=0.2).texts_wanted() == 0


# --- Gradients of every term


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ns3l", {"ns3l_threshold": 0.3}),
        ("pseudo_label", {"threshold": 0.0}),
        ("pi_model", {}),
        ("mean_teacher", {}),
        ("vat", {"entropy_weight": 0.1, "pseudo_weight": 0.1, "pseudo_threshold": 0.0, "ns3l_weight": 0.1, "ns3l_threshold": 0.3}),
        ("mixmatch", {"ns3l_weight": 0.1, "ns3l_threshold": 0.3}),
        ("fixmatch", {"threshold": 0.5, "simclr_weight": 0.2, "ns3l_weight": 0.1, "ns3l_threshold": 0.3}),
        ("ssc", {"ns3l_weight": 0.1, "ns3l_threshold": 0.3}),
        ("cross_entropy", {}),
        ("cs_kd", {}),
        ("ps_kd", {}),
        ("tf_kd", {"variant": "reg"}),
        ("uskd", {}),
    ],
)
def test_every_term_reaches_the_encoder(name, options):
    method = built(name, **options)
    terms = {}
    for part in ("labeled_losses", "unlabeled_losses"):
        own = getattr(method, part)
        setattr(method, part, lambda *given, own=own: terms.update(found := own(*given)) or found)
    before = weights_of(method)["W"]
    own_ns3l = method.ns3l_rows

    def watched(batch):
        rows, mask = own_ns3l(batch)
        terms["ns3l"] = (rows * mask).sum()
        return rows, mask

    method.ns3l_rows = watched
    backward = method.backward
    slopes = {}

    def look(loss):
        for key, term in terms.items():
            slopes[key] = torch.autograd.grad(term, method.encoder.weight, retain_graph=True)[0]
        return backward(loss)

    method.backward = look
    figures = method.step(0, 0)
    assert slopes.keys() == figures.keys() - {"loss"}
    assert all(float(slope.abs().max()) > 1e-6 for slope in slopes.values()), slopes
    assert not torch.equal(before, weights_of(method)["W"])
