"""Steps by hand: SGD with momentum, the courses of the rate, what decays, and the moving average of the weights."""

import math

import pytest
import torch
from few_labels import TEXTS, ByHand, built, each_changes, follow
from few_labels_equations import FixMatch, MixMatch

from selftrain.errors import SelfTrainError
from selftrain.methods.few_labels.ns3l import NS3LHostOptions
from selftrain.methods.optimizers import OptimizerOptions, rate_factor

BASE = {"threshold": 0.5, "weight_decay": 0.5}
SGD = BASE | {"optimizer": "sgd"}
CASES = [
    BASE,
    BASE | {"decayed": "weights"},
    BASE | {"schedule": "cosine"},
    BASE | {"schedule": "constant"},
    BASE | {"schedule": "steps"},
    BASE | {"schedule": "steps", "milestones": (0.25,)},
    BASE | {"schedule": "steps", "drop": 0.5},
    SGD,
    SGD | {"decayed": "weights"},
    SGD | {"weight_decay": 0.1},
    SGD | {"momentum": 0.5},
    SGD | {"momentum": 0.0},
    SGD | {"nesterov": False},
    SGD | {"schedule": "cosine"},
]


def test_every_optimizer():
    results = []
    for options in CASES:
        method = built("fixmatch", **options)
        results.append(follow(method, FixMatch(method)))
    each_changes("fixmatch", CASES, results, NS3LHostOptions.model_fields.keys() | {"weight", "simclr_weight", "temperature"})


def test_mixmatch_multiplies_its_weights_by_one_minus_decay_times_rate():
    """Its authors' form: decay .02 times the rate in every step, and a rate that stays; a document's gradient is taken off apart from it."""
    options = {"weight_decay": 0.02, "schedule": "constant", "decayed": "weights"}
    method = built("mixmatch", **options)
    follow(method, MixMatch(method))
    still = built("mixmatch", **options)
    before = still.classifier.weight.detach().clone(), still.classifier.bias.detach().clone()
    for parameter in still.parameters():
        parameter.grad = torch.zeros_like(parameter)
    still.update()
    torch.testing.assert_close(still.classifier.weight.detach(), before[0] * (1 - 0.02 * still.options.learning_rate))
    assert torch.equal(still.classifier.bias.detach(), before[1])


def test_the_rate_over_the_steps():
    def course(**options):
        return [rate_factor(OptimizerOptions(**options), step, 20) for step in (0, 10, 13, 15, 20)]

    assert course() == pytest.approx([1, 0.5, 0.35, 0.25, 0])
    assert course(schedule="cosine") == pytest.approx([math.cos(7 * math.pi / 16 * share) for share in (0, 0.5, 0.65, 0.75, 1)])
    assert course(schedule="cosine")[-1] == pytest.approx(0.19509, abs=1e-5)  # it does not end at 0
    assert course(schedule="steps") == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert course(schedule="steps", milestones=(0.65,), drop=0.2) == pytest.approx([1, 1, 0.2, 0.2, 0.2])
    assert course(schedule="constant") == [1] * 5


class Averaged(FixMatch):
    def __init__(self, method):
        super().__init__(method)
        self.average = dict(self.weights)

    def after(self):
        decay = self.options.average
        self.average = {name: decay * value + (1 - decay) * self.weights[name] for name, value in self.average.items()}


@pytest.mark.parametrize("name", ["fixmatch", "tf_kd"])
def test_the_moving_average_is_what_is_served_and_training_does_not_see_it(name):
    if name == "tf_kd":  # its second training starts anew, and so does the average
        method = built("tf_kd", average=0.6, rounds=1)
        method.refresh(0, None)
        method.step(0, 0)
        assert not torch.equal(method.average.classifier.weight, method.classifier.weight)
        method.refresh(1, None)
        assert torch.equal(method.average.classifier.weight, method.classifier.weight)
        return
    method, plain = built(name, average=0.6, threshold=0.5), built(name, threshold=0.5)
    hand = Averaged(method)
    trained = follow(method, hand)
    assert all(torch.equal(value, trained[key]) for key, value in follow(plain, FixMatch(plain)).items())
    student = method.student()
    torch.testing.assert_close(student.encoder.weight.detach(), hand.average["W"])
    torch.testing.assert_close(student.weights, hand.average["U"])
    torch.testing.assert_close(student.bias, hand.average["b"])
    expected = torch.stack([torch.softmax(hand.logits(hand.average, text), dim=0) for text in TEXTS])
    torch.testing.assert_close(student.predict(TEXTS), expected)
    assert not torch.allclose(student.predict(TEXTS), plain.student().predict(TEXTS), atol=1e-4)


def test_an_average_of_ssc_has_its_prototypes_and_mean_teacher_has_one_already():
    method = built("ssc", average=0.5, threshold=0.6, confidence_temperature=0.3)
    before = ByHand(method).weights
    method.step(0, 0)
    half = (before["U"] + method.classifier.weight.detach()) / 2
    torch.testing.assert_close(method.student().weights, half / half.norm(dim=1, keepdim=True))
    with pytest.raises(SelfTrainError, match=r"method\.average must be 0 with mean_teacher.*\(got 0\.5\)"):
        built("mean_teacher", average=0.5)


def test_the_rate_of_sgd():
    assert built("fixmatch", optimizer="sgd", learning_rate=None).optimizer.param_groups[0]["lr"] == 0.03
