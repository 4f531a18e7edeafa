"""The baselines for candidate sets written out: whole trainings of a linear net, number by number, for every option."""

import math

import pytest
import torch
from linear import TEXTS, Adam, assert_equal, bags, build, corpus_of, differ, drawn, gradient, logits, net_of, softmax, steps_of

from selftrain.data.views import edited

SETS = ((0, 1), (1,), (1, 2), (0, 1, 2), (0, 2), (0, 2))  # of the first six documents; the seventh has none
SMALL = {"rounds": 2, "steps_per_round": 3, "batch_size": 4, "learning_rate": 0.1, "view_pool": 1}  # the same views in every step


def corpus():
    return corpus_of(candidates=dict(enumerate(SETS)))


def indicator(places):
    return torch.tensor([[float(label in SETS[place]) for label in range(3)] for place in places])


def uniform():
    """The weights of all documents at the start, `[7, 3]`; of one without a set, nothing."""
    return torch.tensor([[(label in members) / len(members) for label in range(3)] for members in SETS] + [[0.0] * 3])


def cross_entropy(p, weights):
    """-sum_j w_j log p_j, the mean over the documents."""
    return -(weights * torch.log(p)).sum() / len(p)


def views_of(places):
    """The documents themselves and two edited ones."""
    texts = [TEXTS[place] for place in places]
    return [bags(texts), *(bags([edited(text, view) for text in texts]) for view in range(2))]


class ByHand:
    """A net, AdamW, and the weights of the candidates."""

    def __init__(self, method, options):
        self.options = options
        self.net = net_of(method.encoder, method.classifier)
        self.steps = options["rounds"] * options["steps_per_round"]
        self.adamw = Adam(options["learning_rate"], options.get("weight_decay", 0.01), self.steps)
        self.weights = uniform()
        self.figures = []

    def train(self):
        for done in range(self.steps):
            round_, step = divmod(done, self.options["steps_per_round"])
            places = drawn([0, round_, step], 6, self.options["batch_size"])
            loss, weights = self.loss(places, done / self.steps)
            self.figures.append(float(loss(self.net)))
            self.net = self.adamw.step(self.net, gradient(loss, self.net))
            if weights is not None:
                self.weights[places] = weights


class PRODEN(ByHand):
    """Cross-entropy with the weights of the document's last step; then the prediction of this step, normalised within the set."""

    def loss(self, places, progress):
        rows, weights = bags([TEXTS[place] for place in places]), self.weights[places].clone()
        kept = softmax(logits(self.net, rows)) * indicator(places)
        return lambda net: cross_entropy(softmax(logits(net, rows)), weights), kept / kept.sum(1, keepdim=True)


class CC(ByHand):
    """-log of the probability of the set."""

    def loss(self, places, progress):
        rows = bags([TEXTS[place] for place in places])
        return lambda net: -torch.log((softmax(logits(net, rows)) * indicator(places)).sum(1)).sum() / len(places), None


class CAVL(ByHand):
    """Uniform over the set at first; then the candidate with the largest |v - 1| v."""

    def loss(self, places, progress):
        rows = bags([TEXTS[place] for place in places])
        weights = uniform()[places]
        if progress >= self.options.get("uniform", 0.1):
            weights = torch.zeros(len(places), 3)
            for row, values in enumerate(logits(self.net, rows).tolist()):
                chosen = max(SETS[places[row]], key=lambda label: abs(values[label] - 1) * values[label])
                weights[row, chosen] = 1.0
        return lambda net: cross_entropy(softmax(logits(net, rows)), weights), None


class PLCR(ByHand):
    """-sum of log(1 - p_j) outside of the set, and lambda(t) times the sum over the views of KL(weights || f)."""

    def loss(self, places, progress):
        views, outside, weights = views_of(places), 1 - indicator(places), self.weights[places].clone()
        ramp = self.options.get("ramp", 0.5)
        share = self.options.get("weight", 1.0) * (min(progress / ramp, 1.0) if ramp else 1.0)

        def loss(net):
            p = [softmax(logits(net, rows)) for rows in views]
            total = -(outside * torch.log(1 - p[0])).sum() / len(places)
            for one in p:
                divergence = torch.where(weights > 0, weights * (torch.log(weights.clamp(min=1e-9)) - torch.log(one)), 0.0)
                total = total + share * divergence.sum() / len(places)
            return total

        root = math.prod(softmax(logits(self.net, rows)) for rows in views) ** (1 / 3) * indicator(places)
        return loss, root / root.sum(1, keepdim=True)


CASES = [
    ("proden", PRODEN, {}),
    ("proden", PRODEN, {"weight_decay": 0.5}),
    ("cc", CC, {}),
    ("cavl", CAVL, {}),
    ("cavl", CAVL, {"uniform": 0.5}),
    ("cavl", CAVL, {"uniform": 0.0}),
    ("cavl", CAVL, {"uniform": 1.0}),
    ("plcr", PLCR, {}),
    ("plcr", PLCR, {"weight": 3.0}),
    ("plcr", PLCR, {"weight": 0.0}),
    ("plcr", PLCR, {"ramp": 1.0}),
    ("plcr", PLCR, {"ramp": 0.0}),
]


