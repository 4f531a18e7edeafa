"""The job that trains a masked language model: what it takes from the experiment, and how it refuses."""

import math

import pytest
from programs import program

from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.models.masked_pretraining import pretrain
from tests.tiny import tiny_backbone

job = program("jobs/masked_lm.py")


@pytest.fixture
def experiment(tmp_path):
    tiny_backbone(tmp_path / "source")
    (tmp_path / "documents.csv").write_text("text\n" + "".join(f"document {number} about a goal\n" for number in range(40)))
    file = tmp_path / "x.yaml"
    file.write_text(
        f"seeds: [3]\ndata: {{source: {tmp_path / 'documents.csv'}, classes: [sport, money], test_documents: 0, min_documents: 20}}\n"
        f"model: {{encoder: {tmp_path / 'source'}, max_tokens: 9}}\n"
    )
    return file


def test_it_passes_on_what_the_experiment_and_the_options_say(experiment, tmp_path, monkeypatch, capsys):
    passed = {}
    monkeypatch.setattr(job, "pretrain", lambda source, texts, to, **how: passed.update(how, source=source, texts=texts, to=to) or math.log(8))
    assert job.main([str(experiment), "--to", str(tmp_path / "made"), "--epochs", "2", "--learning-rate", "1e-3", "--set", "seeds=[5]"]) == 0
    assert {key: passed[key] for key in ("epochs", "max_tokens", "learning_rate", "seed")} == {
        "epochs": 2.0,
        "max_tokens": 9,
        "learning_rate": 1e-3,
        "seed": 5,
    }
    assert passed["source"] == tmp_path / "source" and passed["to"] == tmp_path / "made"
    assert passed["texts"] == load_corpus(load(experiment).data)[0].unlabeled.contents
    assert "2.079 nats (perplexity 8)" in capsys.readouterr().out


def test_what_cannot_be_done_is_one_sentence_with_the_flag(experiment, tmp_path, capsys):
    to = ["--to", str(tmp_path / "made")]
    assert job.pretrain is pretrain
    assert job.main(["nowhere.yaml", *to]) == 2
    assert job.main([str(experiment), "--to", str(tmp_path)]) == 2
    assert "--to must be a folder that does not exist yet" in capsys.readouterr().err
    assert job.main([str(experiment), *to, "--learning-rate", "0"]) == 2
    assert "masked_lm: --learning-rate must be above 0 (got 0)." in capsys.readouterr().err
    assert job.main([str(experiment)]) == 2
    assert "--to" in capsys.readouterr().err
    (tmp_path / "y.yaml").write_text("model: {encoder: bilstm, similarity: dot}\n")
    assert job.main([str(tmp_path / "y.yaml"), *to]) == 2
    assert "must be a pre-trained text encoder to start from" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
