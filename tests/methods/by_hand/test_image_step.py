"""Steps by hand on images, with an encoder whose embeddings depend on their pass as those of batch normalisation do: f(x) = W (x - the mean of the pass).

So a step shows which images share a pass, which views a method takes in which order, and that running statistics follow the first pass alone.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import AdamW, falling, softmax
from few_labels import Watching, mean
from tiny import toy_images

from selftrain.config import parse
from selftrain.data import image_views
from selftrain.data.corpus import Documents, Label
from selftrain.data.image_views import strong_views, weak_views
from selftrain.data.images import image_id
from selftrain.methods.recipe import resolve
from selftrain.models.encoder import Encoder

LABELED, DIMENSIONS = 4, 3
SHORT = {"rounds": 1, "steps_per_round": 2, "batch_size": 3, "unlabeled_ratio": 1, "learning_rate": 0.01, "ramp": 0.0}


class CentredEncoder(Encoder):
    """See above; `encode` centres by the running mean, which is that of the last pass whose statistics were not fixed."""

    tensors = True
    continuous = True
    couples = True

    def __init__(self, pixels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(DIMENSIONS, pixels, generator=torch.Generator().manual_seed(2)) / 4)
        self.register_buffer("running", torch.zeros(pixels))
        self.fixed = False
        self.passes = []

    @property
    def dimensions(self):
        return DIMENSIONS

    @property
    def device(self):
        return torch.device("cpu")

    @contextmanager
    def fixed_statistics(self):
        self.fixed = True
        yield
        self.fixed = False

    def inputs(self, documents):
        return flat(documents)

    def of_inputs(self, rows):
        self.passes.append(len(rows))
        if not self.fixed:
            self.running.copy_(rows.mean(dim=0))
        return centred(self.weight, rows)

    def forward(self, documents):
        return self.of_inputs(self.inputs(documents))

    def encode(self, documents):
        with torch.no_grad():
            return (flat(documents) - self.running) @ self.weight.T


def flat(documents):
    return torch.stack([torch.as_tensor(one).double().flatten() / 255 for one in documents])


def centred(weight, rows):
    return (rows - rows.mean(dim=0)) @ weight.T


@pytest.fixture
def images(corpus, monkeypatch):
    own = image_views.rand_augment

    def in_float32(batch, rng):
        """Kornia makes its grids in the default type, and samples in that of the images."""
        torch.set_default_dtype(torch.float32)
        found = own(batch, rng)
        torch.set_default_dtype(torch.float64)
        return found

    monkeypatch.setattr(image_views, "rand_augment", in_float32)
    pixels, labels = toy_images(10)
    ids = tuple(image_id(one) for one in pixels)
    names = tuple(Label(name, name, name) for name in ("red", "blue", "none"))
    granted = {id_: int(label) for id_, label in list(zip(ids, labels, strict=True))[:LABELED]}
    return replace(corpus, kind="image", labels=names, unlabeled=Documents(ids, pixels), granted=granted)


class ImagesByHand:
    """One way beside the method: the same documents and views, the losses of the subclass, AdamW."""

    def __init__(self, method):
        self.method, self.options, corpus = method, method.options, method.corpus
        self.pixels, self.mirrored = corpus.unlabeled.contents, corpus.mirrored
        self.labels = [corpus.granted[id_] for id_ in corpus.unlabeled.ids[:LABELED]]
        self.weights = {"W": method.encoder.weight.detach().clone()}
        self.weights |= {f"U.{name}": value.detach().clone() for name, value in method.classifier.named_parameters()}
        self.start_optimizer(self.options.rounds * SHORT["steps_per_round"])
        self.running = None

    strong = 0  # strong views of a step
    others = True  # whether images without a label are in the pass
    make = staticmethod(strong_views)

    def start_optimizer(self, steps):
        kept = [name for name in self.weights if name.endswith("bias")]  # biases do not decay
        self.optimizer = AdamW(falling(SHORT["learning_rate"], steps), self.options.weight_decay, kept=kept)

    def logits(self, w, rows):
        return rows @ w["U.weight"].T + w["U.bias"]

    def step(self, number, round_=0):
        rng = np.random.default_rng([0, round_, number])
        self.labeled = [int(i) for i in rng.choice(LABELED, size=3, replace=False)]
        unlabeled = [LABELED + int(i) for i in rng.choice(len(self.pixels) - LABELED, size=3, replace=False)]
        how = {"mirrored": self.mirrored}
        weak = weak_views([self.pixels[i] for i in [*self.labeled, *(unlabeled if self.others else [])]], rng, **how)
        views = [flat(self.make([self.pixels[i] for i in unlabeled], rng, **how)) for _ in range(self.strong)]
        w = {name: value.clone().requires_grad_() for name, value in self.weights.items()}
        losses = self.losses(w, flat(weak), views, rng)
        loss = sum(losses.values())
        gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        self.weights = self.optimizer.step(self.weights, gradients)
        return {name: float(value.detach()) for name, value in losses.items()} | {"loss": float(loss.detach())}, gradients

    def cross_entropy(self, logits):
        return mean(-softmax(row).log()[self.labels[i]] for i, row in zip(self.labeled, logits, strict=True))

    def plain(self, w, weak):
        """The pass of weak views: logits of the labeled images, and of the others."""
        self.running = weak.mean(dim=0)
        logits = self.logits(w, centred(w["W"], weak))
        return logits[:3], logits[3:]


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def pseudo(row, threshold):
    p = softmax(row.detach())
    return int(p.argmax()) if float(p.max()) >= threshold else None


class CrossEntropy(ImagesByHand):
    others = False

    def losses(self, w, weak, views, rng):
        return {"ce": self.cross_entropy(self.plain(w, weak)[0])}


class FixMatch(ImagesByHand):
    strong = 1

    def losses(self, w, weak, views, rng):
        together = torch.cat([weak, *views])
        self.running = together.mean(dim=0)
        rows = centred(w["W"], together)  # one pass over labeled, weak and strong views
        logits = self.logits(w, rows)
        labels = [pseudo(row, self.options.threshold) for row in logits[3:6]]
        terms = [torch.zeros(()) if label is None else -softmax(row)[label].log() for row, label in zip(logits[6:9], labels, strict=True)]
        losses = {"ce": self.cross_entropy(logits[:3]), "fixmatch": mean(terms)}
        if self.strong == 2:
            rest = [place for place, label in enumerate(labels) if label is None]
            unit = [rows[6 + 3 * view + place] / rows[6 + 3 * view + place].norm() for view in (0, 1) for place in rest]
            own, terms = rest * 2, []
            for a, row in enumerate(unit):
                scores = {b: row @ other / self.options.temperature for b, other in enumerate(unit) if b != a}
                (positive,) = (b for b in scores if own[b] == own[a])
                terms.append(-(scores[positive] - sum(score.exp() for score in scores.values()).log()))
            losses["simclr"] = self.options.simclr_weight * mean(terms)
        return losses


class FixMatchWithSimCLR(FixMatch):
    strong = 2


class SSC(ImagesByHand):
    strong = 2

    def losses(self, w, weak, views, rng):
        together = torch.cat([weak, *views])
        self.running = together.mean(dim=0)
        rows = centred(w["W"], together)
        rows, prototypes = unit(self.placed(w, rows)), unit(w["U.weight"])
        everything = [(row, label, 1.0) for label, row in enumerate(prototypes)]
        everything += [(row, self.labels[i], 1.0) for i, row in zip(self.labeled, rows[:3], strict=True)]
        for place in range(3):
            label = pseudo(rows[3 + place] @ prototypes.T / self.options.confidence_temperature, self.options.threshold)
            own, weight = (100 + place, self.options.unconfident_weight) if label is None else (label, 1.0)
            everything += [(rows[6 + 3 * view + place], own, weight) for view in (0, 1)]
        total, shares = torch.zeros(()), 0.0
        for a, (row, label, weight) in enumerate(everything):
            positives = [b for b, (_, other, _) in enumerate(everything) if b != a and other == label]
            scores = {b: row @ other / self.options.temperature for b, (other, _, _) in enumerate(everything) if b != a}
            if positives:
                below = sum(score.exp() for score in scores.values()).log()
                total, shares = total - weight * sum(scores[b] - below for b in positives) / len(positives), shares + weight
        return {"ssc": total / shares}

    def placed(self, w, rows):
        """Two layers between network and prototypes, as released."""
        return torch.relu(rows @ w["U.projection.0.weight"].T + w["U.projection.0.bias"]) @ w["U.projection.2.weight"].T + w["U.projection.2.bias"]


class SSCWithoutProjection(SSC):
    def placed(self, w, rows):
        return rows


class Pi(ImagesByHand):
    strong, make = 1, staticmethod(weak_views)

    def losses(self, w, weak, views, rng):
        labeled, others = self.plain(w, weak)
        second = self.logits(w, centred(w["W"], views[0]))  # a pass of its own
        terms = [(softmax(b) - softmax(a.detach())).square().mean() for a, b in zip(others, second, strict=True)]
        return {"ce": self.cross_entropy(labeled), "pi": self.options.weight * mean(terms)}


class MeanTeacher(ImagesByHand):
    strong, make = 1, staticmethod(weak_views)
    teacher = None

    def losses(self, w, weak, views, rng):
        before = torch.zeros(weak.shape[1]) if self.running is None else self.running  # the teacher reads with the statistics of the step before
        labeled, _ = self.plain(w, weak)
        self.teacher = self.teacher or {name: value.detach() for name, value in w.items()}
        target = self.logits(self.teacher, (weak[3:] - before) @ self.teacher["W"].T)
        second = self.logits(w, centred(w["W"], views[0]))
        terms = [(softmax(b) - softmax(a)).square().mean() for a, b in zip(target, second, strict=True)]
        return {"ce": self.cross_entropy(labeled), "mean_teacher": self.options.weight * mean(terms)}

    def step(self, number):
        found = super().step(number)
        decay = self.options.decay
        self.teacher = {name: decay * value + (1 - decay) * self.weights[name] for name, value in self.teacher.items()}
        return found


class VAT(ImagesByHand):
    def losses(self, w, weak, views, rng):
        labeled, others = self.plain(w, weak)
        target = torch.stack([softmax(row) for row in others.detach()])

        def difference(r):
            """KL at x + r, in a pass with the labeled images, as the first prediction was made."""
            logits = self.logits(w, centred(w["W"], torch.cat([weak[:3], weak[3:] + r])))[3:]
            return mean((t * (t.log() - softmax(row).log())).sum() for t, row in zip(target, logits, strict=True))

        noise = torch.from_numpy(rng.standard_normal(tuple(weak[3:].shape)))
        d = (noise / noise.norm(dim=1, keepdim=True)).requires_grad_()
        (slope,) = torch.autograd.grad(difference(self.options.probe * d), d, retain_graph=True)
        d = slope / slope.norm(dim=1, keepdim=True)
        return {"ce": self.cross_entropy(labeled), "vat": self.options.weight * difference(self.options.radius * d)}


class MixMatch(ImagesByHand):
    strong, make = 2, staticmethod(weak_views)

    def losses(self, w, weak, views, rng):
        self.running = weak.mean(dim=0)
        guess = sum(torch.stack([softmax(row) for row in self.logits(w, centred(w["W"], view))]) for view in views).detach() / 2
        sharp = guess ** (1 / self.options.temperature)
        sharp = sharp / sharp.sum(dim=1, keepdim=True)
        inputs = torch.cat([weak[:3], *views])
        targets = torch.cat([torch.eye(3)[[self.labels[i] for i in self.labeled]], sharp, sharp])
        order = rng.permutation(9)
        share = rng.beta(self.options.alpha, self.options.alpha, size=(9, 1))
        share = torch.from_numpy(np.maximum(share, 1 - share))
        inputs, targets = share * inputs + (1 - share) * inputs[order], share * targets + (1 - share) * targets[order]
        p = torch.stack([softmax(row) for row in self.logits(w, centred(w["W"], inputs))])
        hard = mean(-(target * row.log()).sum() for target, row in zip(targets[:3], p[:3], strict=True))
        return {"ce": hard, "mixmatch": self.options.weight * (p[3:] - targets[3:]).square().mean()}


class CSKD(ImagesByHand):
    others = False

    def losses(self, w, weak, views, rng):
        labeled, _ = self.plain(w, weak)
        partners = []
        for i in self.labeled:
            (partner,) = (j for j in range(LABELED) if self.labels[j] == self.labels[i] and j != i)  # two images of each class
            assert rng.integers(1) == 0
            partners.append(partner)
        views = flat(weak_views([self.pixels[i] for i in partners], rng, mirrored=self.mirrored))
        teacher, terms, warmth = self.logits(w, centred(w["W"], views)).detach(), [], self.options.temperature
        for one, other in zip(teacher, labeled, strict=True):
            target = softmax(one / warmth)
            terms.append(warmth * warmth * (target * (target / softmax(other / warmth)).log()).sum())
        return {"ce": self.cross_entropy(labeled), "cs_kd": self.options.weight * mean(terms)}


class SelfTeacher(CrossEntropy):
    """Tf-KD of images: the weights after the first training read the student's own view, with the running mean of their last pass."""

    teacher = None

    def losses(self, w, weak, views, rng):
        if self.teacher is None:
            return super().losses(w, weak, views, rng)
        weights, running = self.teacher
        taught = self.logits(weights, (weak[:3] - running) @ weights["W"].T)
        labeled, _ = self.plain(w, weak)
        alpha, warmth, terms = self.options.alpha, 4.0, []
        for target, row in zip(taught, labeled, strict=True):
            target = softmax(target / warmth)
            terms.append(warmth * warmth * (target * (target / softmax(row / warmth)).log()).sum())
        return {"ce": (1 - alpha) * self.cross_entropy(labeled), "tf_kd": alpha * mean(terms)}


