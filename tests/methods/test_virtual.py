"""Virtual steps: a head's, without its weights, are those of a net with them."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_backbone

from selftrain.methods.bilevel import Net
from selftrain.methods.virtual import VirtualHead, VirtualNet, virtual
from selftrain.models.head import HeadEncoder


@pytest.fixture(scope="module", params=[True, False], ids=["normalised", "of any length"])
def net(request, tmp_path_factory):
    torch.manual_seed(0)
    encoder = HeadEncoder(tiny_backbone(tmp_path_factory.mktemp("e")), max_tokens=16, normalize=request.param)
    net = Net(encoder, torch.nn.Linear(encoder.dimensions, 3)).double()
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return net


@pytest.fixture
def sides(net):
    """A `VirtualHead` and a `VirtualNet` of the same net at the same parameters, on two parts of five and two rows."""
    torch.manual_seed(1)
    rows = torch.randn(7, net.encoder.dimensions, dtype=torch.float64)
    at = {name: value.detach().clone() for name, value in net.named_parameters()}
    head = virtual(net, at, rows.split(5))
    assert isinstance(head, VirtualHead)
    return head, VirtualNet(net, {name: value.requires_grad_() for name, value in at.items()}, rows.split(5))


LABELS = torch.tensor([0, 1, 2, 1, 0])


def loss(net, factor=1.0):
    return F.cross_entropy(factor * net.logits(), LABELS)


def same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, two[name].detach(), rtol=1e-10, atol=1e-12)


def test_before_a_step_a_head_says_what_its_net_says(net, sides):
    head, plain = sides
    for part in (0, 1):
        torch.testing.assert_close(head.logits(part), plain.logits(part), rtol=1e-10, atol=1e-12)
    same(head.parameters(), plain.parameters())


@pytest.mark.parametrize("differentiable", [True, False])
def test_steps_and_what_they_leave_are_the_same(sides, differentiable):
    start = sides[0].parameters()
    for steps in (1, 2):
        sides = [one.stepped(loss(one), 0.7, differentiable=differentiable) for one in sides]
        head, plain = sides
        for part in (0, 1):  # the second part was in no loss
            torch.testing.assert_close(head.logits(part), plain.logits(part), rtol=1e-9, atol=1e-11)
        same(head.parameters(), plain.parameters())
        if not differentiable:
            assert not head.logits().requires_grad
            break  # there is nothing to differentiate any more
        assert steps
    assert all((head.parameters()[name] - value).abs().max() > 1e-4 for name, value in start.items())


def test_the_gradient_through_two_steps_is_the_same(sides):
    found = []
    for one in sides:
        factor = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        after = one.stepped(loss(one, factor), 0.7)
        after = after.stepped(loss(after, factor) + after.logits(1).square().sum(), 0.3)
        found += torch.autograd.grad((after.logits(1) * torch.arange(6.0).view(2, 3)).sum() + loss(after), factor)
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-9) and abs(found[0].item()) > 1e-3


def test_a_step_leaves_the_net_and_where_it_began_as_they_are(net, sides):
    head, _ = sides
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    logits = head.logits().detach().clone()
    head.stepped(loss(head), 5.0)
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in net.named_parameters())
    assert torch.equal(logits, head.logits())
    same(head.parameters(), before)


@pytest.mark.parametrize("layers", [1, 2])
def test_another_classifier_than_a_linear_one_with_a_bias_keeps_its_parameters(net, layers):
    classifier = (
        [torch.nn.Linear(net.encoder.dimensions, 3, bias=False)]
        if layers == 1
        else [torch.nn.Linear(net.encoder.dimensions, 4), torch.nn.Linear(4, 3)]
    )
    other = Net(net.encoder, classifier[0] if layers == 1 else torch.nn.Sequential(*classifier)).double()
    at, rows = dict(other.named_parameters()), torch.randn(5, net.encoder.dimensions, dtype=torch.float64)
    found = virtual(other, at, [rows])
    assert isinstance(found, VirtualNet)
    torch.testing.assert_close(found.logits(), other(rows))
    assert found.stepped(loss(found), 0.1).parameters().keys() == at.keys()
    assert all(value.grad is None and value.requires_grad for value in at.values())
