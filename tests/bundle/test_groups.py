"""Bundles whose classes are a tree."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from endpoint import make_bundle

from selftrain.bundle.classifier import Classifier
from selftrain.bundle.format import BundleCard, read_card
from selftrain.bundle.predict import predict_file, result_columns
from selftrain.bundle.pyfunc import PyfuncClassifier
from selftrain.cli import main
from selftrain.errors import BundleError

PARENTS = (("free time",), ("work", "office"), ("work",))  # of sport, tech and politics
TEXTS = ["the team won the match", "a phone"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("trees") / "news", parents=PARENTS)


def test_a_group_has_the_sum_of_its_classes():
    card = BundleCard(name="news", labels=("sport", "tech", "politics"), parents=PARENTS, method="genco")
    assert card.parents_of(1, [0.25, 0.5, 0.25]) == {"work": 0.75, "office": 0.5} and card.parents_of(0, [0.25, 0.5, 0.25]) == {"free time": 0.25}
    assert (card.levels, card.path_of(1)) == (2, ("work", "office", "tech"))
    assert BundleCard.model_validate(card.model_dump()) == card  # what was worked out once is no part of it
    flat = BundleCard(name="news", labels=("sport", "tech"), method="genco")
    assert (flat.levels, flat.path_of(0), flat.parents_of(0, [1.0, 0.0]), flat.members) == (0, ("sport",), {}, {})


def test_a_bundle_with_a_tree_has_format_1_and_one_of_before_has_none(bundle, tmp_path):
    card = read_card(bundle)
    assert card.format == 1 and card.parents == PARENTS
    assert "- work / office / tech\n" in (bundle / "README.md").read_text(encoding="utf-8")
    document = json.loads((bundle / "selftrain.json").read_text(encoding="utf-8"))
    del document["parents"]
    (tmp_path / "selftrain.json").write_text(json.dumps(document))
    assert read_card(tmp_path).parents == () and read_card(tmp_path).levels == 0
    for parents, words in (
        ([["work"]], "3 lists"),
        ([["a"], ["b"], ["a"]], "'a' twice"),
        ([["tech"], [], []], "'tech' as a class and as a group"),
        ([list("abcdefgh"), [], []], "has 9 levels"),
    ):
        (tmp_path / "selftrain.json").write_text(json.dumps(document | {"parents": parents}))
        with pytest.raises(BundleError, match=f"damaged .*{words}"):
            read_card(tmp_path)


def test_files_get_a_column_a_level(bundle, tmp_path):
    (tmp_path / "x.csv").write_text("text\n" + "\n".join([*TEXTS, '""']) + "\n")
    classifier = Classifier.load(bundle, device="cpu")
    assert predict_file(classifier, tmp_path / "x.csv", tmp_path / "y.csv", "text") == 3
    with (tmp_path / "y.csv").open(newline="") as opened:
        *rows, empty = csv.DictReader(opened)
    groups = ["parent_1", "parent_1_probability", "parent_2", "parent_2_probability"]
    assert list(empty) == ["text", "label", "probability", "error", *groups, "p_sport", "p_tech", "p_politics"]
    assert empty["error"] == "empty" and not any(empty[name] for name in groups)
    for row in rows:
        at = ("sport", "tech", "politics").index(row["label"])
        assert [row["parent_1"], row["parent_2"]] == [*PARENTS[at], ""][:2]
        assert float(row["parent_1_probability"]) == pytest.approx(
            sum(float(row[f"p_{one}"]) for one in (("sport",) if at == 0 else ("tech", "politics")))
        )
    assert result_columns(pa.schema([("text", pa.string())]), ["a"], 1)[0] == ["label", "probability", "error", "parent", "parent_probability", "p_a"]
    found = PyfuncClassifier(classifier).predict(TEXTS)
    assert [list(one) for one in found["parents"]] == [[name for name in (row["parent_1"], row["parent_2"]) if name] for row in rows]


def test_the_command_says_the_way_to_the_class(bundle, capsys):
    assert main(["predict", "--bundle", str(bundle), *TEXTS]) == 0
    ways = {" / ".join((*above, name)) for above, name in zip(PARENTS, ("sport", "tech", "politics"), strict=True)}
    said = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {line[0] for line in said} <= ways and [line[2] for line in said] == TEXTS
