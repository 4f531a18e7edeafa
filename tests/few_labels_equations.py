"""The losses of the methods with few labels and of self-distillation, written out document by document from their papers' equations (see few_labels.py)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from by_hand import softmax
from few_labels import ByHand, counts, mean


class CrossEntropy(ByHand):
    def labeled(self, w, step):
        smoothed = self.options.label_smoothing  # Szegedy et al. 2016: the label keeps 1 - epsilon, and epsilon is shared by all classes
        terms = []
        for i in step.labeled:
            target = torch.full((self.classes,), smoothed / self.classes)
            target[self.labels[i]] += 1 - smoothed
            terms.append(-(target * softmax(self.logits(w, self.texts[i])).log()).sum())
        return {"ce": mean(terms)}


def entropy_with(target, p):
    return -(target * p.log()).sum()


def divergence(target, p):
    """KL(target || p)."""
    return (target * (target.log() - p.log())).sum()


def squared(p, target):
    """The mean over classes of squared differences."""
    return (p - target).square().mean()


def pseudo_label(p, threshold):
    """The most probable class where it has at least `threshold`, else None."""
    best = max(range(len(p)), key=lambda j: float(p[j]))
    return best if float(p[best]) >= threshold else None


# --- Pseudo-labels (Lee 2013)


class PseudoLabels(ByHand):
    taken = 0

    def unlabeled(self, w, step):
        terms = []
        for i in step.unlabeled:
            p = softmax(self.logits(w, self.texts[i]))
            label = pseudo_label(p.detach(), self.options.threshold)
            PseudoLabels.taken += label is not None
            terms.append(torch.zeros(()) if label is None else -p[label].log())
        return {"pseudo": self.options.weight * mean(terms)}  # over all of them, labeled or not, as FixMatch counts


# --- Pi model (Laine & Aila 2017) and mean teacher (Tarvainen & Valpola 2017)


class Pi(ByHand):
    compared = 1

    def unlabeled(self, w, step):
        terms = []
        for i in step.unlabeled:
            weak = softmax(self.logits(w, self.texts[i])).detach()  # of Oliver et al. 2018: the gradient takes one of the ways
            terms.append(squared(softmax(self.logits(w, self.strong(i, 0))), weak))
        return {"pi": self.options.weight * mean(terms)}


class MeanTeacher(ByHand):
    compared = 1

    def __init__(self, method):
        super().__init__(method)
        self.teacher = dict(self.weights)

    def unlabeled(self, w, step):
        terms = [squared(softmax(self.logits(w, self.strong(i, 0))), softmax(self.logits(self.teacher, self.texts[i]))) for i in step.unlabeled]
        return {"mean_teacher": self.options.weight * mean(terms)}

    def after(self):
        decay = self.options.decay
        self.teacher = {name: decay * self.teacher[name] + (1 - decay) * new for name, new in self.weights.items()}


# --- Virtual adversarial training (Miyato et al. 2018, equations 5 to 8)


class VAT(ByHand):
    def unlabeled(self, w, step):
        options, terms, entropies, pseudo = self.options, [], [], []
        noise = step.rng.standard_normal((len(step.unlabeled), len(self.words)))
        for i, row in zip(step.unlabeled, torch.from_numpy(noise), strict=True):
            x, plain = counts(self.words, self.texts[i]), softmax(self.logits(w, self.texts[i]))
            target = plain.detach()
            d = row / row.square().sum().sqrt()
            for _ in range(options.iterations):
                d = d.detach().requires_grad_()
                difference = divergence(target, softmax(w["U"] @ self.of_counts(w, x + options.probe * d) + w["b"]))
                (slope,) = torch.autograd.grad(difference, d, retain_graph=True)
                d = (slope / slope.square().sum().sqrt()).detach()
            terms.append(divergence(target, softmax(w["U"] @ self.of_counts(w, x + options.radius * d) + w["b"])))
            entropies.append(entropy_with(plain, plain))
            label = pseudo_label(target, options.pseudo_threshold)
            pseudo.append(torch.zeros(()) if label is None else -plain[label].log())
        losses = {"vat": options.weight * mean(terms)}
        if options.entropy_weight:
            losses["entropy"] = options.entropy_weight * mean(entropies)
        if options.pseudo_weight:
            losses["pseudo"] = options.pseudo_weight * mean(pseudo)
        return losses


# --- MixMatch (Berthelot et al. 2019, algorithm 1 and equations 3 to 5)


class MixMatch(ByHand):
    compared = 2
    negative = (0, 0)  # labeled documents with negative labels, and all

    def labeled(self, w, step):
        options, views = self.options, (0, 1)
        guesses = []
        for i in step.unlabeled:
            p = sum(softmax(self.logits(w, self.strong(i, view))) for view in views).detach() / len(views)
            sharp = p ** (1 / options.temperature)
            guesses.append(sharp / sharp.sum())
        inputs = [self.texts[i] for i in step.labeled] + [self.strong(i, view) for view in views for i in step.unlabeled]
        targets = [torch.eye(self.classes)[self.labels[i]] for i in step.labeled] + guesses * len(views)
        order = step.rng.permutation(len(inputs))
        shares = step.rng.beta(options.alpha, options.alpha, size=(len(inputs), 1))[:, 0]
        mixed = []
        for place, share in enumerate(shares):
            share = max(share, 1 - share)  # nearer to its own
            x = share * counts(self.words, inputs[place]) + (1 - share) * counts(self.words, inputs[order[place]])
            target = share * targets[place] + (1 - share) * targets[order[place]]
            mixed.append((softmax(w["U"] @ self.of_counts(w, x) + w["b"]), target))
        self.mixed, self.unlabeled_mixed = mixed, mixed[len(step.labeled) :]
        return {"ce": mean(entropy_with(target, p) for p, target in mixed[: len(step.labeled)])}

    def unlabeled(self, w, step):
        return {"mixmatch": self.options.weight * mean(squared(p, target) for p, target in self.unlabeled_mixed)}

    def ns3l(self, w, step):
        """NS3L, section 4.3: of every mixed document, labeled or not, the classes whose mixed label is below T."""
        taken = [p[target < self.options.ns3l_threshold].sum() for p, target in self.mixed]
        MixMatch.negative = (
            MixMatch.negative[0] + sum(float(one.detach()) > 0 for one in taken[: len(step.labeled)]),
            MixMatch.negative[1] + len(step.labeled),
        )
        return mean(-(1 - one).log() for one in taken)

    def ramp(self, progress):
        """A line up to 1, as in the released code."""
        return 1.0 if progress >= self.options.ramp else progress / self.options.ramp


# --- FixMatch (Sohn et al. 2020, equations 3 and 4), and SSC's ablation with SimCLR on the rest


class FixMatch(ByHand):
    seen = (0, 0)

    @property
    def compared(self):
        return 2 if self.options.simclr_weight else 1

    def unlabeled(self, w, step):
        options, terms, rest = self.options, [], []
        for i in step.unlabeled:
            label = pseudo_label(softmax(self.logits(w, self.texts[i])).detach(), options.threshold)
            terms.append(torch.zeros(()) if label is None else -softmax(self.logits(w, self.strong(i, 0)))[label].log())
            rest += [i] if label is None else []
        FixMatch.seen = (FixMatch.seen[0] + len(step.unlabeled) - len(rest), FixMatch.seen[1] + len(rest))
        losses = {"fixmatch": options.weight * mean(terms)}
        if options.simclr_weight:
            rows = [self.row(w, self.strong(i, view)) for view in (0, 1) for i in rest]
            losses["simclr"] = options.simclr_weight * simclr([row / row.square().sum().sqrt() for row in rows], options.temperature)
        return losses


class MultiMatch(ByHand):
    """Sirbu et al. 2025, by the released code: document after document, head after head."""

    compared = 1
    seen: ClassVar[dict[str, int]] = {}  # how often each kind of agreement was met

    def __init__(self, method):
        super().__init__(method)
        self.round, start = -1, 1 / self.classes
        self.margins = {(head, i): [0.0] * self.classes for head in range(3) for i in self.unlabeled_ones}
        self.named: dict[tuple[int, int], int] = {}
        self.confidence = [start] * 3
        self.shares = [[start] * self.classes for _ in range(3)]

    def heads(self, w, text):
        return list(super().logits(w, text).split(self.classes))

    def logits(self, w, text):
        """By which it is predicted, and NS3L's negative labels are chosen."""
        return sum(self.heads(w, text)) / 3

    def begin(self, round_):
        self.round = round_
        self.to_pass = {}  # (head that is taught, class): the margin
        for head in range(3):
            one, other = (h for h in range(3) if h != head)
            for j in range(self.classes):
                agreed = [i for i in self.unlabeled_ones if self.named.get((one, i)) == j and self.named.get((other, i)) == j]
                margins = sorted(self.margins[h, i][j] for h in (one, other) for i in agreed)
                place = self.options.percentile * (len(margins) - 1)
                below = math.floor(place) if margins else 0
                between = [margins[below], margins[min(below + 1, len(margins) - 1)]] if margins else [0.0, 0.0]
                self.to_pass[head, j] = max(0.0, between[0] + (place - below) * (between[1] - between[0]))

    def labeled(self, w, step):
        return {"ce": sum(mean(-softmax(self.heads(w, self.texts[i])[h]).log()[self.labels[i]] for i in step.labeled) for h in range(3))}

    def unlabeled(self, w, step):
        options, weak, sure = self.options, {}, {}
        for h in range(3):
            for i in step.unlabeled:
                z = self.heads(w, self.texts[i])[h].detach().tolist()
                best = max(range(self.classes), key=lambda j, z=z: z[j])
                second = max(value for j, value in enumerate(z) if j != best)
                now = [z[best] - second if j == best else z[j] - z[best] for j in range(self.classes)]
                share = options.smoothing / (1 + self.round)
                self.margins[h, i] = [share * new + (1 - share) * old for new, old in zip(now, self.margins[h, i], strict=True)]
                self.named[h, i], weak[h, i] = best, softmax(torch.tensor(z)).tolist()
            kept, rows = options.threshold_momentum, [weak[h, i] for i in step.unlabeled]
            self.confidence[h] = kept * self.confidence[h] + (1 - kept) * sum(map(max, rows)) / len(rows)
            self.shares[h] = [kept * old + (1 - kept) * sum(row[j] for row in rows) / len(rows) for j, old in enumerate(self.shares[h])]
            for i in step.unlabeled:
                sure[h, i] = max(weak[h, i]) >= self.confidence[h] * self.shares[h][self.named[h, i]] / max(self.shares[h])
        terms = []
        for h in range(3):
            for i in step.unlabeled:
                one, other = (teacher for teacher in range(3) if teacher != h)
                weight, label = self.taught(h, i, one, other)
                weight *= self.round > 0 and (sure[one, i] or sure[other, i])
                self.count("unsure", self.round > 0 and not (sure[one, i] or sure[other, i]))
                terms.append(-weight * softmax(self.heads(w, self.strong(i, 0))[h]).log()[label] if weight else torch.zeros(()))
        return {"multimatch": options.weight * mean(terms)}

    def taught(self, head, i, one, other):
        """(weight, class) by what the other two say of a document."""
        a, b = self.named[one, i], self.named[other, i]
        first, second = self.margins[one, i][a] >= self.to_pass[head, a], self.margins[other, i][b] >= self.to_pass[head, b]
        if self.round > 0:
            self.count(f"{'same' if a == b else 'different'}, {first + second} pass", True)
        if a == b and first and second:
            return 1.0, a
        return (self.options.difficult_weight, a if first else b) if first != second else (0.0, 0)

    @classmethod
    def count(cls, what, happened):
        cls.seen[what] = cls.seen.get(what, 0) + happened


