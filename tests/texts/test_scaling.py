"""Engines that become more while prompts wait, and fewer when none do: Ray Serve itself, with a stub in vLLM's place."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from stub_engine import session_with_stub

from selftrain.config import AugmentConfig
from selftrain.texts.engines import replicas, vllm
from selftrain.texts.engines.resilient import ResilientEngine
from selftrain.texts.engines.vllm import VllmDeployment
from selftrain.texts.prompts import Prompt, Sampling

pytestmark = pytest.mark.ray

APPLICATION = "selftrain-scaling"
PATIENCE = 300.0


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[Path]:
    """See `session_with_stub`."""
    with session_with_stub(tmp_path_factory.mktemp("stub")) as folder:
        yield folder


@pytest.fixture
def engine(model, monkeypatch) -> Iterator[ResilientEngine]:
    """An engine that three processes may be, in a Ray that has room for two; Serve decides within seconds."""
    import ray
    from ray import serve
    from ray.runtime_context import RuntimeContext

    @ray.remote
    class Owner:
        pass

    monkeypatch.setattr(RuntimeContext, "was_current_actor_reconstructed", False)  # the test is no actor
    monkeypatch.setattr(replicas, "ROOM_SECONDS", 5.0)
    for name, seconds in (("GROW_SECONDS", 1.0), ("SHRINK_SECONDS", 1.0), ("MEAN_SECONDS", 11.0)):
        monkeypatch.setattr(vllm, name, seconds)
    owner = Owner.options(num_cpus=ray.cluster_resources()["CPU"] - 2).remote()
    ray.get(owner.__ray_ready__.remote())
    config = AugmentConfig(gpus=0, most_replicas=3, concurrent_requests=4)
    found = ResilientEngine(config, "stub", VllmDeployment(config, str(model), APPLICATION, owner, engines=3))
    yield found
    started = time.monotonic()
    found.close()
    assert APPLICATION not in serve.status().applications and time.monotonic() - started < 30
    serve.shutdown()
    ray.kill(owner)


def states() -> dict[str, int]:
    """How many processes Serve has in each state."""
    from ray import serve

    return dict(serve.status().applications[APPLICATION].deployments["vllm"].replica_states)


def until(reached, act=lambda: time.sleep(1.0)) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, states()
        act()


def test_engines_become_more_and_fewer_and_no_text_is_lost(engine, model):
    numbers, wrote = count(), Counter()

    def write(word="slow", texts=80) -> None:
        prompts = [Prompt(f"{word} {next(numbers)}", "", "input", "", 0, Sampling(0.8, 3)) for _ in range(texts)]
        found = list(engine.generate(prompts))
        assert {one.prompt for one in found} == set(prompts) and not any(one.error for one in found)
        wrote.update(one.text.split()[-1] for one in found if word == "slow")

    until(lambda: len(wrote) == 2 and engine.notices, write)
    assert states() == {"RUNNING": 2, "STARTING": 1}
    assert [*engine.notices] == ["More engines of the language model wait for room (augment.most_replicas is 3); those that are there go on writing."]

    write("lasting", 4)  # Serve ends an engine meanwhile, which still answers
    asked = (model / "lasting").read_text().split()
    assert len(asked) == 4
    until(lambda: states() == {"RUNNING": 1})
    wrote.clear()
    for _ in range(4):
        write(texts=30)
    assert len(wrote) == 1 and len(engine.notices) == 1

    (left,) = wrote
    os.kill(int(left.split("-")[1].rstrip(".")), signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: len(engine.notices) == 2, lambda: write(texts=10))
    assert engine.notices[1] == "The language model's engine was killed, or crashed; another one is starting, and gets the texts that were in flight."
    assert time.monotonic() - killed < 60

    left_alone = engine.generate([Prompt(f"{word} {next(numbers)}", "", "input", "", 0, Sampling(0.8, 3)) for word in ("slow", "lasting")])
    next(left_alone)
    left_alone.close()  # the fixture's end does not wait for the other text
