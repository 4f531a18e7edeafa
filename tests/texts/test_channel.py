"""The way from a request through Ray and Serve to an engine and back. vLLM is a stub: a package of its name that the replica finds first."""

import gc
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import started_by
from stub_engine import session_with_stub

from selftrain.config import AugmentConfig
from selftrain.data.texts import TextRequest
from selftrain.errors import DataError, SelfTrainError, ServiceError
from selftrain.models.locate import language_model_of
from selftrain.texts.actor import RemoteTexts
from selftrain.texts.cache import TextCache
from selftrain.texts.channel import open_texts
from selftrain.texts.prompts import Prompt, Sampling

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[Path]:
    """See `session_with_stub`."""
    with session_with_stub(tmp_path_factory.mktemp("stub")) as folder:
        yield folder


def test_texts_are_generated_once_a_dead_engine_is_replaced_and_what_the_cache_holds_starts_none(model, corpus, tmp_path, capfd):
    config = AugmentConfig(cache=str(tmp_path / "cache"))
    ids = corpus.unlabeled.ids
    requests = [TextRequest(ids[0], "input"), TextRequest(ids[1], "conditional", 1), TextRequest(ids[2], "classify")]
    notices = []
    with open_texts(config, corpus, model, model_fingerprint="known", notify=notices.append) as texts:
        found = texts(requests)
        assert found == {requests[0]: "It went on after 0.", requests[1]: "It went on after like,.", requests[2]: "money"}
        deadly, refused = (Prompt(f"a {word} prompt", "here", "label text", "", 0, Sampling(0.8, 3)) for word in ("deadly", "refused"))
        completions = texts.complete([deadly, refused])
        assert list(completions) == [deadly] and completions[deadly].text == "It went on after prompt." and completions[deadly].cut_off
        counts, examples, conditional = texts.summary()
        assert (counts.requested, counts.generated, dict(counts.filtered)) == (5, 5, {"failed": 1})
        assert len(examples) == 2 and conditional == [(1, "It went on after like,.")]
        progress = texts.progress()
        assert progress.done_so_far == 5 and len(progress.notices) == 1 and "another one is starting" in progress.notices[0]
    assert "language model" in capfd.readouterr().err and texts.progress() is None
    assert len(TextCache(tmp_path / "cache")) == 4
    with open_texts(config, corpus, tmp_path / "no model", model_fingerprint="known", progress=False) as texts:
        assert texts(requests[:1]) == {requests[0]: "It went on after 0."} and texts([]) == {}
        assert texts.summary().counts.cached == 1


def test_several_engines_share_the_prompts(model, corpus, tmp_path):
    config = AugmentConfig(cache=str(tmp_path / "cache"), replicas=2, concurrent_requests=4)
    prompts = [Prompt(f"slow {number}", str(number), "input", "", 0, Sampling(0.8, 3)) for number in range(40)]
    with open_texts(config, corpus, model, progress=False) as texts:
        found = texts.complete(prompts)
        wrote = Counter(completion.text for completion in found.values())
        assert len(found) == 40 and len(wrote) == 2 and min(wrote.values()) >= 5  # two processes, each with its share
        os.kill(int(next(iter(wrote)).split("-")[1].rstrip(".")), signal.SIGKILL)
        again = texts.complete([replace(prompt, sample=1) for prompt in prompts])
        assert len(again) == 40
        assert any("another one is starting" in notice for notice in texts.progress().notices)


def test_teachers_are_engines_of_their_own_behind_one_service(model, corpus, tmp_path):
    """The stub's votes are its last class; texts that are slow say which process wrote them."""
    copied = tmp_path / "other"
    shutil.copytree(model, copied)
    (copied / "another.txt").write_text("what tells it from the first")
    config = AugmentConfig(cache=str(tmp_path / "cache"), teachers=[{"model": str(model), "name": "one"}, {"model": str(copied), "name": "two"}])
    prompts = [Prompt(f"slow {number}", str(number), "input", "", sample, Sampling(0.8, 3)) for number in range(10) for sample in (0, 1)]
    with open_texts(config, corpus, language_model_of(config), progress=False) as texts:
        found = texts.complete(prompts)
        wrote = Counter(completion.text for completion in found.values())
        assert list(found) == prompts and sorted(wrote.values()) == [10, 10]  # two processes, each with its share
        assert texts.votes({"a": "the match", "b": "the bank"}) == {"one": {"a": "money", "b": "money"}, "two": {"a": "money", "b": "money"}}
        counts, _, _ = texts.summary()
        assert {name: own.generated for name, own in counts.teachers.items()} == {"one": 12, "two": 12}


def test_a_service_that_is_killed_comes_back_with_documents_that_ray_does_not_send_along(model, corpus, tmp_path, capfd):
    """What is larger than 100 KB goes through Ray's object store, and is forgotten there when nobody holds it."""
    documents = replace(corpus.unlabeled, contents=tuple(f"{text} {'and so on ' * 2000}" for text in corpus.unlabeled.contents))
    large = replace(corpus, unlabeled=documents)
    config = AugmentConfig(cache=str(tmp_path / "cache"), document_words=8)
    first, second = (TextRequest(large.unlabeled.ids[place], "input") for place in (0, 1))
    with open_texts(config, large, model, progress=False) as texts:
        assert first in texts([first])
        gc.collect()
        (service,) = started_by(title="ray::_TextActor")
        service.kill()
        service.wait(60)
        assert second in texts([second])
    assert "object store" not in capfd.readouterr().err  # a warning of Ray's, for the person at the terminal


@pytest.mark.parametrize("kind", [ServiceError, DataError])
def test_an_error_of_the_service_reaches_its_caller_as_it_is(model, kind):
    """Classes that are builtin errors, too, travel through Ray with their parameter."""
    import ray

    @ray.remote(num_cpus=0)
    def fails(method, requests):
        raise kind("no text for 5 s", parameter="augment.stall_seconds")

    with pytest.raises(SelfTrainError, match="no text for 5 s") as caught:
        RemoteTexts(SimpleNamespace(ask=fails))(["a request"])
    assert type(caught.value) is kind and caught.value.parameter == "augment.stall_seconds"