def simclr(rows, temperature):
    """Chen et al. 2020, equation 1: the other view of the same document among all other rows; the first half are first views."""
    half, terms = len(rows) // 2, []
    for i, row in enumerate(rows):
        scores = [(row @ other / temperature).exp() for other in rows]
        terms.append(-(scores[(i + half) % len(rows)] / sum(score for j, score in enumerate(scores) if j != i)).log())
    return mean(terms)


def unit(row):
    return row / row.square().sum().sqrt()


class SSC(ByHand):
    confident = unconfident = 0
    compared = 2

    def logits(self, w, text):
        """Section 3.1: a softmax over cosines with the prototypes, at a temperature of its own (released: 0.08)."""
        row = unit(self.row(w, text))
        return torch.stack([row @ unit(prototype) for prototype in w["U"]]) / self.options.confidence_temperature

    def labeled(self, w, step):
        return {}

    def ramp(self, progress):
        return 1.0

    def unlabeled(self, w, step):
        options = self.options
        # (row, label, weight of the anchor): Z_c, Z_x, Z_u up and Z_u down of the paper
        everything = [(unit(prototype), ("class", label), 1.0) for label, prototype in enumerate(w["U"])]
        everything += [(unit(self.row(w, self.texts[i])), ("class", self.labels[i]), 1.0) for i in step.labeled]
        for place, i in enumerate(step.unlabeled):
            p = softmax(self.logits(w, self.texts[i])).detach()
            best = int(p.argmax())
            sure = float(p[best]) >= options.threshold
            SSC.confident, SSC.unconfident = SSC.confident + sure, SSC.unconfident + (not sure)
            if sure or options.unconfident:
                label, weight = (("class", best), 1.0) if sure else (("own", place), options.unconfident_weight)
                everything += [(unit(self.row(w, self.strong(i, view))), label, weight) for view in (0, 1)]
        total, weights = torch.zeros(()), 0.0
        for a, (row, label, weight) in enumerate(everything):
            positives = [b for b, (_, other, _) in enumerate(everything) if other == label and b != a]
            if positives:
                scores = {b: row @ other / options.temperature for b, (other, _, _) in enumerate(everything) if b != a}
                below = sum(score.exp() for score in scores.values()).log()
                total = total - weight * sum(scores[b] - below for b in positives) / len(positives)
                weights += weight
        return {"ssc": total / weights}


