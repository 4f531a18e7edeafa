"""Class names, label words, and which class a label means."""

import pytest

from selftrain.config import DataConfig
from selftrain.data.catalogue import CATALOGUE, DEFAULT_PROMPTS
from selftrain.data.classes import check_class_names, classes_of, with_descriptions
from selftrain.data.cleaning import SourceRow, class_index, label_key
from selftrain.data.corpus import Label, words_of
from selftrain.data.loading import load_corpus
from selftrain.data.sources import DataSource
from selftrain.errors import DataError, SelfTrainError


def source(labels=(), **options):
    return DataSource("pets", [SourceRow(str(number), f"text {number}", label) for number, label in enumerate(labels)], **options)


def meant(src, wanted, labels):
    """The class name that each of `labels` ends up with."""
    classes, index = classes_of(src, wanted)
    return [classes[class_index(label, index)].name for label in labels]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "names 1 class;"),
        ([], "names no classes;"),
        (["cat", "dog", " Cat"], "'cat' twice"),
        (["cat", " "], "empty class name"),
    ],
)
def test_bad_class_lists(names, message):
    with pytest.raises(SelfTrainError, match=message):
        check_class_names(names, "data.classes")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tech", "tech"),
        ("sci_tech", "sci tech"),
        ("EducationalInstitution", "educational institution"),
        ("New York", "New York"),
        ("IT", "IT"),
        (" real  estate ", "real estate"),
    ],
)
def test_words_of(name, words):
    assert words_of(name) == words


def test_distinct_labels_in_alphabetical_order():
    classes, index = classes_of(source(["dog", " Cat", "DOG", None, ""]), None)
    assert [label.name for label in classes] == ["Cat", "dog"]
    assert [class_index(label, index) for label in ("cat", "dog", "Dog ")] == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None, ""], "names no classes; set data.classes"),
        ([0, 1, 1], r"are numbers \(0, 1\); set data.classes"),
        (["0", "1.0"], "are numbers"),
        (["cat", "cat"], "at least two"),
        ([f"id {number}" for number in range(1001)], "1,001 values, more than 1,000"),
    ],
)
def test_labels_that_give_no_classes(labels, message):
    with pytest.raises(SelfTrainError, match=message):
        classes_of(source(labels), None)


def test_integers_index_into_the_given_classes():
    assert meant(source([0, 1, "1"]), ["cat", "dog"], [0, 1, "1", "Dog"]) == ["cat", "dog", "dog", "dog"]


def test_a_name_goes_before_an_index():
    stars = ["1", "2", "3"]
    assert meant(source(stars), stars, ["1", 2, "3"]) == ["1", "2", "3"]


def test_counting_from_one_is_refused_not_shifted():
    with pytest.raises(SelfTrainError, match=r"count from 1 to 2; data\.classes counts from 0"):
        classes_of(source([1, 2, 2]), ["cat", "dog"])
    assert meant(source([1, 1]), ["cat", "dog"], [1]) == ["dog"]


def test_a_sources_own_names_find_the_catalogues_words_in_any_order():
    src = source([0, 1], class_names=("Sci/Tech", "World", "sport", "business"), named=CATALOGUE["ag_news"])
    classes, index = classes_of(src, None)
    assert [(label.name, label.words) for label in classes] == [
        ("technology", "technology"),
        ("world", "politics"),
        ("sports", "sports"),
        ("business", "business"),
    ]
    assert [class_index(label, index) for label in (0, 1, "sci/tech", 3)] == [0, 1, 0, 3]


def test_names_that_say_nothing_stand_in_the_catalogues_order():
    src = source([0, 1], class_names=("1", "2"), named=CATALOGUE["yelp_polarity"])
    assert meant(src, None, [0, 1]) == ["negative", "positive"]


def test_a_name_that_the_catalogue_does_not_know_stays_as_it_is():
    src = source([0], class_names=("business", "fun_stuff", "world", "tech"), named=CATALOGUE["ag_news"])
    classes, _ = classes_of(src, None)
    assert [(label.name, label.words) for label in classes] == [
        ("business", "business"),
        ("fun_stuff", "fun stuff"),
        ("world", "politics"),
        ("technology", "technology"),
    ]


