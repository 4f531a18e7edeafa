"""Several labels a document, from the run to the endpoint, on tiny documents."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from endpoint import endpoint
from light_runs import described, furnish

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card
from selftrain.bundle.predict import predict_file
from selftrain.bundle.pyfunc import PyfuncClassifier
from selftrain.cli import main
from selftrain.cli.common import load_experiment
from selftrain.cli.main import build_parser
from selftrain.client import Client
from selftrain.compress.distill import distill
from selftrain.compress.onnx import export_bundle
from selftrain.config import load
from selftrain.data.loading import load_corpus
from selftrain.errors import ConfigError
from selftrain.evaluation.multi_label import evaluate_sets
from selftrain.passes.prediction import predict_files
from selftrain.runs.labelling.training import plan_training
from selftrain.runs.plan import prepare
from selftrain.runs.run import run
from selftrain.runs.thresholds import set_thresholds
from selftrain.serving.models import ModelSource

SPORT = [f"the team and its coach won match {n}" for n in range(30)]
MONEY = [f"the bank and the market lost profit {n}" for n in range(30)]
BOTH = [f"{one} {other} and more" for one, other in zip(SPORT, MONEY, strict=True)]
FILM = [f"film music actor {n}" for n in range(30)]
NONE = [f"a phone of the {n}" for n in range(20)]
ROWS = [*((text, "sport") for text in SPORT), *((text, "business") for text in MONEY), *((text, "business, Sport") for text in BOTH)]
ROWS += [*((text, "film") for text in FILM), *((text, ",") for text in NONE)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = furnish(tmp_path_factory.mktemp("home"))
    (folder / "several.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS), encoding="utf-8")
    return folder


def asked(home, *, method=None, data=None, **changes):
    several = {"source": str(home / "several.jsonl"), "label_column": "label", "classes": ["sport", "business", "film"], "test_documents": 40}
    return described(
        home, "head", data=several | {"multi_label": True} | (data or {}), method={"name": "binary_relevance", **(method or {})}, **changes
    )


@pytest.fixture(scope="module")
def ran(home):
    return run(asked(home, evaluation={"map": "none"}))


def test_a_run_scores_sets_and_says_so_everywhere(ran):
    (row,) = ran.metrics["rows"]
    corpus, truth = prepare_documents(ran)
    classifier = Classifier.load(ran.bundle, device="cpu")
    found = classifier.predict_proba(list(corpus.test.contents))
    expected = evaluate_sets(found, truth.memberships(corpus.test.ids, 3), corpus.class_names)
    for name in ("accuracy", "micro_f1", "macro_f1"):
        assert row["scores"][name] == pytest.approx(expected[name])
    assert row["scores"]["per_class"] == expected["per_class"]
    assert row["predicted"] == dict(zip(("sport", "business", "film"), (found >= 0.5).sum(axis=0).tolist(), strict=True))
    page = (ran.folder / "report.html").read_text(encoding="utf-8")
    assert "Exact match" in page and "Micro-F1" in page and "confusion" not in page
    assert "exact match" in ran.table and "micro-F1" in ran.table
    assert ran.metrics["registered"]["champion"] and ran.metrics["asked"]["multi_label"]
    card = read_card(ran.bundle)
    assert (card.format, card.thresholds, card.found_labels, card.reference) == (3, (0.5, 0.5, 0.5), None, None)
    assert card.metrics.micro_f1 == row["scores"]["micro_f1"]
    assert "were chosen without labels, and nothing is promised" in (ran.bundle / "README.md").read_text(encoding="utf-8")


def prepare_documents(ran):
    return load_corpus(load(ran.folder / "config.yaml").data)


def test_predictions_are_sets_of_classes_in_every_form(ran, tmp_path, capsys):
    classifier = Classifier.load(ran.bundle, device="cpu")
    texts = [SPORT[0], BOTH[0], NONE[0]]
    probabilities = classifier.predict_proba(texts)
    sets = [tuple(sorted((name for name, p in zip(("sport", "business", "film"), row, strict=True) if p >= 0.5))) for row in probabilities]
    assert [tuple(sorted(one)) for one in classifier.predict(texts)] == sets and len(set(sets)) > 1
    assert not np.allclose(probabilities.sum(axis=1), 1)
    assert [tuple(sorted(one)) for one in PyfuncClassifier(classifier).predict(texts)["labels"]] == sets
    (tmp_path / "x.csv").write_text("text\n" + "\n".join([*texts, '""']) + "\n")
    predict_file(classifier, tmp_path / "x.csv", tmp_path / "y.csv", "text")
    with (tmp_path / "y.csv").open(newline="") as opened:
        *rows, empty = csv.DictReader(opened)
    assert list(empty) == ["text", "labels", "error", "p_sport", "p_business", "p_film"] and (empty["labels"], empty["error"]) == ("", "empty")
    assert [tuple(sorted(json.loads(row["labels"]))) for row in rows] == sets
    assert main(["predict", "--bundle", str(ran.bundle), *texts]) == 0
    said = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert [tuple(sorted(word.split()[0] for word in line.split(", ") if word != "-")) for line in said] == sets


def test_the_endpoint_and_the_client_give_sets(ran):
    texts = [SPORT[0], BOTH[0], NONE[0]]
    classifier = Classifier.load(ran.bundle, device="cpu")
    with endpoint(ModelSource(bundle=str(ran.bundle))) as served, Client(served.url) as client:
        found = client.classify([*texts, " "])
        assert [one.labels for one in found] == [*classifier.predict(texts), None] and found[3].error
        assert all(one.label is None and not one.abstain and len(one.probabilities) == 3 for one in found[:3])
        assert all(len(one.labels) == 3 for one in client.classify(texts, threshold=0.0)) and client.models()[0]["thresholds"] == [0.5, 0.5, 0.5]
        for options in ({"abstain": True}, {"sets": True}):
            with pytest.raises(Exception, match="states none"):
                client.classify(texts, **options)


def test_answers_set_the_thresholds_and_a_promise(ran, tmp_path):
    bundle = shutil.copytree(ran.bundle, tmp_path / "bundle")
    answers = tmp_path / "answers.csv"
    with answers.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("text", "label"), *ROWS, ("nobody labeled this", "")])
    made = set_thresholds(bundle, answers, risk=0.2, label_column="label")
    card, before = read_card(bundle), read_card(ran.bundle)
    assert card.found_labels == made.promise and made.promise.answers == len(ROWS) and made.promise.classes == ("sport", "business", "film")
    classifier = Classifier.load(bundle, device="cpu")
    found = [set(one) for one in classifier.predict([text for text, _ in ROWS])]
    missed = Counter(
        name for (_, cell), have in zip(ROWS, found, strict=True) for name in cell.replace(" ", "").lower().split(",") if name and name not in have
    )
    assert sum(missed.values()) == made.promise.missed and max(missed.values(), default=0) <= 0.2 * 60
    assert "at most 20 % of the texts of a class lack it" in (bundle / "README.md").read_text(encoding="utf-8")
    assert main(["thresholds", str(bundle), "--answers", str(answers), "--label-column", "label", "--risk", "0.01"]) == 2  # too few answers
    assert read_card(bundle).thresholds == card.thresholds != before.thresholds
    for risk in (0.0, 1.0):
        with pytest.raises(ConfigError, match="risk must be a share"):
            set_thresholds(bundle, answers, risk=risk, label_column="label")


def test_what_is_for_one_label_is_refused_in_a_sentence(ran, home, tmp_path):
    file = str(home / "several.jsonl")
    for what, call in {
        "graphs": lambda: export_bundle(ran.bundle),
        "distilled students": lambda: distill(ran.bundle, None),
        "training answers": lambda: plan_training(ran.bundle, file, tmp_path / "training"),
        "passes over many files": lambda: predict_files(ran.bundle, f"{home}/*.jsonl", str(tmp_path / "out")),
    }.items():
        with pytest.raises(ConfigError, match=f"^{what} are for one label a text, and the bundle tiny gives several"):
            call()
    for wrong, experiment in {
        "data.multi_label must be false with the method cross_entropy": asked(home, method={"name": "cross_entropy"}),
        "data.multi_label must be true with the method binary_relevance": asked(home, data={"multi_label": False}),
        "evaluation.every_round must be left out": asked(home, evaluation={"map": "none", "every_round": True}),
        "data.multi_label must be the same in all variants": asked(home, variants={"x": {"data": {"multi_label": False}}}),
        "data.validation_documents must be 0": asked(home, data={"validation_documents": 5}),
        "data.classes must be at least 3": asked(home, data={"source": str(home / "documents.jsonl"), "classes": ["sport", "business"]}),
    }.items():
        with pytest.raises(ConfigError, match=wrong):
            prepare(experiment)
    with pytest.raises(ValueError, match="thresholds must be 2 numbers"):
        BundleCard(name="x", labels=("a", "b"), method="x", thresholds=(0.5,))
    with pytest.raises(ValueError, match="windows must be 1"):
        BundleCard(name="x", labels=("a", "b"), method="x", thresholds=(0.5, 0.5), windows=2)


def test_the_flag_chooses_the_method_and_a_head():
    experiment = load_experiment(build_parser().parse_args(["run", "--data", "x.csv", "--multi-label"]))
    assert (experiment.data.multi_label, experiment.method["name"], experiment.model.train) == (True, "binary_relevance", "head")
    plain = load_experiment(build_parser().parse_args(["run", "--data", "x.csv"]))
    assert (plain.data.multi_label, plain.method["name"]) == (False, "genco")