def tempered_divergence(teacher, logits, temperature):
    """T^2 KL(teacher || student), both at temperature T (Hinton et al. 2015)."""
    target, p = softmax(teacher / temperature), softmax(logits / temperature)
    return temperature * temperature * (target * (target.log() - p.log())).sum()


class Hard(ByHand):
    def hard(self, w, i):
        return -softmax(self.logits(w, self.texts[i])).log()[self.labels[i]]


# --- Tf-KD (Yuan et al. 2020): (1 - alpha) CE + alpha KL(teacher || student)


class TeacherByHand(Hard):
    """Their equation 9: the label has a, the others (1 - a) / (K - 1)."""

    temperature = 20.0

    def labeled(self, w, step):
        options, hard, soft = self.options, [], []
        for i in step.labeled:
            teacher = torch.full((self.classes,), (1 - options.correct) / (self.classes - 1))
            teacher[self.labels[i]] = options.correct
            hard.append(self.hard(w, i))
            soft.append(tempered_divergence(teacher.log(), self.logits(w, self.texts[i]), options.temperature or self.temperature))
        return {"ce": (1 - options.alpha) * mean(hard), "tf_kd": options.alpha * mean(soft)}


class SelfTeacher(Hard):
    """Trained twice from the same weights; the first training gives the teacher."""

    temperature = 4.0
    teacher = None

    def begin(self, round_):
        if round_ == self.options.rounds:
            self.teacher, self.weights, self.optimizer = dict(self.weights), dict(self.first), self.fresh_optimizer()

    def progress(self, round_, number):
        return (round_ * self.options.steps_per_round + number) / (2 * self.total)

    def labeled(self, w, step):
        if self.teacher is None:
            return {"ce": mean(self.hard(w, i) for i in step.labeled)}
        options, soft = self.options, []
        for i in step.labeled:
            teacher = self.logits(self.teacher, self.texts[i])
            soft.append(tempered_divergence(teacher, self.logits(w, self.texts[i]), options.temperature or self.temperature))
        return {"ce": (1 - options.alpha) * mean(self.hard(w, i) for i in step.labeled), "tf_kd": options.alpha * mean(soft)}


