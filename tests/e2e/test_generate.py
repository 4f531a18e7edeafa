"""A training set by the real engine: Gemma 3 270M in vLLM under Ray Data writes a handful of film reviews, once."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from commands import selftrain

from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus
from selftrain.texts.cache import TextCache


@pytest.mark.engine
@pytest.mark.timeout(1800)  # the first engine test of a fresh machine assembles the model, too
def test_a_handful_of_reviews_becomes_a_source(tmp_path):
    words = ["generate", "--data", "sst2", "--per-class", "4", "--model", "gemma-3-270m", "--out", "generated/reviews"]
    program = "import sys; from selftrain.cli import main; sys.exit(main())"
    made = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert made.returncode == 0, made.stderr[-4000:]
    folder = tmp_path / "generated" / "reviews"
    facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    assert facts["generated"]["written"] == {"negative": 4, "positive": 4}
    assert len({row["text"] for row in rows}) == 8 and all(len(row["text"].split()) >= 3 and '"' not in row["text"] for row in rows)
    cached = list(TextCache(tmp_path / ".selftrain" / "texts").completions())
    assert {completion.kind for completion in cached} == {"subject", "label text"}
    assert facts["generated"]["engine"]["generated"] == len(cached)
    assert len(load_corpus(DataConfig(source=str(folder), min_documents=2))[0].unlabeled) == 8

    again = selftrain(tmp_path, *words, environment={})
    assert again.returncode == 0 and "nothing to do: 4 negative, 4 positive" in again.stdout
