"""What a replica keeps of the texts that it answers: a bounded sample, without the texts unless asked, and counted."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from endpoint import LABELS, VERSION, endpoint

from selftrain.bundle.checking import fingerprint_of
from selftrain.bundle.classifier import Classifier
from selftrain.data.corpus import document_id
from selftrain.errors import DataError
from selftrain.runs.seen import forget, parts_of, read_part
from selftrain.serving.metrics import Metrics
from selftrain.serving.models import ModelSource
from selftrain.serving.seen import Seen, SeenSettings


class Fake:
    """A classifier of two classes that cannot read the text `bad`."""

    def embed(self, texts):
        if "bad" in texts:
            raise ValueError
        return np.tile([0.25, 0.75], (len(texts), 1)), np.ones((len(texts), 4), dtype=np.float16)


def loaded(classifier) -> SimpleNamespace:
    return SimpleNamespace(
        name="news", version="1", fingerprint="f" * 16, backend="torch", card=SimpleNamespace(labels=("a", "b")), classifier=classifier
    )


def counted(metrics: Metrics) -> dict[str, float]:
    return {outcome: metrics.seen.labels("news", outcome)._value.get() for outcome in ("kept", "left_out", "lost")}


def test_what_an_endpoint_answers_is_kept_as_its_bundle_sees_it(bundle: Path, tmp_path: Path) -> None:
    texts = ["the team won the match", "a new phone"]
    with endpoint(ModelSource(bundle=str(bundle)), seen=SeenSettings(folder=str(tmp_path))) as served:
        body = json.dumps({"texts": [*texts, ""]}).encode()
        request = urllib.request.Request(f"{served.url}/v1/classify", body, {"content-type": "application/json"})
        answers = json.load(urllib.request.urlopen(request))["results"]
    home = tmp_path / fingerprint_of(bundle)
    (part,) = parts_of(home)
    origin, rows = read_part(home, part)
    assert (origin.name, origin.version, origin.backend, origin.labels) == ("news", VERSION, "torch", LABELS)
    assert rows.ids == [document_id(text) for text in texts] and rows.texts is None and np.abs(rows.times - time.time()).max() < 60
    assert "text" not in pq.read_schema(home / part).names and b"match" not in (home / part).read_bytes()
    probabilities, embeddings = Classifier.load(bundle).embed(texts)
    assert np.allclose(rows.probabilities, probabilities, atol=1e-6) and np.array_equal(rows.embeddings, embeddings)
    assert np.allclose(rows.probabilities[0], [answers[0]["probabilities"][label] for label in LABELS], atol=1e-4)


def test_the_sample_is_bounded_and_every_text_is_counted(tmp_path: Path) -> None:
    metrics, classifier = Metrics(), Fake()
    seen = Seen(SeenSettings(folder=str(tmp_path), rows_per_day=240, texts=True), metrics)  # ten at once
    seen.offer(loaded(classifier), ["bad", *(f"text {number}" for number in range(4))])
    seen.offer(loaded(classifier), [f"later {number}" for number in range(400)])
    seen.close()
    found = counted(metrics)
    assert found["left_out"] == 395 and found["kept"] + found["lost"] == 10 and found["lost"] <= 1
    home = tmp_path / ("f" * 16)
    _, rows = read_part(home, parts_of(home)[0])
    assert len(rows) == found["kept"] and sum(text.startswith("later") for text in rows.texts) >= 8 and "bad" not in rows.texts  # 9.9 on average
    assert (np.diff(rows.times) >= 0).all()


def test_room_is_gained_with_time_alone(tmp_path: Path) -> None:
    metrics, classifier = Metrics(), Fake()
    seen = Seen(SeenSettings(folder=str(tmp_path), rows_per_day=240), metrics, interval=0.05)
    seen.offer(loaded(classifier), [f"text {number}" for number in range(50)])
    end = time.monotonic() + 10
    while counted(metrics)["kept"] < 10 and time.monotonic() < end:
        time.sleep(0.01)
    seen.offer(loaded(classifier), ["one more"])
    seen.close()
    assert counted(metrics) == {"kept": 10, "left_out": 41, "lost": 0}


def test_texts_of_a_model_that_was_replaced_are_lost_and_it_is_not_kept(tmp_path: Path) -> None:
    metrics, classifier = Metrics(), Fake()
    seen = Seen(SeenSettings(folder=str(tmp_path)), metrics)
    seen.offer(loaded(classifier), ["a", "b"])
    del classifier
    seen.close()
    assert not seen._drawn
    assert counted(metrics) == {"kept": 0, "left_out": 0, "lost": 2} and not list(tmp_path.iterdir())


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch, caplog) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("selftrain.serving.seen.write_part", full)
    metrics, classifier = Metrics(), Fake()
    seen = Seen(SeenSettings(folder=str(tmp_path)), metrics)
    seen.offer(loaded(classifier), ["a text nobody may log"])
    seen.close()
    assert counted(metrics)["lost"] == 1 and "No space left" in caplog.text and "nobody" not in caplog.text


def test_old_days_go_also_of_bundles_that_answer_no_more(tmp_path: Path) -> None:
    for day in ("old/2026-11-16", "new/2026-11-01", "new/2026-11-17", "new/2026-11-30"):
        (tmp_path / day).mkdir(parents=True)
    (tmp_path / "new" / "state.json").touch()
    forget(tmp_path, 14, 1_796_040_000.0)  # 30 November 2026
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == ["new/2026-11-17", "new/2026-11-30", "new/state.json"]
    (tmp_path / "old" / "2020-11-01").mkdir(parents=True)
    metrics, classifier = Metrics(), Fake()
    seen = Seen(SeenSettings(folder=str(tmp_path), days=1), metrics)
    seen.offer(loaded(classifier), ["a text"])
    seen.close()
    assert not list((tmp_path / "old").iterdir()) and len(parts_of(tmp_path / ("f" * 16))) == 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "2026-11-30").mkdir()
    (tmp_path / "2026-11-30" / "1-a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"1-a\.parquet is damaged .*; remove it"):
        read_part(tmp_path, "2026-11-30/1-a.parquet")
