"""The command line: what bad input gets is one sentence and exit code 2, and nothing is written."""

import csv
import json
import socket
from pathlib import Path

import pytest
from tiny import tiny_backbone

from selftrain.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, with a tracking database of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracking.db")
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    monkeypatch.delenv("SELFTRAIN_SERVE_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def documents(here):
    with (here / "documents.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "topic"])
        writer.writerows([(f"the team and its coach won match {number}", "sport") for number in range(30)])
        writer.writerows([(f"the bank and the market lost profit {number}", "business") for number in range(30)])
    return "documents.csv"


SPACE = Path(__file__).parents[2] / "tune_spaces" / "genco_tau.yaml"
PLAIN = ["--set", "method.input_augmentation=false", "--set", "method.conditional_augmentation=false"]


def fails(capsys, *arguments):
    capsys.readouterr()
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("selftrain: ")
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.yaml"], "No experiment file 'nowhere.yaml'"),
        (["sweep"], "takes either a file"),
        (["sweep", "nowhere.yaml"], "No sweep file 'nowhere.yaml'"),
        (["sweep", "--resume", "nowhere"], "is not the folder of a sweep"),
        (["sweep", "--resume", "nowhere", "--small"], "leave out --small"),
        (["sweep", str(SPACE), "--at-once", "0"], "--at-once must be at least 1 (got 0)"),
        (["leaderboard"], "There is no MLflow database"),
        (["run", "--set", "method.tua=1"], "did you mean 'tau'"),
        (["run", "--set", "augmnt.model=x"], "did you mean 'augment'"),
        (["run", "--data", "missing.csv", *PLAIN], "missing.csv"),
        (["run", "--data", "documents.csv", "--text-column", "txt", "--classes", "a,b", *PLAIN], "'text'"),
        (["run", "--data", "documents.csv", "--label-column", "topics", "--classes", "a,b", *PLAIN], "'topic'"),
        (["run", "--data", "documents.csv", "--classes", "sport", *PLAIN], "at least two"),
        (["run", "--data", "documents.csv", "--classes", "sport,sport", *PLAIN], "twice"),
        (["run", "--data", "documents.csv", "--classes", "sport,business"], "augment.model"),
        (["run", "--data", "documents.csv", "--classes", "sport,business", *PLAIN, "--set", "model.encoder=./nothing"], "no folder './nothing'"),
        (["run", "--data", "documents.csv", "--classes", "sport,business", *PLAIN, "--set", "tracking.uri=http://127.0.0.1:9"], "127.0.0.1:9"),
        # of a later row, and still before the first one is trained
        (
            ["run", "--data", "documents.csv", "--classes", "sport,business", *PLAIN, "--set", "variants={late: {method: {name: ns3l}}}"],
            "ns3l needs labels",
        ),
        (["run", "--resume", "runs/none"], "not a run folder"),
        (["run", "--resume", "x", "--data", "y"], "--resume"),
        (["predict", "a text"], "no MLflow database"),
        (["predict", "--model", "a/b", "a text"], "--model must be a name in the registry, without / and @ (got 'a/b')"),
        (["predict"], "--file"),
        (["predict", "--file", "documents.csv"], "go together"),
        (["predict", "--bundle", ".", "a text"], "is not a selftrain bundle"),
        (["serve", "--bundle", "nowhere"], "nowhere"),
        (["serve", "--bundle", "nowhere", "--threads", "0"], "--threads must be at least 1 (got 0)"),
        (["serve", "--bundle", "nowhere", "--host", "0.0.0.0"], "--no-token"),
        (["serve", "--bundle", "nowhere", "--timeout", "0"], "timeout_seconds"),
        (["serve", "--bundle", "nowhere", "--seen-texts"], "--seen-texts needs a folder for what is seen; set both"),
        (["serve", "--bundle", "nowhere", "--seen", "documents.csv/seen"], "seen must be a folder that can be written to"),
        (["serve", "--bundle", "nowhere", "--token-file", "none"], "token file"),
        (["serve", "--model", "mail@3"], "no MLflow database"),
        (["serve", "--model", "mail@champion"], "--model must be NAME or NAME@VERSION"),
        (["serve", "--model", "@3"], "--model must be NAME or NAME@VERSION"),
        (["serve", "--bundle", "nowhere", "--language-model", "127.0.0.1:8001"], "args.augmentation.url"),
        (["serve", "--bundle", "nowhere", "--language-model-name", "writer"], "needs a --language-model"),
        (["methods", "gencoo"], "did you mean 'genco'"),
        (["runn"], "runn"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, documents, here, arguments, says):
    assert says in fails(capsys, *arguments)
    assert not (here / "runs").exists()


def test_a_folder_that_is_no_model(capsys, documents, here):
    (here / "empty").mkdir()
    said = fails(capsys, "run", "--data", documents, "--classes", "sport,business", *PLAIN, "--set", "model.encoder=./empty")
    assert "is not a model" in said


def test_too_few_documents_says_how_many(capsys, here):
    (here / "few.csv").write_text("text\none text\nanother text\n\n", encoding="utf-8")
    assert "2 usable" in fails(capsys, "run", "--data", "few.csv", "--classes", "a,b", *PLAIN)


def test_a_taken_port_is_said_before_anything_starts(capsys, here):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = fails(capsys, "serve", "--bundle", str(_bundle(here)), "--port", port)
    assert port in said
    assert "--port" in said


def _bundle(folder):
    import torch

    from selftrain.bundle.format import BundleCard, write_bundle

    backbone = tiny_backbone(folder / "encoder")
    prototypes = torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    return write_bundle(folder / "bundle", backbone=backbone, prototypes=prototypes, card=BundleCard(name="toy", labels=("a", "b"), method="genco"))


def test_predict_with_a_bundle(capsys, here):
    assert main(["predict", "--bundle", str(_bundle(here)), "the team won", "the bank lost"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.strip().splitlines()]
    assert [line[2] for line in lines] == ["the team won", "the bank lost"]
    assert all(line[0] in {"a", "b"} and 0.5 <= float(line[1]) <= 1 for line in lines)


def test_predict_a_file(capsys, documents, here):
    assert main(["predict", "--bundle", str(_bundle(here)), "--file", documents, "--out", "labeled.jsonl"]) == 0
    rows = [json.loads(line) for line in (here / "labeled.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 60
    assert {row["label"] for row in rows} <= {"a", "b"}


def test_dry_run_prints_config_and_cost_and_writes_nothing(capsys, documents, here):
    assert main(["run", "--data", documents, "--classes", "sport,business", *PLAIN, "--set", "method.tau=0.05", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tau: 0.05" in said
    assert "60 unlabeled" in said
    assert "texts to generate at most: 0" in said
    assert sorted(path.name for path in here.iterdir()) == [documents]


def test_methods_lists_and_prints_options(capsys):
    assert main(["methods"]) == 0
    assert "genco" in capsys.readouterr().out
    assert main(["methods", "genco"]) == 0
    said = capsys.readouterr().out
    assert "method.tau: float = 0.1" in said
    assert "equation 4" in said


def test_data_lists_the_catalogue(capsys, here):
    assert main(["data"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("bbc_news", "ag_news", "dbpedia", "trec"))
