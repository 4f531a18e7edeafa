"""What a request may look like, by hand and without HTTP."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from selftrain.bundle.format import BundleCard
from selftrain.bundle.promise import PredictionSets
from selftrain.serving.routes import parsed
from selftrain.serving.schemas import (
    FAILED,
    MAX_CHARACTERS,
    MAX_TEXTS,
    CheckedText,
    ClassifyRequest,
    PredictRequest,
    TextProbabilities,
    check,
    result,
)


def test_one_of_text_and_texts() -> None:
    assert ClassifyRequest.model_validate({"text": "a"}).items() == ["a"]
    assert ClassifyRequest.model_validate({"text": None}).items() == [None]
    assert ClassifyRequest.model_validate({"texts": ["a", 3, None]}).items() == ["a", 3, None]
    wrong = [
        {},
        {"text": "a", "texts": ["b"]},
        {"texts": None},
        {"texts": []},
        {"texts": "a"},
        {"texts": ["a"] * (MAX_TEXTS + 1)},
        {"text": "a", "top_k": 0},
        {"text": "a", "top_k": "1"},
        {"text": "a", "threshold": 1.5},
        {"text": "a", "model": ""},
        {"text": "a", "none_of_these": 0},
        {"text": "a", "none_of_these": 1},
        {"text": "a", "none_of_these": True},
        {"text": "a", "none_of_these": "a promise"},
        {"text": "a", "none_of_these": 0.01, "augment": True},
    ]
    for body in [*wrong, {"text": "a", "tpo_k": 1}]:
        with pytest.raises(ValidationError):
            ClassifyRequest.model_validate(body)


def test_the_inputs_of_predict_are_a_text_or_a_list_of_texts_or_of_lists_of_one() -> None:
    assert PredictRequest.model_validate({"inputs": "a"}).items() == ["a"]
    assert PredictRequest.model_validate({"inputs": ["ab", ["cd"]]}).items() == ["ab", "cd"]
    for inputs in ([], 3, [["a", "b"]], ["a"] * (MAX_TEXTS + 1)):
        with pytest.raises(ValidationError):
            PredictRequest.model_validate({"inputs": inputs})


def test_a_text_that_fits_no_class_has_no_label() -> None:
    answers = [TextProbabilities([0.1, 0.9], typicality=typicality) for typicality in (0.01, 0.02)]
    none, fits = (result(check("a"), answer, ("sport", "tech"), least=0.01) for answer in answers)
    assert (none["label"], none["abstain"], none["none_of_these"], none["typicality"], none["probability"]) == (None, True, True, 0.01, 0.9)
    assert (fits["label"], fits["abstain"], fits["none_of_these"], fits["typicality"]) == ("tech", False, False, 0.02)
    assert "typicality" not in result(check("a"), answers[0], ("sport", "tech")) and "none_of_these" not in result(check("a"), answers[0], ("a", "b"))
    assert [ClassifyRequest.model_validate({"text": "a", "none_of_these": one}).none_of_these for one in (0.01, "promise")] == [0.01, "promise"]


def test_a_text_is_cut_and_checked() -> None:
    assert check("x" * MAX_CHARACTERS) == CheckedText("x" * MAX_CHARACTERS, None, False)
    assert check("x" * (MAX_CHARACTERS + 1)) == CheckedText("x" * MAX_CHARACTERS, None, True)
    assert check(["a"]).problem == "the text is not a string but list"
    assert check(None).problem == "the text is not a string but NoneType"
    assert check(" ").problem == "the text is empty"
    assert check("\ud800").problem == "the text is not valid Unicode"


def test_an_object_brings_an_id_with_its_text() -> None:
    assert check({"id": 7, "text": "a"}) == CheckedText("a", None, False, 7)
    assert check({"id": "seven", "text": ""}) == CheckedText("", "the text is empty", False, "seven")
    assert check({"text": "a"}) == CheckedText("a", None)
    for value in ({"id": 1}, {"id": 1, "text": "a", "more": 1}):
        assert check(value).problem == 'an object must have the keys "text" and "id" and no others' and check(value).id == 1
    for name in (1.5, True, [], "x" * 1000):
        item = check({"id": name, "text": "a"})
        assert "the id must" in item.problem and item.id is None


def test_a_result_lists_the_most_probable_classes_first() -> None:
    item, answer = CheckedText("a", None, True, 5), TextProbabilities([0.25, 0.125, 0.625])
    found = result(item, answer, ["a", "b", "c"], top_k=2)
    assert found == {"id": 5, "label": "c", "probability": 0.625, "probabilities": {"c": 0.625, "a": 0.25}, "abstain": False, "truncated": True}
    assert list(found["probabilities"]) == ["c", "a"]
    assert list(result(item, answer, ["a", "b", "c"])["probabilities"]) == ["c", "a", "b"]


def test_a_result_of_a_tree_has_the_groups_of_its_most_probable_class() -> None:
    card = BundleCard(name="news", labels=("a", "b", "c"), parents=(("x",), ("x",), ("y",)), method="genco")
    found = result(CheckedText("a", None), TextProbabilities([0.25, 0.625, 0.125]), card.labels, threshold=0.75, tree=card)
    assert found["label"] is None and found["parents"] == {"x": 0.875}  # also where the class is not sure enough
    assert "parents" not in result(CheckedText("a", None), TextProbabilities([0.25, 0.75]), ["a", "b"])


def test_a_result_abstains_below_the_threshold() -> None:
    item, answer = CheckedText("a", None), TextProbabilities([0.25, 0.75], True)
    assert result(item, answer, ["a", "b"], threshold=0.75)["label"] == "b"
    unsure = result(item, answer, ["a", "b"], threshold=0.8)
    assert unsure["label"] is None and unsure["abstain"] and unsure["probability"] == 0.75 and unsure["truncated"]


def test_a_result_lists_the_classes_of_the_set_whatever_else_is_asked_for() -> None:
    sets = PredictionSets(risk=0.1, level=0.95, threshold=0.2, size=1.5, classes=3, documents=40, answers=40, missed=0, backend="torch", made="now")
    item, answer = CheckedText("a", None), TextProbabilities([0.25, 0.1, 0.65])
    found = result(item, answer, ["a", "b", "c"], top_k=1, threshold=0.7, sets=sets)
    assert found["set"] == ["c", "a"] and found["label"] is None and list(found["probabilities"]) == ["c"]
    assert "set" not in result(item, answer, ["a", "b", "c"])
    assert result(CheckedText("", "no"), None, ["a"], sets=sets) == {"error": "no"}


def test_a_text_without_an_answer_has_an_error_and_its_id() -> None:
    assert result(CheckedText("", "no", id=3), None, ["a"]) == {"id": 3, "error": "no"}
    assert result(CheckedText("a", None), TextProbabilities(None), ["a"]) == {"error": FAILED}


def test_a_result_says_how_many_continuations_it_was_read_with_where_any_were_asked_for() -> None:
    assert result(CheckedText("a", None), TextProbabilities([0.25, 0.75], continuations=0), ["a", "b"])["continuations"] == 0
    assert "continuations" not in result(CheckedText("a", None), TextProbabilities([0.25, 0.75]), ["a", "b"])


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"texts": ["a", {"id": 7, "text": "\\u00e9"}], "top_k": 1}', b'{"a": 1, "a": 2}', b"NaN", b"1e999", b"1" * 4000, b"-0", b'"\\u0000"'),
        *(b'"\\ud83d"', b'{"\\ud800": 1}', b"[" * 250 + b"]" * 250, b"\xef\xbb\xbf{}", "[1]".encode("utf-16")),  # of these the fast reader takes none
    ],
)
def test_bodies_are_read_as_the_standard_library_reads_them(body):
    assert repr(parsed(body)) == repr(json.loads(body))


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b'"a\nb"', b"01", b"{}x", b"1" * 5000, b"[" * 100_000])
def test_bodies_are_refused_as_the_standard_library_refuses_them(body):
    with pytest.raises((ValueError, RecursionError)) as expected:
        json.loads(body)
    with pytest.raises((ValueError, RecursionError)) as found:
        parsed(body)
    assert found.type is expected.type and str(found.value) == str(expected.value)
