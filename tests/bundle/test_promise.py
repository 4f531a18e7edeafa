"""What a bundle promises: who keeps it, and how it is written into a bundle that others may read meanwhile."""

from __future__ import annotations

import threading

import pytest
from endpoint import make_bundle

from selftrain.bundle.checking import hashes_of
from selftrain.bundle.format import checked_card, read_card, restate
from selftrain.bundle.handover import distilled_card
from selftrain.bundle.promise import PredictionSets, Promise, kept, percent, stated
from selftrain.errors import ConfigError, OutputError

PROMISE = Promise(
    risk=0.05, level=0.95, threshold=0.8125, answered=0.4, documents=4000, answers=80, wrong=0, backend="torch", made="2026-11-30T00:00:00+00:00"
)
SETS = PredictionSets(
    risk=0.1,
    level=0.95,
    threshold=0.0312,
    size=1.44,
    classes=4,
    documents=4000,
    answers=100,
    missed=4,
    backend="torch",
    made="2026-11-30T00:00:00+00:00",
)


def test_a_promise_is_kept_at_the_precision_that_it_was_made_with() -> None:
    for backend in ("torch", "onnx", "openvino"):
        assert kept(PROMISE, backend) is PROMISE
    in_8_bits = PROMISE.model_copy(update={"backend": "onnx-int8"})
    assert kept(in_8_bits, "onnx-int8") is in_8_bits
    for promise, backend, said in (
        (PROMISE, "onnx-int8", "made with torch"),
        (in_8_bits, "torch", "made with onnx-int8"),
        (None, "torch", "abstain needs a promise"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            kept(promise, backend)
        assert refused.value.parameter == "abstain" and stated(promise, backend) is None
    assert kept(SETS, "onnx", "sets") is SETS
    for sets, backend, said in ((SETS, "onnx-int8", "^sets are not possible with the backend onnx-int8"), (None, "torch", "^sets need a promise")):
        with pytest.raises(ConfigError, match=said) as refused:
            kept(sets, backend, "sets")
        assert refused.value.parameter == "sets" and stated(sets, backend) is None


def test_a_promise_in_words() -> None:
    assert PROMISE.sentence == (
        "at most 5 % of the answers are wrong (with 95 % confidence), where texts whose most probable class has a probability below 0.8125 get none; "
        "40 % of the audit's 4,000 documents are answered"
    )
    assert [percent(share) for share in (0.01, 0.075, 0.1, 0.4123, 1.0)] == ["1 %", "7.5 %", "10 %", "41.2 %", "100 %"]
    assert SETS.sentence == (
        "the sets of at least 90 % of the texts hold the true class (with 95 % confidence), where a set holds the most probable class and all with a "
        "probability of at least 0.0312; 1.4 of 4 classes on average"
    )
    assert stated(PROMISE, "torch") == PROMISE.model_dump(mode="json") | {"sentence": PROMISE.sentence}


def test_a_bundle_is_restated_while_others_open_it(tmp_path) -> None:
    """No reader sees half a card or a file that is none of a bundle's; what the bundle computes, and its fingerprint, stay."""
    folder = make_bundle(tmp_path / "news")
    card, before = read_card(folder), hashes_of(folder)
    assert card.promise is None
    found, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                found.append(checked_card(folder).promise)
            except Exception as error:
                found.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        restate(folder, card.model_copy(update={"promise": PROMISE}))
        restate(folder, card)
    restate(folder, card.model_copy(update={"promise": PROMISE}))
    done.set()
    reader.join()
    assert found and all(one is None or one == PROMISE for one in found)
    assert read_card(folder) == card.model_copy(update={"promise": PROMISE}) and hashes_of(folder) == before
    assert f"Asked to abstain: {PROMISE.sentence}." in (folder / "README.md").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["news", "news-backbone"]


def test_a_student_does_not_inherit_the_promise_of_its_teacher(tmp_path) -> None:
    card = read_card(make_bundle(tmp_path / "news", promise=PROMISE, sets=SETS))
    student = distilled_card(card, "static", {})
    assert (card.promise, card.sets) == (PROMISE, SETS) and student.promise is student.sets is None


def test_a_disk_that_refuses_is_one_sentence_and_leaves_the_card(tmp_path, monkeypatch) -> None:
    folder = make_bundle(tmp_path / "news")
    card = read_card(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selftrain.bundle.format.os.replace", full)
    with pytest.raises(OutputError, match="cannot be written: the disk is full"):
        restate(folder, card.model_copy(update={"promise": PROMISE}))
    monkeypatch.undo()
    assert checked_card(folder) == card and sorted(file.name for file in tmp_path.iterdir()) == ["news", "news-backbone"]
