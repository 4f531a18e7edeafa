"""The engine without Serve: what it asks, what it does when its processes die, fail or are silent, and what it reports."""

import asyncio

import pytest

from selftrain.config import AugmentConfig
from selftrain.errors import ProcessDied, ServiceError
from selftrain.texts.engines import engine_needs, resilient
from selftrain.texts.engines.messages import Messages
from selftrain.texts.engines.resilient import EngineGone, ResilientEngine, asked_together
from selftrain.texts.engines.vllm import replica_options
from selftrain.texts.prompts import Prompt, Sampling

PROMPTS = [Prompt(f"prompt {name}", name, "input", "", 0, Sampling(0.8, 4)) for name in "abcdef"]


class Scripted:
    """A deployment that does what a test says: `act(prompt, how often this prompt was asked)` gives a text or raises."""

    def __init__(self, act) -> None:
        self.act, self.asked, self.dying, self.started, self.stopped, self.there = act, [], [], 0, 0, True
        self.at_once = self.most = 0

    def start(self):
        self.started += 1

    async def complete(self, prompt, options):
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
        return found, 3, options["max_tokens"]

    def deaths(self):
        died, self.dying = self.dying, []
        return died

    def ready(self):
        return self.there

    def waiting(self):
        return False

    def stop(self):
        self.stopped += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(resilient, "POLL_SECONDS", 0.05)


def engine(deployment, **settings):
    return ResilientEngine(AugmentConfig(gpus=0, **settings), "folder", deployment)


async def silence():
    await asyncio.sleep(3600)


def test_every_prompt_gets_its_generation_and_the_engine_starts_once():
    deployment = Scripted(lambda prompt, nth: prompt.upper())
    served = engine(deployment, concurrent_requests=2)
    assert served.starting and deployment.started == 0
    for _ in range(2):
        found = {found.prompt.document_id: found for found in served.generate(PROMPTS)}
        assert {name: generation.text for name, generation in found.items()} == {name: f"PROMPT {name.upper()}" for name in "abcdef"}
        assert {(generation.prompt_tokens, generation.generated_tokens, generation.error) for generation in found.values()} == {(3, 4, "")}
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
    found = list(served.generate(PROMPTS))
    assert sorted(one.prompt.document_id for one in found) == list("abcdef") and all(one.text == "text" for one in found)
    list(served.generate(PROMPTS))  # polled here at the latest
    assert set(served.notices) == {
        "The language model's engine was killed, or crashed; another one is starting, and gets the texts that were in flight."
    }


def test_engines_that_keep_dying_end_the_wait_and_say_why():
    deployment = Scripted(lambda prompt, nth: silence())
    deployment.deaths = lambda: ["was killed for lack of memory (by the kernel)"]
    with pytest.raises(ProcessDied, match=r"died 3 times without a text in between; the last one was killed for lack of memory \(by the kernel\)"):
        list(engine(deployment).generate(PROMPTS))


def test_deaths_with_texts_in_between_do_not_add_up():
    deployment = Scripted(None)

    def act(prompt, nth):
        if nth == 1:
            deployment.dying = ["died"]
            raise EngineGone
        return "text"

    deployment.act = act
    served = engine(deployment, concurrent_requests=1)
    for prompt in PROMPTS:
        served._last_poll = 0.0
        assert [found.prompt for found in served.generate([prompt])] == [prompt]


def test_a_prompt_that_fails_again_and_again_is_an_error_of_its_own():
    def act(prompt, nth):
        if prompt.endswith("c"):
            raise ValueError("too long")
        if prompt.endswith("d") and nth < resilient.MAX_TRIES:
            raise OSError("now and then")
        return "text"

    deployment = Scripted(act)
    found = {one.prompt.document_id: one for one in engine(deployment).generate(PROMPTS)}
    assert found["c"].error == "ValueError: too long" and found["c"].text == ""
    assert [name for name, generation in found.items() if generation.error] == ["c"]
    assert deployment.asked.count("prompt c") == deployment.asked.count("prompt d") == resilient.MAX_TRIES


def test_a_stall_is_an_error():
    deployment = Scripted(lambda prompt, nth: silence() if prompt.endswith("b") else "text")
    with pytest.raises(ServiceError, match=r"generated no text for 0 s \(1 are missing\)"):
        list(engine(deployment, stall_seconds=0.3).generate(PROMPTS))


