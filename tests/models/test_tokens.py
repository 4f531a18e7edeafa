"""What is kept of the tokenizer is what it gives, number for number, and it is asked once a text."""

from __future__ import annotations

import copy
import pickle
from unittest.mock import patch

import pytest
import torch
from tiny import tiny_backbone

from selftrain.models import tokens
from selftrain.models.encoder import TextEncoder
from selftrain.models.tokens import KeptTokens

TEXTS = ["the team won", "", "the bank and the market lost profit in the end of it all", "coach"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tokens") / "parts")


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype if isinstance(value, torch.Tensor) else found[name] == value


@pytest.mark.parametrize("longest", [5, 64])
def test_a_batch_of_kept_texts_is_what_the_backbone_makes_of_it(backbone, longest):
    kept, backbone.max_seq_length = KeptTokens(), longest
    for batch in (TEXTS, TEXTS[:1], [TEXTS[3], TEXTS[1], TEXTS[3]], TEXTS[::-1]):  # padded to another length each
        same(kept.features(backbone, batch, longest), backbone.preprocess(list(batch)))


def test_a_text_is_tokenised_once_at_each_length_and_again_where_there_is_no_room(backbone):
    kept = KeptTokens()
    with patch.object(type(backbone), "preprocess", autospec=True, side_effect=type(backbone).preprocess) as asked:
        encoder = TextEncoder(backbone, max_tokens=8)
        for _ in range(3):
            encoder(TEXTS)
        encoder(TEXTS, 16)
        copy.deepcopy(encoder)(TEXTS)
        assert [call.args[1] for call in asked.call_args_list] == [TEXTS, TEXTS]
        asked.reset_mock()
        backbone.max_seq_length = 8
        with patch.object(tokens, "KEPT_TEXTS", 2):
            for text in ["team", "coach", "team", "bank", "team"]:
                kept.features(backbone, [text], 8)
            assert [call.args[1] for call in asked.call_args_list] == [["team"], ["coach"], ["bank"], ["team"]]
            same(kept.features(backbone, TEXTS, 8), backbone.preprocess(TEXTS))  # more than may be kept


def test_features_that_are_not_plain_are_made_every_time(backbone):
    def to_the_same_width(texts):
        return {name: torch.nn.functional.pad(value, (0, 3)) if isinstance(value, torch.Tensor) else value for name, value in real(texts).items()}

    kept, backbone.max_seq_length, real = KeptTokens(), 8, backbone.preprocess
    with patch.object(backbone, "preprocess", side_effect=to_the_same_width) as asked:
        for _ in range(2):
            same(kept.features(backbone, TEXTS, 8), to_the_same_width(TEXTS))
        assert asked.call_count == 3


def test_ids_and_ends_are_the_tokenizers_and_lists_may_be_changed(backbone):
    kept, tokenizer = KeptTokens(), backbone.tokenizer
    expected = tokenizer(TEXTS, truncation=True, max_length=6, return_offsets_mapping=True)
    for _ in range(2):
        found = kept.ids(tokenizer, TEXTS, 6)
        assert found == expected["input_ids"]
        found[0][1] = -1
        assert kept.ends(tokenizer, TEXTS, 6) == [max(end for _, end in offsets) for offsets in expected["offset_mapping"]]
    assert not pickle.loads(pickle.dumps(kept))._ids