# --- CS-KD (Yun et al. 2020, equation 3): CE + lambda T^2 KL(another document of the class, held constant || own)


class Classwise(Hard):
    def labeled(self, w, step):
        soft = []
        for i in step.labeled:
            same = [j for j in self.labeled_ones if self.labels[j] == self.labels[i]]
            place = int(step.rng.integers(max(1, len(same) - 1)))
            partner = same[place] if same[place] != i else same[-1]
            assert partner != i or same == [i]
            teacher = self.logits(w, self.texts[partner]).detach()
            soft.append(tempered_divergence(teacher, self.logits(w, self.texts[i]), self.options.temperature))
        return {"ce": mean(self.hard(w, i) for i in step.labeled), "cs_kd": self.options.weight * mean(soft)}


# --- PS-KD (Kim et al. 2021, equations 6 and 7): the target is (1 - alpha_t) y + alpha_t p_{t-1}(x), alpha_t = alpha_T t / T


class Progressive(Hard):
    earlier = None

    def begin(self, round_):
        self.alpha = self.options.alpha * (round_ + 1) / self.options.rounds
        self.earlier = dict(self.weights) if round_ else None

    def labeled(self, w, step):
        terms = []
        for i in step.labeled:
            target = torch.eye(self.classes)[self.labels[i]]
            if self.earlier is not None:  # the first epoch has no earlier prediction
                target = (1 - self.alpha) * target + self.alpha * softmax(self.logits(self.earlier, self.texts[i]))
            terms.append(-(target * softmax(self.logits(w, self.texts[i])).log()).sum())
        return {"ce": mean(terms)}