def test_a_caller_that_leaves_ends_the_asking():
    deployment = Scripted(lambda prompt, nth: "text" if prompt.endswith("a") else silence())
    generations = engine(deployment).generate(PROMPTS)
    assert next(generations).prompt.document_id == "a"
    generations.close()
    assert deployment.at_once == 0


def test_without_an_engine_texts_are_said_to_wait_for_one():
    deployment = Scripted(lambda prompt, nth: "text")
    served = engine(deployment)
    list(served.generate(PROMPTS))
    deployment.there = False
    assert served.starting


def test_the_engine_states_what_it_needs(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2**30)
    found = engine_needs(AugmentConfig(engine_memory_gb=0.5, gpus=0), tmp_path)
    assert (found.cpus, found.gpus, found.memory_gb) == (1.0, 0.0, 1.5 + 0.5 + 3.0)
    assert engine_needs(AugmentConfig(engine_memory_gb=0.5, gpus=0), "a/hub-name").memory_gb == 0.5 + 3.0  # weights of a size that is not known
    three = engine_needs(AugmentConfig(engine_memory_gb=0.5, gpus=0, replicas=3), tmp_path)
    assert (three.cpus, three.memory_gb) == (3.0, 3 * found.memory_gb)
    on_gpus = engine_needs(AugmentConfig(gpus=2, replicas=3), tmp_path)
    assert (on_gpus.cpus, on_gpus.gpus, on_gpus.memory_gb) == (3.0, 6.0, 0.0)
    assert engine_needs(AugmentConfig(), None) is None


def test_engines_that_may_come_are_asked_for_in_memory_alone(tmp_path):
    one, four = (engine_needs(AugmentConfig(gpus=0, most_replicas=most), tmp_path) for most in (None, 4))
    assert (four.cpus, four.gpus, four.memory_gb) == (one.cpus, one.gpus, 4 * one.memory_gb)
    assert engine_needs(AugmentConfig(gpus=1, most_replicas=4), tmp_path).claims == engine_needs(AugmentConfig(gpus=1), tmp_path).claims


@pytest.mark.parametrize(("requests", "size", "load"), [(64, 16, 4), (256, 64, 4), (7, 1, 7), (3, 1, 3), (1, 1, 1)])
def test_serve_wants_an_engine_for_each_load(requests, size, load):
    growing = AugmentConfig(gpus=0, replicas=2, most_replicas=5, concurrent_requests=requests)
    options = replica_options(growing)
    scaling = options["autoscaling_config"]
    assert asked_together(growing) == size
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (2, 5, load)
    assert options["max_ongoing_requests"] * size >= 4 * requests  # twice what is in flight an engine, however unevenly it is shared out
    fixed = replica_options(AugmentConfig(gpus=0, replicas=2, most_replicas=2, concurrent_requests=requests))
    assert "autoscaling_config" not in fixed and fixed["num_replicas"] == 2


def test_all_engines_that_may_come_are_fed_in_messages_of_one_size():
    sizes = []

    async def send(prompts):
        sizes.append(len(prompts))
        for place in range(len(prompts)):
            await asyncio.sleep(0.012 * (1 + (place + len(sizes)) % 5))  # answers come one by one
            yield [(place, ("text", 1, 1))]

    class ByMessage(Scripted):
        async def complete(self, prompt, options):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                return await self.messages.ask(prompt)
            finally:
                self.at_once -= 1

    deployment = ByMessage(None)
    deployment.messages = Messages(send, 2)
    prompts = [Prompt(f"{number}", "", "input", "", 0, Sampling(0.8, 4)) for number in range(200)]
    assert len(list(engine(deployment, concurrent_requests=8, most_replicas=3).generate(prompts))) == 200
    assert deployment.most == 2 * 3 * 8 and set(sizes) == {2}


def test_that_more_engines_wait_for_room_is_said_once():
    deployment = Scripted(lambda prompt, nth: "text")
    deployment.waiting = lambda: True
    served = engine(deployment, most_replicas=4)
    for _ in range(3):
        served._last_poll = 0.0
        list(served.generate(PROMPTS))
    assert served.notices == ["More engines of the language model wait for room (augment.most_replicas is 4); those that are there go on writing."]
