"""Classes as a list and as a tree."""

import pytest

from selftrain.config import class_tree, load, members_of, parse, paths_of, tree_of
from selftrain.errors import ConfigError

DEEP = {"sport": {"ball": ["football", "tennis"], "water": ["rowing"]}, "politics": ["elections"]}
PATHS = [("sport", "ball", "football"), ("sport", "ball", "tennis"), ("sport", "water", "rowing"), ("politics", "elections")]


def test_a_tree_is_the_same_as_a_mapping_as_a_list_and_made_anew_from_its_paths():
    tree = class_tree(DEEP)
    assert list(paths_of(tree)) == PATHS
    assert class_tree([{"sport": [{"ball": ["football", "tennis"]}, {"water": ["rowing"]}]}, {"politics": ["elections"]}]) == tree
    assert class_tree(tree_of([path[-1] for path in PATHS], [path[:-1] for path in PATHS])) == tree
    assert tree_of(["a", "b"], ()) == ["a", "b"]
    assert list(paths_of(class_tree(["weather", {"sport": ["cafe\u0301"]}]))) == [("weather",), ("sport", "caf\u00e9")]
    assert members_of([path[:-1] for path in PATHS]) == {"sport": (0, 1, 2), "ball": (0, 1), "water": (2,), "politics": (3,)}


def test_an_experiment_keeps_its_tree_through_yaml_variants_and_overrides(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "data:\n  classes:\n    sport: [football, tennis]\n    politics: [elections]\nvariants: {flat: {data: {classes: [football, tennis, elections]}}}\n"
    )
    asked = load(file)
    assert asked.data.class_paths == (("sport", "football"), ("sport", "tennis"), ("politics", "elections"))
    file.write_text(asked.to_yaml())
    assert load(file) == asked and load(file).fingerprint() == asked.fingerprint()
    assert asked.variant("flat").data.class_paths == (("football",), ("tennis",), ("elections",))
    assert load(file, ["data.classes={weather: [rain, snow]}"]).data.class_paths == (("weather", "rain"), ("weather", "snow"))
    assert parse({"data": {"classes": ["a", "b"]}}).data.classes == ("a", "b") and parse({}).data.class_paths is None


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"sport": [], "politics": ["elections"]}, r"data\.classes .* in the group 'sport' must be at least one name \(got none\)"),
        ({"sport": None}, r"in the group 'sport' must be a list of names, .* \(got None\)"),
        ({"sport": "football"}, r"in the group 'sport' must be a list of names, .* \(got 'football'\)"),
        ("sport", r"classes must be a list of names, or groups of them: \{sport: \[football, tennis\]\} \(got 'sport'\)\.$"),
        ({"sport": ["football", 7]}, r"in the group 'sport' must be names of text \(got 7\)"),
        ({1: ["football"]}, r"must be names of text \(got 1\)"),
        (["a", {}], r"must be names of text \(got \{\}\)"),
        ({"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": ["a"]}}}}}}}}, "must be a tree of at most 8 levels"),
    ],
)
def test_what_is_no_tree_is_one_sentence(classes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse({"data": {"classes": classes}})
    assert caught.value.parameter == "data.classes"
