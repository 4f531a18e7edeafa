"""Tokens drawn for an engine on a CPU: places worked out by hand, frequencies, and that vLLM draws this way."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from scipy.stats import chisquare

from selftrain.texts.engines.sampling import BLOCK, draw, tokens_among_likeliest, tokens_at


@pytest.mark.parametrize(
    ("share", "token"),
    [(0.0, 0), (0.124, 0), (0.125, 2), (0.499, 2), (0.5, 4), (0.999, 4)],  # the sums so far are 1, 1, 4, 4, 8 of 8
)
def test_the_token_up_to_which_weights_add_up_to_more_than_the_share(share, token):
    assert tokens_at(torch.tensor([[1.0, 0, 3, 0, 4]]), torch.tensor([share], dtype=torch.float64)).tolist() == [token]


def test_blocks_and_the_tokens_behind_the_last_whole_one_are_counted_as_they_stand():
    weights = torch.zeros(4, 2 * BLOCK + 7)
    weights[:, BLOCK - 1], weights[:, BLOCK], weights[:, -1] = 1, 2, 1
    shares = torch.tensor([0.1, 0.3, 0.74, 0.76], dtype=torch.float64)
    assert tokens_at(weights, shares).tolist() == [BLOCK - 1, BLOCK, BLOCK, 2 * BLOCK + 6]


@pytest.mark.parametrize("tokens", [BLOCK, 2 * BLOCK + 7])
def test_no_token_without_weight_is_found_at_the_ends(tokens):
    weights = torch.zeros(2, tokens)
    weights[:, 5] = 0.1
    shares = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)  # the largest number that is drawn
    assert tokens_at(weights, shares).tolist() == [5, 5]


def test_tokens_are_drawn_from_the_softmax():
    torch.manual_seed(0)
    logits = torch.linspace(-2, 2, BLOCK + 8)
    logits[[3, BLOCK + 2]] = -torch.inf
    times = 60_000
    drawn = torch.bincount(draw(logits.repeat(times, 1)), minlength=len(logits))
    assert drawn[3] == drawn[BLOCK + 2] == 0
    possible = logits.isfinite()
    assert chisquare(drawn[possible], logits[possible].double().softmax(0) * times).pvalue > 0.001


@pytest.mark.parametrize("largest", [2, 3, 5])
@pytest.mark.parametrize(
    ("top_k", "top_p", "shares", "tokens"),
    # Likeliest first 4, 3, 2, 1, 0 of 10: tokens 1, 4, 0, 3, 2.
    [
        (1, 1.0, [0.0, 0.99], [1, 1]),
        (2, 1.0, [0.57, 0.58, 0.99], [1, 4, 4]),  # 4 of 7
        (4, 1.0, [0.39, 0.69, 0.89, 0.91], [1, 4, 0, 3]),
        (5, 0.4, [0.0, 0.99], [1, 1]),  # the first alone makes up .4
        (5, 0.41, [0.57, 0.58, 0.99], [1, 4, 4]),
        (5, 0.71, [0.43, 0.45, 0.99], [1, 4, 0]),  # 4 of 9
        (2, 0.57, [0.0, 0.99], [1, 1]),  # .57 of what the first two weigh: 3.99 of 7
        (3, 0.45, [0.57, 0.58, 0.99], [1, 4, 4]),  # 4.05 of 9
        (3, 0.42, [0.0, 0.99], [1, 1]),  # 3.78 of 9, and 4.2 of all
        (5, 0.0001, [0.0, 0.99], [1, 1]),
    ],
)
def test_the_likeliest_tokens_and_those_that_make_up_a_share(largest, top_k, top_p, shares, tokens):
    rows = len(shares)
    found = tokens_among_likeliest(
        torch.tensor([[2.0, 4, 0, 1, 3]]).repeat(rows, 1),
        torch.tensor(shares, dtype=torch.float64),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p, dtype=torch.float64),
        largest,
    )
    assert found.tolist() == tokens


def test_a_share_of_more_tokens_than_were_sorted_first_is_a_share_of_what_they_weigh():
    weights = torch.tensor([[4.0, 3, 2, 1, 1, 1]])  # .39 of the first four is 3.9; of all it would be 4.7
    limits = torch.tensor([4]), torch.tensor([0.39], dtype=torch.float64)
    assert tokens_among_likeliest(weights, torch.tensor([0.99], dtype=torch.float64), *limits, 3).tolist() == [0]


def test_a_flat_row_is_looked_at_whole():
    rows, tokens = 800, 40
    drawn = tokens_among_likeliest(
        torch.ones(rows, tokens),
        torch.linspace(0, 0.999, rows, dtype=torch.float64),
        torch.full((rows,), tokens),
        torch.full((rows,), 0.5, dtype=torch.float64),
        4,
    )
    assert len(set(drawn.tolist())) == 20


def test_each_row_has_limits_of_its_own():
    torch.manual_seed(0)
    tokens, times = BLOCK, 4_000
    logits = torch.zeros(4 * times, tokens)
    logits[0::4, 7] = 50
    top_k = torch.tensor([tokens, tokens, tokens, 2], dtype=torch.int32).repeat(times)
    top_p = torch.tensor([0.9, 0.25, 1.0, 1.0]).repeat(times)
    drawn = draw(logits, top_k, top_p).view(times, 4)
    assert [len(set(column.tolist())) for column in drawn.T] == [1, tokens // 4, tokens, 2]


def test_large_logits_and_rows_without_a_number_end_no_engine():
    assert draw(torch.tensor([[900.0, 1000, -1000]])).tolist() == [1]
    assert draw(torch.full((1, BLOCK + 3), torch.nan)).item() < BLOCK + 3


VLLM = """
import torch
from types import SimpleNamespace
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
from selftrain.texts.engines import vllm_plugin

asked = []
vllm_plugin._vllms_own = lambda sampler, *arguments: asked.append(arguments) or (torch.tensor([7]), None)
vllm_plugin.register()
plain = SimpleNamespace(use_fp64_gumbel=False, logprobs_mode="raw_logprobs")
wanted_back = SimpleNamespace(use_fp64_gumbel=False, logprobs_mode="processed_logprobs")
logits = torch.tensor([[0.0, 3, 2, 1]])
for k, p in [(None, None), (1, None), (2, None), (None, 0.7), (None, 0.9), (None, 0.99), (3, 0.99), (3, 0.9)]:
    limits = k and torch.tensor([k]), p and torch.tensor([p])
    drawn = {int(TopKTopPSampler.forward_cpu(plain, logits.clone(), {}, *limits)[0]) for _ in range(400)}
    allowed = set(apply_top_k_top_p(logits.clone(), *limits).isfinite().nonzero()[:, 1].tolist())
    assert drawn == allowed and not asked, (k, p, drawn, allowed, asked)
own_seed = TopKTopPSampler.forward_cpu(plain, logits.clone(), {0: torch.Generator()}, None, None)[0]
probabilities = TopKTopPSampler.forward_cpu(wanted_back, logits.clone(), {}, None, None)[0]
assert (own_seed.item(), probabilities.item(), len(asked)) == (7, 7, 2)
"""


def test_vllm_draws_this_way_but_for_requests_with_a_seed_or_probabilities():
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    done = subprocess.run([sys.executable, "-c", VLLM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
