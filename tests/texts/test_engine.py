"""The engine without Serve: what it asks, what it does when engines die, fail or are silent, and what it says."""

import asyncio

import pytest

from selftrain.config import AugmentConfig
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.texts import remote as module
from selftrain.texts.remote import EngineGone, ServedEngine
from selftrain.texts.service import EngineRequest

REQUESTS = [EngineRequest(key, f"prompt {key}", {"max_tokens": 4}) for key in "abcdef"]


class Scripted:
    """A deployment that does what a test says: `act(prompt, how often this prompt was asked)` gives a text or raises."""

    def __init__(self, act) -> None:
        self.act, self.asked, self.dying, self.started, self.stopped, self.there = act, [], [], 0, 0, True
        self.at_once = self.most = 0

    def start(self):
        self.started += 1
        return "<s>"

    async def ask(self, prompt, sampling):
        self.asked.append(prompt)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0.001)
            found = self.act(prompt, self.asked.count(prompt))
            if asyncio.iscoroutine(found):
                found = await found
        finally:
            self.at_once -= 1
        return found, 3, sampling["max_tokens"]

    def deaths(self):
        died, self.dying = self.dying, []
        return died

    def ready(self):
        return self.there

    def stop(self):
        self.stopped += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)


def engine(deployment, **settings):
    return ServedEngine(AugmentConfig(**settings), "folder", deployment)


async def silence():
    await asyncio.sleep(3600)


def test_every_request_gets_its_answer_and_the_engine_starts_once():
    deployment = Scripted(lambda prompt, nth: prompt.upper())
    served = engine(deployment, concurrent_requests=2)
    assert served.starting and deployment.started == 0
    for _ in range(2):
        found = {answer.key: answer for answer in served.generate(REQUESTS)}
        assert {key: answer.text for key, answer in found.items()} == {key: f"<S>PROMPT {key.upper()}" for key in "abcdef"}
        assert {(answer.prompt_tokens, answer.generated_tokens, answer.error) for answer in found.values()} == {(3, 4, "")}
    assert (deployment.started, deployment.most) == (1, 4)  # twice `concurrent_requests`
    assert not served.starting
    served.close()
    assert deployment.stopped == 1


def test_an_engine_that_nobody_asked_is_neither_started_nor_stopped():
    deployment = Scripted(lambda prompt, nth: "")
    engine(deployment).close()
    assert (deployment.started, deployment.stopped) == (0, 0)


def test_what_was_in_flight_is_asked_again_when_the_engine_dies():
    deployment = Scripted(None)

    def act(prompt, nth):
        if nth == 1 and prompt.endswith(("b", "e")):
            deployment.dying = ["was killed, or crashed"]
            raise EngineGone
        return "text"

    deployment.act = act
    served = engine(deployment)
    found = list(served.generate(REQUESTS))
    assert sorted(answer.key for answer in found) == list("abcdef") and all(answer.text == "text" for answer in found)
    list(served.generate(REQUESTS))  # looked after here at the latest
    assert set(served.notices) == {
        "The language model's engine was killed, or crashed; another one is started, and what it was writing is asked for again."
    }


def test_engines_that_keep_dying_end_the_wait_and_say_why():
    deployment = Scripted(lambda prompt, nth: silence())
    deployment.deaths = lambda: ["was killed for lack of memory (by the kernel)"]
    with pytest.raises(ProcessDied, match=r"died 3 times without a text in between; the last one was killed for lack of memory \(by the kernel\)"):
        list(engine(deployment).generate(REQUESTS))


def test_deaths_with_texts_in_between_do_not_add_up():
    deployment = Scripted(None)

    def act(prompt, nth):
        if nth == 1:
            deployment.dying = ["died"]
            raise EngineGone
        return "text"

    deployment.act = act
    served = engine(deployment, concurrent_requests=1)
    for request in REQUESTS:
        served._looked = 0.0
        assert [answer.key for answer in served.generate([request])] == [request.key]


def test_an_answer_that_fails_again_and_again_is_an_error_of_its_own():
    def act(prompt, nth):
        if prompt.endswith("c"):
            raise ValueError("too long")
        if prompt.endswith("d") and nth < module.TRIES:
            raise OSError("now and then")
        return "text"

    deployment = Scripted(act)
    found = {answer.key: answer for answer in engine(deployment).generate(REQUESTS)}
    assert found["c"].error == "ValueError: too long" and found["c"].text == ""
    assert [key for key, answer in found.items() if answer.error] == ["c"]
    assert deployment.asked.count("<s>prompt c") == deployment.asked.count("<s>prompt d") == module.TRIES


def test_a_stall_is_an_error():
    deployment = Scripted(lambda prompt, nth: silence() if prompt.endswith("b") else "text")
    with pytest.raises(SelfTrainError, match=r"gave no text for 0 s \(1 wanted\)"):
        list(engine(deployment, stall_seconds=0.3).generate(REQUESTS))


def test_a_caller_that_leaves_ends_the_asking():
    deployment = Scripted(lambda prompt, nth: "text" if prompt.endswith("a") else silence())
    answers = engine(deployment).generate(REQUESTS)
    assert next(answers).key == "a"
    answers.close()
    assert deployment.at_once == 0


def test_without_an_engine_texts_are_said_to_wait_for_one():
    deployment = Scripted(lambda prompt, nth: "text")
    served = engine(deployment)
    list(served.generate(REQUESTS))
    deployment.there = False
    assert served.starting
