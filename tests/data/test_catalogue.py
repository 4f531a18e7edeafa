"""The named sets: complete, unambiguous, and in the order of the hub's labels."""

import pytest

from selftrain.data.catalogue import CATALOGUE, spelling

# How the hub itself names the classes, in the order of its integers.
HUB = {
    "ag_news": ["World", "Sports", "Business", "Sci/Tech"],
    "imdb": ["neg", "pos"],
    "sst2": ["negative", "positive"],
    "rotten_tomatoes": ["neg", "pos"],
    "amazon_polarity": ["negative", "positive"],
    "subj": ["objective", "subjective"],
    "trec": ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"],
    "dbpedia": [
        *("Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation", "Building"),
        *("NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"),
    ],
    "yahoo_answers": [
        *("Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet"),
        *("Sports", "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government"),
    ],
}
IMAGES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "stl10": 10, "tiny_imagenet": 0, "fashion_mnist": 10}  # classes; 0: the hub's copy names them


@pytest.mark.parametrize("name", IMAGES)
def test_sets_of_images(name):
    named = CATALOGUE[name]
    assert named.kind == "image" and len(named.classes) == IMAGES[name]
    assert named.mirrored == (name != "svhn")


def test_the_issues_sets_are_there():
    wanted = {*HUB, "bbc_news", "yelp_polarity", *IMAGES}
    assert set(CATALOGUE) == wanted
    assert all(name == named.name for name, named in CATALOGUE.items())


@pytest.mark.parametrize("name", HUB)
def test_every_hub_name_is_the_class_at_its_index(name):
    named = CATALOGUE[name]
    assert [named.entry(label) for label in HUB[name]] == list(named.classes)


@pytest.mark.parametrize("named", CATALOGUE.values(), ids=list(CATALOGUE))
def test_a_set_is_complete_and_unambiguous(named):
    assert (named.hub is None) != (named.package is None)
    assert named.prompts and all("{label}" in prompt for prompt in named.prompts)
    assert all(entry.name and entry.words and entry.description for entry in named.classes)
    assert len({entry.words for entry in named.classes}) == len(named.classes)
    spellings = [known for entry in named.classes for known in {spelling(name) for name in (entry.name, *entry.aliases)}]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("name", ["amazon_polarity", "imdb", "sst2", "rotten_tomatoes", "yelp_polarity"])
def test_negative_comes_first(name):
    assert [(entry.name, entry.words) for entry in CATALOGUE[name].classes] == [("negative", "bad"), ("positive", "good")]


def test_gencos_words_and_prompts():
    assert [entry.words for entry in CATALOGUE["ag_news"].classes] == ["politics", "sports", "business", "technology"]
    assert CATALOGUE["ag_news"].prompts == ("Category: {label}.", "It is about {label}.")
    assert CATALOGUE["ag_news"].entry("nonsense") is None