class Progressive(ImagesByHand):
    """PS-KD of images: p of the view that a step of a round before saw, the label where none did."""

    others = False

    def __init__(self, method):
        super().__init__(method)
        self.earlier, self.latest = {}, {i: torch.eye(3)[label] for i, label in enumerate(self.labels)}

    def losses(self, w, weak, views, rng):
        labeled, _ = self.plain(w, weak)
        terms = []
        for i, row in zip(self.labeled, labeled, strict=True):
            target = (1 - self.share) * torch.eye(3)[self.labels[i]] + self.share * self.earlier[i]
            terms.append(-(target * softmax(row).log()).sum())
            self.latest[i] = softmax(row.detach())
        return {"ce": mean(terms)}


ALL = {
    "cs_kd": (CSKD, {}, [3, 3] * 2),
    "cross_entropy": (CrossEntropy, {"weight_decay": 1.0}, [3, 3]),
    "fixmatch": (FixMatch, {"threshold": 0.5}, [9, 9]),
    "fixmatch with simclr": (FixMatchWithSimCLR, {"threshold": 0.6, "simclr_weight": 0.3}, [12, 12]),
    "ssc": (SSC, {"threshold": 0.5, "confidence_temperature": 0.3}, [12, 12]),
    "ssc without projection": (SSCWithoutProjection, {"threshold": 0.6, "confidence_temperature": 0.3, "projection": 0}, [12, 12]),
    "pi_model": (Pi, {"weight": 1.0}, [6, 3] * 2),
    "mean_teacher": (MeanTeacher, {"weight": 1.0, "decay": 0.5}, [6, 3] * 2),
    "vat": (VAT, {"radius": 2.0}, [6, 6, 6] * 2),
    "mixmatch": (MixMatch, {"weight": 1.0}, [6, 3, 3, 9] * 2),
}


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_steps_on_images(images, name, mirrored):
    hand_of, options, passes = ALL[name]
    torch.manual_seed(4)
    corpus = replace(images, mirrored=mirrored)
    encoder = CentredEncoder(images.unlabeled.contents[0].size)
    experiment = parse({"method": {**SHORT, **options, "name": name.split()[0]}})
    method = resolve(experiment).build(corpus, encoder, workers=Watching(), seed=0)
    hand = hand_of(method)
    method.refresh(0, None)
    encoder.train()
    for number in range(2):
        figures, (expected, gradients) = method.step(0, number), hand.step(number)
        assert figures == pytest.approx(expected, rel=1e-9)
        for taken, own in zip(method.workers.gradients[-1], gradients.values(), strict=True):
            torch.testing.assert_close(taken, own, rtol=1e-7, atol=1e-11)
        torch.testing.assert_close(encoder.weight.detach(), hand.weights["W"], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(encoder.running, hand.running)
        if name == "mean_teacher":
            torch.testing.assert_close(method.teacher.encoder.weight.detach(), hand.teacher["W"], rtol=1e-7, atol=1e-9)
            assert torch.equal(method.teacher.encoder.running, encoder.running)
        for part, value in method.classifier.named_parameters():
            torch.testing.assert_close(value.detach(), hand.weights[f"U.{part}"], rtol=1e-7, atol=1e-9)
    assert encoder.passes == passes
    if isinstance(hand, SSC):
        rows = unit(hand.placed(hand.weights, encoder.encode(images.unlabeled.contents)))
        expected = torch.stack([softmax(row) for row in rows @ unit(hand.weights["U.weight"]).T / hand.options.confidence_temperature])
        torch.testing.assert_close(method.student().predict(images.unlabeled.contents), expected)  # as served: cosines here, too


def in_rounds(images, name, hand_of, begin, **options):
    """A method of several rounds and its steps by hand; `begin` tells the hand what a refresh does."""
    torch.manual_seed(4)
    encoder = CentredEncoder(images.unlabeled.contents[0].size)
    method = resolve(parse({"method": {**SHORT, "name": name, **options}})).build(images, encoder, workers=Watching(), seed=0)
    hand = hand_of(method)
    for round_ in range(method.rounds):
        method.refresh(round_, None)
        begin(hand, round_)
        encoder.train()
        for number in range(SHORT["steps_per_round"]):
            assert method.step(round_, number) == pytest.approx(hand.step(number, round_)[0], rel=1e-9)
    torch.testing.assert_close(encoder.weight.detach(), hand.weights["W"], rtol=1e-7, atol=1e-9)
    return method, hand


def test_the_teacher_of_tf_kd_reads_the_views_of_its_student(images):
    def begin(hand, round_):
        if round_ == 0:
            hand.first = {name: value.clone() for name, value in hand.weights.items()}
        else:
            hand.teacher = {name: value.detach() for name, value in hand.weights.items()}, hand.running
            hand.weights = hand.first
            hand.start_optimizer(SHORT["steps_per_round"])

    method, hand = in_rounds(images, "tf_kd", SelfTeacher, begin, alpha=0.7)
    torch.manual_seed(4)
    again = resolve(parse({"method": {**SHORT, "name": "tf_kd", "alpha": 0.7}})).build(images, CentredEncoder(images.unlabeled.contents[0].size))
    again.load_state(method.state())
    encoder, classifier = again._teacher_net
    torch.testing.assert_close(encoder.weight.detach(), hand.teacher[0]["W"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(classifier.weight.detach(), hand.teacher[0]["U.weight"], rtol=1e-7, atol=1e-9)


def test_targets_of_ps_kd_are_predictions_for_the_views_that_steps_saw(images):
    def begin(hand, round_):
        hand.earlier, hand.share = dict(hand.latest), 0.8 * (round_ + 1) / 3

    method, hand = in_rounds(images, "ps_kd", Progressive, begin, rounds=3)
    torch.testing.assert_close(method.state()["latest"], torch.stack([hand.latest[i] for i in range(LABELED)]), rtol=1e-9, atol=1e-12)