# --- DLB (Shen et al. 2022, equations 3 and 4): CE + alpha T^2 KL(prediction of the step before || own) on the half that is repeated


class LastBatch(Hard):
    def __init__(self, method):
        super().__init__(method)
        self.last, self.said = [], []

    def draw(self, rng):
        return self.last + self.chosen(self.labeled_ones, self.options.batch_size - len(self.last), rng)

    def labeled(self, w, step):
        losses = {"ce": mean(self.hard(w, i) for i in step.labeled)}
        if self.last:
            terms = [
                tempered_divergence(teacher, self.logits(w, self.texts[i]), self.options.temperature)
                for i, teacher in zip(self.last, self.said, strict=True)
            ]
            losses["dlb"] = self.options.weight * mean(terms)
        half = (len(step.labeled) + 1) // 2
        self.last = step.labeled[half:]
        self.said = [self.logits(w, self.texts[i]).detach() for i in self.last]
        return losses


# --- USKD (Yang et al. 2023, equations 6 to 10, without the weak head)


class Customized(Hard):
    def labeled(self, w, step):
        options, rows = self.options, [softmax(self.logits(w, self.texts[i])) for i in step.labeled]
        own = [float(row[self.labels[i]].detach()) ** 2 for i, row in zip(step.labeled, rows, strict=True)]
        target_part, other_part = [], []
        for i, row, square in zip(step.labeled, rows, own, strict=True):
            label = self.labels[i]
            target_part.append((square + 1 - sum(own) / len(own)) * -row[label].log())
            ranked = sorted(range(self.classes), key=lambda j: float(row[j].detach()), reverse=True)
            zipf = {j: 1 / (1 + ranked.index(j)) for j in range(self.classes) if j != label}
            rest = sum(row[j] for j in zipf)
            other_part.append(-sum(share / sum(zipf.values()) * (row[j] / rest).log() for j, share in zipf.items()))
        return {
            "ce": mean(self.hard(w, i) for i in step.labeled),
            "uskd_label": options.alpha * mean(target_part),
            "uskd_others": options.beta * mean(other_part),
        }
