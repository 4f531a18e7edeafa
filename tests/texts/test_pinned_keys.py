"""Keys and a block as they were written before the room was rebuilt: another key would generate every text of every user again."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.data.texts import TextRequest
from selftrain.texts.cache import Completion, TextCache
from selftrain.texts.engines.base import Generation
from selftrain.texts.prompts import Prompt, free_sampling
from selftrain.texts.service import TextService

BLOCK = Path(__file__).with_name("block.parquet")
LABELS = (Label("sport", "sport", "sport and games"), Label("tech", "technology", "technology"))
DOCUMENTS = Documents(("d0", "d1"), ("The „Fußball“ match {ended} in a draw", "A chip " * 60))
PINNED = Corpus(name="pinned", labels=LABELS, prompts=(), unlabeled=DOCUMENTS, test=Documents())
REQUESTS = [
    TextRequest("d0", "input"),
    TextRequest("d0", "input", sample=1),
    TextRequest("d1", "conditional", 1),
    TextRequest("d1", "conditional", 0, 2),
    TextRequest("d0", "classify"),
]


class Engine:
    """Writes one text for everything."""

    starting, notices = False, ()

    def generate(self, prompts):
        for prompt in prompts:
            yield Generation(prompt, "A text of its own.", 7, 5)

    def close(self):
        pass


def cached(folder, config):
    return TextService(AugmentConfig(**config), PINNED, "model-1", TextCache(folder), Engine())


def rows(folder):
    return [tuple(row.values()) for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (
            {},
            [
                "895630ef94e025d1f31d4ec0b34bb869",
                "6cf44d75bba1e9e69c767c2068b87803",
                "71a86f9df52deab41cab3bfd689501ad",
                "9a6eb440e6bdd04dd13cebdf454b1c26",
                "399d9e0a9e68221c412a44049c6d5b64",
            ],
        ),
        (
            {"style": "instruct", "top_p": 0.95, "temperature": 1, "min_tokens": 64, "max_tokens": 16},
            [
                "f5dc3c4b568e3a4643be7cd6d75b2544",
                "dc10ce16db5282b5ceda2a95a969877d",
                "bd11e9ca7ba0aff2a682d13140769de7",  # changed once, as the next: the instruction has the class's name, and no longer its description
                "93e1d5795492546fe3c412bd7ee78f86",
                "57be83f4921b6ef13e0ccc969a5194ce",
            ],
        ),
    ],
)
def test_texts_about_documents_have_the_rows_that_they_always_had(tmp_path, config, keys):
    found = cached(tmp_path, config).usable_texts(REQUESTS)
    assert list(found) == REQUESTS and set(found.values()) == {"A text of its own."}
    assert rows(tmp_path) == [
        (keys[0], "d0", "input", "", 0, "A text of its own.", False, 7, 5),
        (keys[1], "d0", "input", "", 1, "A text of its own.", False, 7, 5),
        (keys[2], "d1", "conditional", "tech", 0, "A text of its own.", False, 7, 5),
        (keys[3], "d1", "conditional", "sport", 2, "A text of its own.", False, 7, 5),
        (keys[4], "d0", "classify", "", 0, "A text of its own.", False, 7, 5),
    ]


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({}, ["49fa92ebbe95f00caa4adfd25d08880e", "383efa957a31fe553ef55c37b5398d51", "537b196a7c07d736decdb38cbbbc3c90"]),
        ({"top_p": 0.9}, ["3129b61ce910df7bbc1602ebe13f5352", "28d1080d334c5defa6d7b3ac0f107353", "4e5cfe204df1de4a0e2808ddb8482140"]),
    ],
)
def test_texts_for_prompts_of_their_own_have_the_rows_that_they_always_had(tmp_path, config, keys):
    settings, origin, stop = AugmentConfig(**config), "selftrain generate, seed 3", ('"', "\n")
    prompts = [
        Prompt('A text about technology: "', origin, "label text", "tech", 4, free_sampling(settings, min_tokens=8, max_tokens=32, stop=stop)),
        Prompt('Movie: "', origin, "subject", "", 0, free_sampling(settings, min_tokens=1, max_tokens=10, stop=stop)),
        Prompt("Write two sentences.", origin, "label text", "tech", 0, free_sampling(settings, min_tokens=64, max_tokens=32)),
    ]
    found = cached(tmp_path, config).complete(prompts)
    assert [row.key for row in found.values()] == keys
    assert rows(tmp_path) == [
        (keys[0], "selftrain generate, seed 3", "label text", "tech", 4, "A text of its own.", False, 7, 5),
        (keys[1], "selftrain generate, seed 3", "subject", "", 0, "A text of its own.", False, 7, 5),
        (keys[2], "selftrain generate, seed 3", "label text", "tech", 0, "A text of its own.", False, 7, 5),
    ]


def test_what_changes_a_text_changes_its_key(tmp_path):
    """And nothing else does: a seed of 0 and no frame are what there was before."""
    chat = "{instruction}\n\n{input}"  # what a chat gets, here as a plain prompt
    settings = [{}, {"engine_seed": 1}, {"engine_seed": 2}, {"style": "instruct"}, {"style": "instruct", "frame": chat}]
    keys = []
    for number, config in enumerate(settings):
        cached(tmp_path / str(number), config).usable_texts(REQUESTS[:1])
        keys += [row[0] for row in rows(tmp_path / str(number))]
    assert keys[0] == "895630ef94e025d1f31d4ec0b34bb869" and len(set(keys)) == len(settings)
    named = Prompt("Write two sentences.", "selftrain generate, seed 3", "label text", "tech", 0, free_sampling(AugmentConfig()))
    first, second = (cached(tmp_path / f"named {seed}", {"engine_seed": seed}).complete([named])[named].key for seed in (0, 7))
    assert first == second  # its name holds the seed that was asked for; the engine's differs with every start


def test_a_block_of_before_opens_and_is_what_is_written_now(tmp_path):
    written = [
        Completion("k", "d", "conditional", "sport", 1, "naïve – ‘quotes’ 日本", True, 10, 3),
        Completion("l", "d", "input", "", 0, "", False, 1, 1),
    ]
    shutil.copy(BLOCK, tmp_path / "00000001-0.parquet")
    assert [TextCache(tmp_path).get(key) for key in "kl"] == written
    TextCache(tmp_path / "new").add(written)
    (file,) = (tmp_path / "new").glob("00000001-*.parquet")
    before, now = pq.read_table(BLOCK), pq.read_table(file)
    assert now.equals(before) and now.schema.equals(before.schema, check_metadata=True)