@pytest.mark.parametrize(("name", "kind", "options"), CASES, ids=str)
def test_a_training_by_hand(name, kind, options):
    options = SMALL | options
    method = build(corpus(), name, **options)
    if name == "cavl":  # logits on both sides of zero and one, where |v - 1| v turns
        method.classifier.weight.data *= 4
    hand = kind(method, options)
    figures = steps_of(method)
    hand.train()
    assert [one["loss"] for one in figures] == pytest.approx(hand.figures, rel=1e-9)
    parts = {"plcr": {"negatives", "consistency"}}.get(name, {name})
    assert all(set(one) == parts | {"loss"} and sum(one[part] for part in parts) == pytest.approx(one["loss"], rel=1e-12) for one in figures)
    assert_equal({"net": net_of(method.encoder, method.classifier)}, {"net": hand.net})
    if hasattr(method, "weights"):
        assert torch.allclose(method.weights, hand.weights, rtol=1e-8)


@pytest.mark.parametrize(("name", "kind", "options"), [case for case in CASES if case[2]], ids=str)
def test_every_option_changes_the_net(name, kind, options):
    nets = []
    for more in ({}, options):
        method = build(corpus(), name, **SMALL | more)
        if name == "cavl":
            method.classifier.weight.data *= 4
        steps_of(method)
        nets.append(net_of(method.encoder, method.classifier))
    assert differ(*nets)


@pytest.mark.parametrize("name", ["proden", "cc", "cavl", "plcr"])
def test_a_set_has_its_say_through_the_document_that_it_belongs_to(name):
    """Another set of a document changes the net with the first batch that has it, and not before."""
    other = corpus_of(candidates=dict(enumerate(SETS)) | {1: (0, 2)})
    options = SMALL | {"batch_size": 3}
    first = next(step for step in range(6) if 1 in drawn([0, *divmod(step, 3)], 6, 3))
    assert first > 0
    methods_ = [build(one, name, **options) for one in (corpus(), other)]
    for step in range(first + 1):
        for method in methods_:
            method.step(*divmod(step, 3))
        assert differ(*(net_of(method.encoder, method.classifier) for method in methods_)) == (step == first)


def test_a_set_that_is_given_no_chance_at_all_leaves_numbers():
    """Where every candidate's probability rounds to zero PRODEN's weights are zero, and not 0 / 0."""
    method = build(corpus(), "proden", **SMALL | {"batch_size": 6})
    method.classifier.bias.data = torch.tensor([0.0, -2000.0, 0.0])
    method.step(0, 0)
    assert method.weights[1].tolist() == [0.0, 0.0, 0.0] and torch.isfinite(method.weights).all()


def test_the_views_of_plcr_are_three():
    """The consistency of a net with itself is not all that there is: an edited view differs from its document."""
    views = views_of(range(6))
    assert all(not torch.equal(views[0], view) for view in views[1:]) and not torch.equal(views[1], views[2])


# --- views by a language model


def continuations(changed=None):
    """A channel that answers every request by its document and view, the `changed` one otherwise; and what it was asked for."""
    asked = []

    def answer(requests):
        asked.extend(requests)
        return {request: "film" if request == changed else "goal vote" if request.sample else "chip bank bank" for request in requests}

    return answer, asked


def test_plcr_on_continuations_by_hand(monkeypatch):
    """The strong views are the document with a continuation before it; what was not answered is an edited document."""
    monkeypatch.setattr(f"{__name__}.views_of", lambda places: continued(places, {1: ["", "goal vote"]}))
    options = SMALL | {"views": "continuations"}
    method = build(corpus(), "plcr", **options)
    hand = PLCR(method, options)
    answer, _ = continuations()
    method.refresh(0, lambda requests: {key: text for key, text in answer(requests).items() if (key.document_id, key.sample) != ("1", 0)})
    for done in range(hand.steps):
        method.step(*divmod(done, 3))
    hand.train()
    assert_equal({"net": net_of(method.encoder, method.classifier)}, {"net": hand.net})


def continued(places, other):
    answers = [other.get(place, ["chip bank bank", "goal vote"]) for place in places]
    texts = [TEXTS[place] for place in places]
    strong = [[f"{one[view]} {text}" if one[view] else edited(text, view) for one, text in zip(answers, texts, strict=True)] for view in range(2)]
    return [bags(texts), *map(bags, strong)]


@pytest.mark.parametrize("name", ["plcr", "pico", "idgp", "seal_partial"])
def test_every_text_that_is_asked_for_has_an_effect_on_the_weights(name):
    options = SMALL | {"views": "continuations", "batch_size": 6, "rounds": 1, "steps_per_round": 3}
    options |= (
        {"ramp": 0.0, "generator_rate": 1.0, "virtual_rate": 1.0, "objective_rate": 0.1, "objective_steps": 3}
        if name == "seal_partial"
        else {"ramp": 0.0}
        if name == "plcr"
        else {"warm_up": 0.0}
        if name == "idgp"
        else {"start": 0.0}
    )
    whole = corpus_of(texts=TEXTS[:6], candidates=dict(enumerate(SETS)))

    def trained(changed):
        answer, asked = continuations(changed)
        method = build(whole, name, **options)
        assert method.wants_texts
        method.refresh(0, answer)
        for step in range(3):
            method.step(0, step)
        method.refresh(1, answer)  # asked once
        assert len(asked) == method.texts_wanted() == 6 * method.strong_views
        return net_of(method.encoder, method.classifier), asked

    base, asked = trained(None)
    assert all(differ(base, trained(request)[0], least=1e-10) for request in asked)