def test_given_classes_reorder_the_sources():
    src = source([0], class_names=("cat", "dog", "bird"))
    assert meant(src, ["bird", "cat", "dog"], [0, 1, 2, "bird"]) == ["cat", "dog", "bird", "bird"]


def test_given_classes_rename_the_sources_in_order():
    src = source([0], class_names=("cat", "dog", "bird"))
    classes, _ = classes_of(src, ["feline", "dog", "feathered friend"])
    assert [label.words for label in classes] == ["feline", "dog", "feathered friend"]
    assert meant(src, ["feline", "dog", "feathered friend"], [0, 1, 2]) == ["feline", "dog", "feathered friend"]


@pytest.mark.parametrize("wanted", [["cat", "dog"], ["dog", "feline", "bird"]])
def test_given_classes_that_do_not_fit(wanted):
    with pytest.raises(SelfTrainError, match=r"pets has 3 \(cat, dog, bird\)"):
        classes_of(source([0], class_names=("cat", "dog", "bird")), wanted)


def test_descriptions():
    labels = (Label("cat", "cat", "cat"), Label("dog", "dog", "dog"))
    assert with_descriptions(labels, {"Dog": "a barking pet"}) == (labels[0], Label("dog", "dog", "a barking pet"))
    with pytest.raises(SelfTrainError, match="did you mean 'dog'"):
        with_descriptions(labels, {"dogs": "x"})


def test_a_class_name_is_one_however_its_accent_is_typed():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    with pytest.raises(SelfTrainError, match="twice"):
        check_class_names([composed, decomposed], "data.classes")
    assert label_key(decomposed) == label_key(composed)
    assert DataConfig(classes=(decomposed, "bar")).classes == (composed, "bar")


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "a\u202eb", "a\x9bm", "\ud800"])
def test_a_class_name_cannot_reach_the_terminal_as_a_command(name):
    with pytest.raises(SelfTrainError, match="control character") as error:
        check_class_names([name, "b"], "data.classes")
    assert name not in str(error.value)


def test_a_tree_is_read_with_its_groups_in_prompts(tmp_path):
    rows = [("football", "goal"), ("tennis", "set"), ("elections", "vote")] * 8
    (tmp_path / "x.csv").write_text("text,label\n" + "\n".join(f"the {word} of day {number},{label}" for number, (label, word) in enumerate(rows)))
    data = {"source": str(tmp_path / "x.csv"), "label_column": "label", "test_documents": 0}
    corpus, truth = load_corpus(DataConfig(**data, classes={"FreeTime": {"ball_games": ["football", "tennis"]}, "politics": ["elections"]}))
    flat, _ = load_corpus(DataConfig(**data, classes=["football", "tennis", "elections"], prompts=["About {label}."]))
    assert corpus.class_names == flat.class_names and corpus.fingerprint == flat.fingerprint and set(truth.unlabeled.values()) == {0, 1, 2}
    assert corpus.class_parents == (("FreeTime", "ball_games"), ("FreeTime", "ball_games"), ("politics",)) and flat.class_parents == ()
    assert corpus.label_prompts()[0] == [prompt.format(label="football (ball games, free time)") for prompt in DEFAULT_PROMPTS]
    assert flat.label_prompts() == [["About football."], ["About tennis."], ["About elections."]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"sport": ["ball", "tennis"], "Ball": ["chess"]}, "names 'Ball' as a class and as a group of classes; rename one"),
        ({"sport": ["tennis"], "work": {"Sport ": ["chess"]}}, "names the group 'Sport ' twice"),
        ([{"sport": ["tennis"]}, "chess", {"sport": ["golf"]}], "names the group 'sport' twice"),
        ({"sport": ["other", "tennis"], "work": ["other"]}, "names the class 'other' twice"),
        ({"sport": ["tennis"], " ": ["chess"]}, "empty class name"),
        ({"sport": ["tennis"], "a\x1b": ["chess"]}, "control character"),
        ({"sport": ["tennis"]}, "names 1 class;"),
    ],
)
def test_names_of_a_tree_that_cannot_be_told_apart(classes, message):
    with pytest.raises(DataError, match=f"data.classes .*{message}"):
        load_corpus(DataConfig(source="nowhere.csv", classes=classes))
