"""`selftrain register --audit`: which of two bundles is champion, by the answers of an audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from audits import BUSINESS, SPORT, answered, questions, truth, write
from mlflow import MlflowClient
from tiny import tiny_backbone

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card, write_bundle
from selftrain.cli import main
from selftrain.errors import BundleError, ConfigError
from selftrain.runs.audited import audited_documents
from selftrain.runs.register import register
from selftrain.tracking import champion_bundle

AUDITED = ("--documents", "documents.csv", "--audit", "audit", "--answers", "answers.csv")


@pytest.fixture
def two(here) -> Path:
    """The audited bundle and `guess`, another one, with the answers to all questions."""
    write_bundle(
        here / "guess",
        backbone=tiny_backbone(here / "encoder", seed=1),
        prototypes=torch.nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(4)), dim=-1),
        card=BundleCard(name="toy", labels=("sport", "business"), method="x"),
    )
    write(here / "answers.csv", answered())
    return here


def right(bundle: str) -> dict[str, bool]:
    """Id of each question -> whether a bundle is right about it."""
    rows = questions()
    return {
        row["id"]: name == truth(row["text"]) for row, name in zip(rows, Classifier.load(bundle).predict([row["text"] for row in rows]), strict=True)
    }


def difference() -> float:
    """Of the two bundles' accuracies, stratum by stratum from design.json."""
    design = json.loads(Path("audit/design.json").read_text())
    ours, theirs, found = right("bundle"), right("guess"), 0.0
    for stratum, documents in enumerate(map(sum, design["counts"])):
        asked = [f"q{place + 1}-{one['id']}" for place, one in enumerate(design["questions"][:24]) if one["stratum"] == stratum]
        found += documents / 120 * sum(ours[id_] - theirs[id_] for id_ in asked) / len(asked)
    return found


def test_the_more_accurate_bundle_by_an_audits_answers_is_champion(two, capsys) -> None:
    uri = f"sqlite:///{two}/mlflow.db"

    def registered(bundle: str, *more: str) -> str:
        assert main(["register", bundle, "--model", "toy", *AUDITED, "--tracking-uri", uri, *more]) == 0
        return capsys.readouterr().out

    expected = difference()
    assert 0.05 < expected < 1
    assert registered("guess").startswith("toy version 1, champion: the first champion, accuracy 0.")
    said = registered("bundle")
    assert said.startswith(
        f"toy version 2, champion: accuracy {expected:+.4f} against champion version 1, from 24 answers of an audit (95 % interval "
    )
    low, high = (float(end.strip(" )\n")) for end in said.partition("interval")[2].split("to"))
    assert -1 <= low < expected < high <= 1
    # the audited bundle is the champion now, and the answers say the same of the two; --promote does not overrule them
    for more, version in (((), 3), (("--promote",), 4)):
        said = registered("guess", *more)
        assert said.startswith(
            f"toy version {version}, not champion: accuracy {-expected:+.4f} against champion version 2, from 24 answers of an audit"
        )
    assert registered("bundle").startswith("toy version 5, not champion: accuracy +0.0000 against champion version 2"), "a tie changes nothing"
    assert champion_bundle("toy", uri).version == "2"
    client = MlflowClient(uri, uri)
    version = client.get_model_version("toy", "2")
    metrics = client.get_run(version.run_id).data.metrics
    assert version.tags["labels"] == "audit" and metrics["documents"] == 24
    assert metrics["accuracy_low"] < metrics["accuracy"] <= metrics["accuracy_high"]


def turned(folder: Path) -> Path:
    """A bundle with the classes in another order."""
    card = BundleCard(name="toy", labels=("business", "sport"), method="x")
    return write_bundle(folder / "turned", backbone=tiny_backbone(folder / "encoder", seed=1), prototypes=torch.eye(32)[:2], card=card)


def test_a_champion_of_other_classes_is_not_compared(two) -> None:
    found = audited_documents(read_card("bundle"), "documents.csv", two / "audit", two / "answers.csv")
    with pytest.raises(BundleError, match=r"the classes of .*turned are business, sport, not sport, business"):
        found.lead(np.zeros(24, dtype=int), turned(two))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--documents", "documents.csv", "--audit", "audit"], "--audit, --answers and --documents go together; pass all three"),
        (["--answers", "answers.csv"], "--audit, --answers and --documents go together; pass all three"),
        ([*AUDITED, "--label-column", "n"], "--audit has the labels; leave out --label-column"),
        ([*AUDITED[:3], "nowhere", *AUDITED[4:]], "--audit 'nowhere' holds no design.json; set the folder that the questions were written into"),
        ([*AUDITED[:5], "none.csv"], "No such file: none.csv"),
        (["--documents", "other.csv", *AUDITED[2:]], "does not hold the documents that the audit in audit asks about"),
        (
            [*AUDITED[:5], "few.csv"],
            "few.csv answers no question about 2 of the 3 groups of documents that the audit was drawn from; answer more of them",
        ),
        (["--bundle", *AUDITED], "--audit 'audit' asks about the classes sport, business, and the bundle has business, sport"),
    ],
)
def test_bad_input_is_one_sentence(two, capsys, arguments, says) -> None:
    write(two / "other.csv", [{"text": f"{text} {n}"} for n in range(20) for text in (SPORT, BUSINESS)])
    write(two / "few.csv", answered(1))
    bundle = "bundle"
    if arguments[0] == "--bundle":
        bundle, arguments = "turned", arguments[1:]
        turned(two)
    assert main(["register", bundle, *arguments, "--tracking-uri", f"sqlite:///{two}/mlflow.db"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("selftrain: ") and says in said and not (two / "mlflow.db").exists()


def test_in_python_a_missing_part_is_named(two) -> None:
    with pytest.raises(ConfigError, match="answers must be passed too") as caught:
        register(two / "bundle", documents="documents.csv", audit=two / "audit")
    assert caught.value.parameter == "answers"
