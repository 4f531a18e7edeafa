"""Rows of a run, and what it hands over."""

import csv
import json

import numpy as np
import pytest
from light_runs import described

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.documents import load_documents
from selftrain.bundle.format import read_card
from selftrain.bundle.reference import read_reference
from selftrain.config import DataConfig, class_tree
from selftrain.data.corpus import Documents
from selftrain.errors import SelfTrainError
from selftrain.evaluation.summary import summarise
from selftrain.runs.labeled import write_labeled
from selftrain.runs.plan import prepare
from selftrain.runs.rows import chosen_classes, row
from selftrain.runs.run import run
from selftrain.training.fit import fit, probabilities


@pytest.mark.parametrize(("supervision", "bound"), [("few", False), ("all", False), ("oracle", True)])
def test_a_row_with_an_oracle_is_a_bound_also_where_the_whole_experiment_has_one(supervision, bound):
    data = DataConfig(supervision=supervision, labels_per_class=4)
    found = row("ns3l", 0, data, np.array([[0.9, 0.1]]), None, ("a", "b"), seconds=1.0)
    assert summarise([found])[0]["bound"] is bound


def test_a_document_that_the_language_model_names_no_class_for_is_wrong_and_in_no_share():
    chosen = chosen_classes(["b", None, "", "a", "a bit of b"], ("a", "b"))
    assert chosen.tolist() == [[0, 1], [0, 0], [0, 0], [1, 0], [0, 0]]
    found = row("language model", 0, DataConfig(), chosen, np.array([1, 0, 1, 0, 0]), ("a", "b"))
    assert found["documents"] == 5 and found["predicted"] == {"a": 1, "b": 1}
    scores = found["scores"]
    assert scores["accuracy"] == 2 / 5 and scores["confusion"] == [[1, 0], [0, 1]]
    assert [(entry["support"], entry["precision"]) for entry in scores["per_class"]] == [(3, 1.0), (2, 1.0)]
    assert [entry["recall"] for entry in scores["per_class"]] == [1 / 3, 1 / 2]
    assert scores["ece"] == 0.0  # confidence 0 and never right
    unlabeled = row("language model", 0, DataConfig(), chosen, None, ("a", "b"))
    assert unlabeled["predicted"] == {"a": 1, "b": 1} and unlabeled["scores"] is None


def test_labeled_documents_are_a_csv_that_no_spreadsheet_takes_for_formulas(tmp_path):
    texts = ("=1+1", "-5 degrees", ' @here, he said "so"\nand left', "a plain text")
    write_labeled(
        tmp_path / "labeled.csv", Documents(("1", "2", "3", "4"), texts), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [1, 0]]), ("+a", "b")
    )
    with (tmp_path / "labeled.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "text", "label", "confidence"]
    assert [row[1] for row in rows[1:]] == ["'=1+1", "'-5 degrees", '\' @here, he said "so"\nand left', "a plain text"]
    assert [(row[0], row[2], row[3]) for row in rows[1:]] == [
        ("1", "'+a", "0.9000"),
        ("2", "b", "0.8000"),
        ("3", "'+a", "0.5000"),
        ("4", "'+a", "1.0000"),
    ]


def test_every_round_is_scored_on_the_test_documents_where_that_is_asked_for(home):
    document = described(home, "bilstm")
    assert prepare(document).main.tested is None
    asked = document.model_copy(update={"evaluation": document.evaluation.model_copy(update={"every_round": True})})
    found = prepare(asked)
    fitted = fit(found.main.recipe, found.main.granted(0), seed=0, tested=found.main.tested)
    corpus = found.corpus
    predicted = probabilities(fitted.student, corpus.test)
    right = [row.argmax() == found.truth.test[id_] for row, id_ in zip(predicted, corpus.test.ids, strict=True)]
    assert len(right) == 20 and [entry["test_accuracy"] for entry in fitted.rounds][-1] == sum(right) / 20
    assert all(0 <= entry["test_auc"] <= 1 for entry in fitted.rounds) and len(fitted.rounds) == 6
    unlabeled = {"label_column": None, "supervision": "none", "test_documents": 20}
    without = asked.model_copy(update={"data": asked.data.model_copy(update=unlabeled), "method": {"name": "genco", "rounds": 0}})
    with pytest.raises(SelfTrainError, match=r"evaluation\.every_round must be false where test documents have no labels"):
        prepare(without)


def test_a_row_of_a_tree_has_the_scores_of_its_groups_and_labeled_documents_have_them_beside_their_class(tmp_path):
    found, names, parents = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]), ("a", "b", "c"), (("x", "=y"), ("x", "=y"), ())
    scored = row("genco", 0, DataConfig(), found, np.array([1, 2]), names, parents=parents)
    assert [level["accuracy"] for level in scored["levels"]] == [0.5, 0.5] and scored["scores"]["accuracy"] == 0.0
    assert "levels" not in row("genco", 0, DataConfig(), found, None, names, parents=parents)
    assert "levels" not in row("genco", 0, DataConfig(), found, np.array([1, 2]), names)
    write_labeled(tmp_path / "labeled.csv", Documents(("1", "2"), ("t", "u")), found, names, parents)
    assert (tmp_path / "labeled.csv").read_text(encoding="utf-8").splitlines() == [
        "id,text,label,confidence,parents",
        "1,t,a,0.5000,x / =y",
        "2,u,b,0.5000,x / =y",
    ]


