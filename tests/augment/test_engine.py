"""The engine's end of the stream, without a stream: what it puts on the queue, whose answers it takes, and what it says when none come."""

import pytest
import ray.data

from selftrain.augment import engine as module
from selftrain.augment.engine import StreamingEngine
from selftrain.augment.service import EngineAnswer, EngineRequest
from selftrain.config import AugmentConfig
from selftrain.errors import UserError

REQUESTS = [EngineRequest(key, f"prompt {key}", {"max_tokens": 4}) for key in "ab"]


class Rows(list):
    """A queue that remembers."""

    def put_nowait_batch(self, rows):
        self.extend(rows)

    def put(self, row):
        self.append(row)


@pytest.fixture
def engine():
    return StreamingEngine(AugmentConfig(style="instruct", stall_seconds=1.5), "folder")


def answer(key, text="text"):
    return EngineAnswer(key, text, 3, 4)


def test_rows_go_out_and_answers_come_back_once(engine):
    queue = Rows()
    engine.connect(queue)
    engine.hear([answer("b"), answer("b"), answer("of an earlier call"), answer("a")])
    assert [found.key for found in engine.generate(REQUESTS)] == ["b", "a"]
    assert [row["key"] for row in queue] == ["a", "b"]
    assert engine.wanted()
    engine.close()
    assert queue[2:] == [None] * module.READERS  # the read tasks end


def test_nobody_wanted_a_text(engine):
    engine.close()
    assert not engine.wanted()


@pytest.mark.parametrize("connected", [False, True])
def test_a_stream_that_ended_is_an_error_and_no_endless_wait(engine, connected):
    if connected:
        engine.connect(Rows())
    engine.fail("OutOfMemoryError: killed")
    with pytest.raises(UserError, match=r"folder stopped \(OutOfMemoryError: killed\).*--resume"):
        list(engine.generate(REQUESTS))


def test_a_stall_is_an_error(engine):
    engine.connect(Rows())
    engine.hear([answer("a")])
    with pytest.raises(UserError, match="gave no text for 2 s"):
        list(engine.generate(REQUESTS))


def test_a_stream_that_idles_for_long_is_not_ended(monkeypatch):
    """Ray Data ends an execution without progress after half an hour; between two refreshes a stream may well idle longer."""

    class Source:
        def map(self, *args, **kwargs):
            return self

    monkeypatch.setattr(module, "build_processor", lambda *args, **kwargs: lambda dataset: dataset)
    monkeypatch.setattr(ray.data, "read_datasource", lambda *args, **kwargs: Source())
    module._dataset(AugmentConfig(), "folder", Rows())
    assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == -1
