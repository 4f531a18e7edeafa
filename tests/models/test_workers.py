"""Two and three workers: what is shared, gathered, scaled and averaged has the gradient of the whole batch, which is written out here.

Each number of workers is one group of processes that does everything below and reports what it found. No method is in it: tests/training has them.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from worker_groups import results_of_group

from selftrain.models.workers import Workers

ROWS = 7  # no multiple of 2 or 3


def weights():
    return torch.arange(8.0).view(2, 4) / 5 - 0.6


def inputs(rows=ROWS):
    return torch.sin(torch.arange(rows * 4.0)).view(rows, 4)


def coupled(embeddings):
    """A loss that no mean over documents makes up: every pair counts."""
    return (embeddings @ embeddings.T).exp().sum().log() + embeddings[0].sum()


def gathered(workers, rows):
    """Gradient of the coupled loss when each worker embeds its share, and the embeddings that it was taken on."""
    weight = torch.nn.Parameter(weights())
    unused = torch.nn.Parameter(torch.ones(1))
    mine = workers.share(inputs(rows))
    whole = workers.gather(mine @ weight.T if len(mine) else inputs(1)[:0] @ weight.T, rows)
    coupled(whole).backward()
    workers.average_gradients([weight, unused])
    return weight.grad, whole.detach(), unused.grad


def parted(workers, rows):
    """Gradient of a mean of the documents' losses when each worker's loss is of its own part, and that mean."""
    weight = torch.nn.Parameter(weights())
    mine, factor = workers.part(rows)
    loss = ((inputs(rows)[mine] @ weight.T) ** 3).sum() * factor
    loss.backward()
    workers.average_gradients([weight])
    return weight.grad, workers.mean(float(loss.detach()))


def encoded(workers, rows):
    calls = []

    def encode(items):
        calls.append(len(items))
        return torch.stack([inputs()[int(item)] for item in items]).requires_grad_()

    return workers.encode(encode, [str(number) for number in range(rows)], 4), calls


def everything(rank, size):
    workers, found = Workers(rank, size), {}
    for rows in (ROWS, 1):
        found |= {("gathered", rows): gathered(workers, rows), ("parted", rows): parted(workers, rows), ("encoded", rows): encoded(workers, rows)}
    return {key: [part.numpy() if torch.is_tensor(part) else part for part in value] for key, value in found.items()}


@pytest.fixture(scope="module", params=[2, 3])
def group(request):
    """(number of workers, [rank] -> what it found)."""
    return request.param, results_of_group(everything, request.param, preload=["torch.distributed", "selftrain.models.workers"])


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slope(rows, loss):
    weight = weights().requires_grad_()
    return torch.autograd.grad(loss(inputs(rows) @ weight.T), weight)[0]


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_gathered_parts_have_the_gradient_of_the_whole_batch(group, rows):
    size, found = group
    expected = slope(rows, coupled)
    for rank in range(size):
        gradient, whole, unused = found[rank]["gathered", rows]
        torch.testing.assert_close(torch.from_numpy(whole), inputs(rows) @ weights().T)  # in the order of the batch
        torch.testing.assert_close(torch.from_numpy(gradient), expected)
        assert unused is None


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_parts_of_a_mean_have_its_gradient_and_value(group, rows):
    size, found = group
    expected = slope(rows, lambda embeddings: (embeddings**3).sum() / rows)
    value = float(((inputs(rows) @ weights().T) ** 3).sum()) / rows
    for rank in range(size):
        gradient, mean = found[rank]["parted", rows]
        torch.testing.assert_close(torch.from_numpy(gradient), expected)
        assert mean == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_encoding_is_divided_and_put_together_in_order(group, rows):
    size, found = group
    for rank in range(size):
        whole, calls = found[rank]["encoded", rows]
        assert (whole == inputs().numpy()[:rows]).all()  # arrays of numpy: `detach`ed
        assert calls == [max(1, len(range(rank, rows, size)))]


def test_one_worker_does_everything():
    weight = torch.nn.Parameter(weights())
    alone = Workers()
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.share([3, 4, 5]) == [3, 4, 5] and alone.part(4) == ([0, 1, 2, 3], 0.25) and alone.mean(0.3) == 0.3
    rows = inputs() @ weight.T
    assert alone.gather(rows, ROWS) is rows
    (rows.sum()).backward()
    before = weight.grad.clone()
    alone.average_gradients([weight])
    assert torch.equal(weight.grad, before)
    found, calls = encoded(alone, ROWS)
    assert torch.equal(found, inputs()) and not found.requires_grad and calls == [ROWS]
    assert encoded(alone, 0)[0].shape == (0, 4)


def test_shares_are_every_so_many_th_item_and_their_factor_is_that_of_an_average():
    items = list(range(ROWS))
    assert [list(Workers(rank, 3).share(items)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Workers(rank, 3).part(7) for rank in range(3)] == [([0, 3, 6], 3 / 7), ([1, 4], 3 / 7), ([2, 5], 3 / 7)]
    assert [Workers(rank, 3).part(2) for rank in range(3)] == [([0], 1.5), ([1], 1.5), ([0], 0.0)]  # who has none takes the first one for nothing
    assert replace(Workers(), rank=1).rank == 1


def test_all_gradients_of_a_type_go_in_one_message():
    parameters = [
        torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        for shape, dtype in (((2, 3), torch.float32), ((4,), torch.float64), ((1, 2), torch.float32))
    ]
    parameters.append(torch.nn.Parameter(torch.zeros(2)))  # without a gradient
    for number, parameter in enumerate(parameters[:3]):
        parameter.grad = torch.arange(float(parameter.numel()), dtype=parameter.dtype).view_as(parameter) + number
    parameters[0].grad = parameters[0].grad.T.contiguous().T  # rows that do not follow one another in memory
    expected = [parameter.grad.clone() * 2 for parameter in parameters[:3]]
    with patch("selftrain.models.workers.dist.all_reduce", side_effect=lambda sent: sent.mul_(6)) as asked:
        Workers(0, 3).average_gradients(parameters)
    assert [call.args[0].numel() for call in asked.call_args_list] == [8, 4]
    assert all(torch.equal(parameter.grad, wanted) for parameter, wanted in zip(parameters, expected, strict=False)) and parameters[3].grad is None