@pytest.mark.slow
def test_a_run_with_a_tree_says_in_its_files_how_good_it_is_on_groups(home):
    document = described(home, "head", method={"name": "genco", "rounds": 0})
    tree = [{"free time": ["sport"]}, {"work": ["business"]}]
    document = document.model_copy(update={"data": document.data.model_copy(update={"classes": class_tree(tree), "supervision": "none"})})
    made = run(document)
    (scored,) = made.metrics["rows"]
    assert made.metrics["asked"]["parents"] == [["free time"], ["work"]] and scored["levels"][0]["accuracy"] == scored["scores"]["accuracy"]
    card = read_card(made.bundle)
    assert card.parents == (("free time",), ("work",)) and card.metrics.group_accuracy == (scored["scores"]["accuracy"],)
    assert "| Accuracy of groups |" in (made.bundle / "README.md").read_text(encoding="utf-8")
    assert load_documents(card, None)[0].class_parents == card.parents


def test_a_bundle_keeps_what_its_documents_look_like_to_it(home, tmp_path):
    """20 documents are tested, too few: the reference is of those that were learned from, as the bundle sees them."""
    words = {"sport": "the team and its coach won match", "business": "the bank and the market lost profit"}
    texts = [(f"{text} {number}", label) for label, text in words.items() for number in range(125)]
    (tmp_path / "documents.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in texts), encoding="utf-8")
    method = {"name": "genco", "rounds": 0, "input_augmentation": False, "conditional_augmentation": False}
    data = {"source": str(tmp_path / "documents.jsonl"), "label_column": "label", "classes": list(words), "test_documents": 20}
    bundle = run(described(home, "head", method=method, data=data, evaluation={"map": "none", "reference": 210})).bundle
    card = read_card(bundle)
    facts = card.reference
    assert (facts.documents, facts.kept, facts.held_out, sum(facts.confidence)) == (210, 210, False, 210) and sum(facts.shares) == pytest.approx(1)
    kept = read_reference(bundle / "reference.safetensors", facts, card.labels)
    probabilities, embeddings = Classifier.load(bundle).embed([text for text, _ in texts])
    nearest = (embeddings.astype(np.float64) @ kept.embeddings.astype(np.float64).T).argmax(axis=0)
    assert np.abs(kept.embeddings - embeddings[nearest]).max() < 2e-3 and np.abs(kept.probabilities - probabilities[nearest]).max() < 1e-3
