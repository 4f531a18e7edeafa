"""Tokens drawn for an engine on a CPU: places worked out by hand, frequencies, and that vLLM draws this way."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from scipy.stats import chisquare

from selftrain.texts.engines.sampling import BLOCK, draw, tokens_at


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


def test_large_logits_and_rows_without_a_number_end_no_engine():
    assert draw(torch.tensor([[900.0, 1000, -1000]])).tolist() == [1]
    assert draw(torch.full((1, BLOCK + 3), torch.nan)).item() < BLOCK + 3


VLLM = """
import torch
from types import SimpleNamespace
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from selftrain.texts.engines import vllm_plugin

asked = []
vllm_plugin._vllms_own = lambda sampler, *arguments: asked.append(arguments) or (torch.tensor([7]), None)
vllm_plugin.register()
plain = SimpleNamespace(use_fp64_gumbel=False, logprobs_mode="raw_logprobs")
wanted_back = SimpleNamespace(use_fp64_gumbel=False, logprobs_mode="processed_logprobs")
logits = torch.tensor([[0.0, 5, 4, 1]])
first = {int(TopKTopPSampler.forward_cpu(plain, logits.clone(), {}, torch.tensor([1]), None)[0]) for _ in range(50)}
two = {int(TopKTopPSampler.forward_cpu(plain, logits.clone(), {}, torch.tensor([2]), None)[0]) for _ in range(200)}
assert (first, two, asked) == ({1}, {1, 2}, []), (first, two, asked)
own_seed = TopKTopPSampler.forward_cpu(plain, logits.clone(), {0: torch.Generator()}, None, None)[0]
probabilities = TopKTopPSampler.forward_cpu(wanted_back, logits.clone(), {}, None, None)[0]
assert (own_seed.item(), probabilities.item(), len(asked)) == (7, 7, 2)
"""


def test_vllm_draws_this_way_but_for_requests_with_a_seed_or_probabilities():
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    done = subprocess.run([sys.executable, "-c", VLLM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
