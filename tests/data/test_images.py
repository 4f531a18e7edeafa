"""Images as documents: decoding, what is skipped, splits by pixels, the cut before decoding, and supervision by the same rules as texts."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from tiny import encoded_image, toy_images

from selftrain.config import DataConfig
from selftrain.data.cleaning import SourceRow
from selftrain.data.describing import describe_catalogue, describe_corpus
from selftrain.data.images import common_size, image_id, thinned, usable_image
from selftrain.data.loading import load_corpus
from selftrain.data.supervision import grant
from selftrain.errors import SelfTrainError


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """Writes a set of toy images into SELFTRAIN_DATA."""

    def write(name, labels=("red", "blue"), **splits):
        folder = tmp_path / "sets" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps({"labels": list(labels), "splits": dict.fromkeys(splits, 0)}))
        for split, columns in splits.items():
            pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
        monkeypatch.setenv("SELFTRAIN_DATA", str(tmp_path / "sets"))
        return folder

    return write


def columns(count, seed=0, **more):
    pixels, labels = toy_images(count, seed=seed)
    return {"image": [encoded_image(one) for one in pixels], "label": labels.tolist(), **more}


def test_a_lossless_file_gives_its_pixels_and_the_id_follows_from_them():
    pixels = toy_images(1)[0][0]
    found, reason = usable_image(encoded_image(pixels), (8, 8))
    assert reason == "" and found.dtype == np.uint8 and np.array_equal(found, pixels)
    assert image_id(found) == image_id(pixels) and len(image_id(pixels)) == 16
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert image_id(other) != image_id(pixels)
    hub, _ = usable_image({"bytes": encoded_image(pixels), "path": "a.png"}, (8, 8))
    assert np.array_equal(hub, pixels)


def test_grey_images_get_three_equal_channels_and_sides_are_not_swapped():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    content = io.BytesIO()
    Image.fromarray(grey).save(content, format="PNG")
    found, reason = usable_image(content.getvalue(), (8, 6))
    assert reason == "" and found.shape == (3, 6, 8)
    assert all(np.array_equal(channel, grey) for channel in found)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        ({"bytes": None, "path": "a.png"}, "empty"),
        (7, "not an image"),
        ("text", "not an image"),
        (b"\xff\xd8 torn", "not an image"),
        (encoded_image(toy_images(1)[0][0])[:120], "not an image"),
        (encoded_image(np.zeros((3, 4, 4), np.uint8)), "another size"),
    ],
)
def test_what_cannot_be_used_has_a_reason(value, reason):
    assert usable_image(value, (8, 8))[1] == reason


def test_the_size_is_that_of_most():
    rows = [SourceRow(str(n), encoded_image(np.full((3, side, side), n, np.uint8))) for n, side in enumerate((4, 8, 8, 4, 8))]
    assert common_size([SourceRow("x", b"no image"), *rows]) == (8, 8)
    assert common_size([SourceRow("x", b"no image")]) is None


def test_a_set_of_images_is_a_corpus_like_one_of_texts(shared):
    train = columns(40)
    train = {name: [*values, *values[:2]] for name, values in train.items()}  # two duplicates
    test = columns(12, seed=1)
    test["image"][0], test["label"][0] = train["image"][5], train["label"][5]  # a test image among the training images
    test["image"][1] = b"torn"
    shared("toys", train=train, test=test)
    corpus, truth = load_corpus(DataConfig(source="toys", min_documents=5))
    assert corpus.kind == "image" and corpus.class_names == ("red", "blue") and corpus.mirrored
    assert len(corpus.test) == 11 and len(corpus.unlabeled) == 39
    assert sorted(row.reason for row in corpus.skipped) == ["duplicate", "duplicate", "in test already", "not an image"]
    for split, labels in ((corpus.unlabeled, truth.unlabeled), (corpus.test, truth.test)):
        assert split.contents.dtype == np.uint8 and split.contents.shape == (len(split), 3, 8, 8) and not split.contents.flags.writeable
        assert [image_id(one) for one in split.contents] == list(split.ids) == list(labels)
        # Toy images of the first class are redder than blue.
        assert [int(one[0].mean() < one[2].mean()) for one in split.contents] == list(labels.values())
    assert "39 unlabeled and 11 test images" in describe_corpus(corpus, truth) and "image, 8 x 8 pixels" in describe_corpus(corpus, truth)
    granted = grant(corpus, truth, DataConfig(supervision="few", labels_per_class=3), seed=0).granted
    assert sorted(granted.values()) == [0, 0, 0, 1, 1, 1] and all(truth.unlabeled[id_] == label for id_, label in granted.items())


def test_a_set_without_a_test_split_holds_images_out(shared):
    shared("toys", train=columns(40))
    corpus, _ = load_corpus(DataConfig(source="toys", test_documents=10, min_documents=5))
    assert len(corpus.test) == 10 and len(corpus.unlabeled) == 30


def test_images_that_are_not_used_are_not_decoded(shared, monkeypatch):
    import selftrain.data.cleaning as cleaning

    shared("toys", train=columns(40), test=columns(5, seed=1))
    decoded = []
    monkeypatch.setattr(cleaning, "usable_image", lambda value, size: decoded.append(value) or usable_image(value, size))
    small, _ = load_corpus(DataConfig(source="toys", unlabeled_documents=10, min_documents=5))
    assert len(decoded) == 15 and len(small.unlabeled) == 10
    larger, _ = load_corpus(DataConfig(source="toys", unlabeled_documents=20, min_documents=5))
    assert set(small.unlabeled.ids) < set(larger.unlabeled.ids) and small.test.ids == larger.test.ids


def test_the_cut_does_not_depend_on_the_order_of_the_rows():
    rows = [SourceRow(str(n), bytes([n])) for n in range(20)]
    assert {row.text for row in thinned(rows, 5)} == {row.text for row in thinned(rows[::-1], 5)}
    assert thinned(rows, None) == rows and len(thinned([*rows, *rows], 30)) == 20


def test_a_file_of_images_by_either_column_name(tmp_path):
    pixels, labels = toy_images(30)
    for name in ("image", "img", "photo"):
        pyarrow.parquet.write_table(pyarrow.table({name: [encoded_image(one) for one in pixels], "label": labels.tolist()}), tmp_path / "a.parquet")
        text_column = "photo" if name == "photo" else "text"
        config = DataConfig(
            source=str(tmp_path / "a.parquet"), text_column=text_column, label_column="label", classes=("red", "blue"), test_documents=5
        )
        corpus, _ = load_corpus(config)
        assert corpus.kind == "image" and len(corpus.unlabeled) == 25


def test_too_few_images_are_an_error_with_the_reasons(shared):
    shared("toys", train={"image": [b"x", b"y"], "label": [0, 1]})
    with pytest.raises(SelfTrainError, match=r"0 usable documents \(2 rows were skipped: 2 not an image\)"):
        load_corpus(DataConfig(source="toys"))


def test_the_catalogue_lists_images(monkeypatch):
    monkeypatch.delenv("SELFTRAIN_DATA", raising=False)
    assert "hub uoft-cs/cifar10 (images)" in describe_catalogue()
