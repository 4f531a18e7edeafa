"""A language model's server as an engine: what it is asked, what becomes of its failures, and that no more is spent than may be."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from completions import completions
from tiny import tiny_backbone

from selftrain import SelfTrainer, generate
from selftrain.config import AugmentConfig, load
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.data.texts import TextRequest
from selftrain.errors import ConfigError, ResourceError, ServiceError
from selftrain.models.locate import fingerprint, language_model_of
from selftrain.passwords import KEY_VARIABLE
from selftrain.runtime import cluster
from selftrain.texts.channel import open_texts
from selftrain.texts.engines import engine_needs, make_engines, openai, resilient
from selftrain.texts.engines.openai import ServerDeployment
from selftrain.texts.engines.resilient import ResilientEngine
from selftrain.texts.engines.spending import Spending
from selftrain.texts.prompts import Prompt, Sampling

SAMPLING = Sampling(0.8, 4, min_tokens=2, top_p=0.9, stop=("\n",))
PROMPTS = [Prompt(f"prompt {name}", name, "input", "", 0, SAMPLING) for name in "abcdef"]


def wrote(body, text="a text", *, used=(3, 4), finish="length"):
    """What a good server answers."""
    said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
    return {
        "id": "1",
        "created": 1,
        "model": "writer",
        "object": "answer",
        "choices": [{"index": 0, "finish_reason": finish, **said}],
        "usage": usage,
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(resilient, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(openai, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(openai, "MOST_BACKOFF_SECONDS", 0.02)


def engine(server, tmp_path, **settings):
    config = AugmentConfig(server=f"{server.url}", model="writer", cache=str(tmp_path), **settings)
    (made,) = make_engines(config, ["served:writer"], application="test", owner=None)
    return made


def prompt_of(body):
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


@pytest.mark.parametrize(
    ("settings", "route"),
    [
        ({"style": "continue"}, "/v1/completions"),
        ({"style": "instruct"}, "/v1/chat/completions"),
        ({"style": "instruct", "frame": "{instruction} {input}"}, "/v1/completions"),
    ],
    ids=["continue", "instruct", "framed"],
)
def test_every_prompt_gets_its_text(settings, route, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    with completions(lambda body: wrote(body, prompt_of(body).upper())) as server:
        found = {one.prompt.document_id: one for one in engine(server, tmp_path, **settings).generate(PROMPTS)}
    assert {name: one.text for name, one in found.items()} == {name: f"PROMPT {name.upper()}" for name in "abcdef"}
    assert {(one.prompt_tokens, one.generated_tokens, one.error) for one in found.values()} == {(3, 4, "")}
    asked = [
        (path, {name.lower(): value for name, value in headers.items()}["authorization"], body)
        for path, headers, body in server.asked
        if body is not None
    ]
    assert {path for path, *_ in asked} == {route} and {key for _, key, _ in asked} == {"Bearer sesame"}
    for _, _, body in asked:
        assert (body["model"], body["temperature"], body["max_tokens"], body["top_p"], body["stop"]) == ("writer", 0.8, 4, 0.9, ["\n"])
        assert "min_tokens" not in body  # OpenAI's own server refuses what it does not know


def test_a_text_that_ended_by_itself_is_not_cut_off(tmp_path):
    with completions(lambda body: wrote(body, finish="stop")) as server:
        (one,) = engine(server, tmp_path).generate(PROMPTS[:1])
    assert one.generated_tokens == 3  # the service takes a text of as many tokens as the limit as cut off


def test_a_busy_or_failing_server_is_asked_again(tmp_path):
    tried: dict[str, int] = {}

    def reply(body):
        nth = tried[prompt_of(body)] = tried.get(prompt_of(body), 0) + 1
        return {1: (429, {"retry-after": "0"}, b""), 2: 500}.get(nth) or wrote(body)

    with completions(reply) as server:
        found = list(engine(server, tmp_path).generate(PROMPTS))
    assert [one.error for one in found] == [""] * 6 and set(tried.values()) == {3}


def test_a_prompt_that_is_refused_costs_no_other_and_no_second_request(tmp_path):
    tried: list[str] = []

    def reply(body):
        tried.append(prompt_of(body))
        return (400, {}, {"error": {"message": "too long"}}) if prompt_of(body).endswith("c") else wrote(body)

    with completions(reply) as server:
        found = {one.prompt.document_id: one for one in engine(server, tmp_path).generate(PROMPTS)}
    assert {name for name, one in found.items() if one.error} == {"c"} and "too long" in found["c"].error
    assert sorted(tried) == [prompt.text for prompt in PROMPTS]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda body: 401, f"does not accept the key (401); set {KEY_VARIABLE}"),
        (lambda body: 503, "cannot be used (503"),
        (lambda body: 404, "ends in the version"),
    ],
)
def test_a_server_that_does_nothing_ends_the_work_with_a_sentence(reply, message, tmp_path):
    with completions(reply) as server, pytest.raises(ServiceError) as caught:
        list(engine(server, tmp_path).generate(PROMPTS))
    assert message in str(caught.value)


def test_what_is_wrong_is_said_before_the_first_prompt(tmp_path):
    with completions(models=("writer-large", "other")) as server:
        with pytest.raises(ConfigError, match="did you mean 'writer-large'"):
            list(engine(server, tmp_path).generate(PROMPTS))
        assert all(body is None for *_, body in server.asked)
    with pytest.raises(ServiceError, match="cannot be used"):
        list(engine(server, tmp_path).generate(PROMPTS))  # nobody listens there any more


def test_a_choice_comes_back_as_the_choice(tmp_path):
    sampling = Sampling(0.0, 16, choices=("sport", "money"))
    prompts = [Prompt(text, text, "classify", "", 0, sampling) for text in ("goal", "bank", "rain")]
    answers = {"goal": '{"choice": "sport"}', "bank": ' {"choice":"money"} ', "rain": '{"choice": "weather"}'}
    with completions(lambda body: wrote(body, answers[prompt_of(body)], finish="stop")) as server:
        found = {one.prompt.text: one for one in engine(server, tmp_path, style="instruct").generate(prompts)}
    assert (found["goal"].text, found["bank"].text) == ("sport", "money")
    assert "none of the choices" in found["rain"].error
    schema = server.asked[-1][2]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["choice"]["enum"] == ["sport", "money"]


def charged(server) -> int:
    """Tokens that the server has counted: seven a text."""
    return 7 * sum(body is not None for *_, body in server.asked)


@pytest.mark.parametrize("settings", [{"max_spent_tokens": 200}, {"max_cost": 200e-6, "prompt_price": 1.0, "generated_price": 1.0}])
def test_no_more_is_spent_than_may_be(settings, tmp_path):
    """However many requests are under way: each is booked at its largest before it is sent."""
    prompts = [Prompt(f"prompt {number:02}", str(number), "input", "", 0, SAMPLING) for number in range(60)]
    kept = []
    with completions(wrote) as server, pytest.raises(ResourceError) as caught:
        for one in engine(server, tmp_path, concurrent_requests=8, **settings).generate(prompts):
            kept.append(one)
    assert next(iter(settings)) in str(caught.value) and "What was generated is cached" in str(caught.value)
    assert charged(server) <= 200 and 10 <= len(kept) < 60


def test_what_nobody_counted_is_spent(tmp_path):
    """A server that fails after it has read a prompt may charge for it, and one that sends no usage has not said what it charges."""
    silent = {key: value for key, value in wrote({}).items() if key != "usage"}
    for reply in (lambda body: 500, lambda body: silent):
        file = tmp_path / f"{id(reply)}.json"
        config = AugmentConfig(server="http://127.0.0.1:1/v1", model="writer", max_spent_tokens=10_000)
        spending = Spending(config, file)
        with completions(reply) as server:
            served = ResilientEngine(config, "writer", ServerDeployment(config.model_copy(update={"server": server.url}), spending, None))
            with suppress(ServiceError):
                list(served.generate(PROMPTS[:1]))
        most = len("prompt a") + 1 + 4
        assert spending.spent["tokens"] == most * sum(body is not None for *_, body in server.asked)


def test_a_process_that_starts_again_has_spent_what_the_one_before_it_booked(tmp_path):
    config = AugmentConfig(server="http://127.0.0.1:1/v1", model="writer", max_spent_tokens=1000)
    first = Spending(config, tmp_path / "spent.json")
    assert all(first.book(40, 10, config) is not None for _ in range(7))
    assert json.loads((tmp_path / "spent.json").read_text())["tokens"] >= 350  # on disk before it is sent
    second = Spending(config, tmp_path / "spent.json")
    assert 350 <= second.spent["tokens"] <= 350 + 2 * 10
    with pytest.raises(ResourceError):
        second.book(600, 60, config)


def test_a_booking_is_replaced_by_what_was_counted(tmp_path):
    config = AugmentConfig(model="writer", max_spent_tokens=100, prompt_price=2.0, generated_price=4.0)
    spending = Spending(config, tmp_path / "spent.json")
    booked = spending.book(80, 20, config)
    assert spending.book(1, 0, config) is None  # it may fit once the first is settled
    spending.settle(booked, 30, 10)
    assert spending.spent == {"tokens": 40.0, "cost": pytest.approx(30 * 2e-6 + 10 * 4e-6)}
    assert spending.book(50, 10, config) is not None
    with pytest.raises(ResourceError):
        spending.book(50, 11, config)


def test_without_ray_the_service_is_in_this_process(tmp_path):
    text = "The match ended with a late goal by the captain of the team."
    documents = Documents((document_id(text),), (text,))
    corpus = Corpus("toy", (Label("sport", "sport", "sport"),), ("{label}",), documents, Documents())
    with completions(lambda body: wrote(body, "The coach of the team was pleased with them.", finish="stop")) as server:
        config = AugmentConfig(server=server.url, model="writer", cache=str(tmp_path / "cache"))
        model = language_model_of(config)
        assert engine_needs(config, model) == engine_needs(config, model).__class__(0.0, 0.0, 0.0)
        for _ in range(2):
            with open_texts(config, corpus, model, progress=False) as texts:
                assert texts([TextRequest(documents.ids[0], "input")]) == {
                    TextRequest(documents.ids[0], "input"): "The coach of the team was pleased with them."
                }
                counts = texts.summary().counts
    assert counts.cached == 1 and sum(body is not None for *_, body in server.asked) == 1  # the second time it is in the cache
    assert fingerprint(model) == "served:writer" != fingerprint("writer")


@pytest.mark.slow
def test_a_run_with_a_server_imports_no_ray(tmp_path):
    """A head, a tiny encoder and a server: what somebody works with who has neither Ray nor vLLM."""
    tiny_backbone(tmp_path / "parts").save(str(tmp_path / "encoder"))
    rows = [f"the team and its coach won match {n}" for n in range(20)] + [f"the bank and the market lost profit {n}" for n in range(20)]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    code = "import sys; from selftrain.cli import main; code = main(); print('ray' in sys.modules or 'vllm' in sys.modules); sys.exit(code)"
    settings = {"model.encoder": str(tmp_path / "encoder"), "model.train": "head", "method.rounds": 1, "method.steps_per_round": 2, "name": "served"}
    settings |= {"augment.model": "writer", "tracking.uri": f"sqlite:///{tmp_path}/tracking.db", "evaluation.map": "none"}
    with completions(lambda body: wrote(body, "The coach of the team was pleased with them.", finish="stop")) as server:
        settings["augment.server"] = server.url
        command = [sys.executable, "-c", code, "run", "--data", "x.jsonl", "--classes", "sport,money"]
        command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "False"
    (file,) = Path(tmp_path).glob("runs/*/metrics.json")
    metrics = json.loads(file.read_text())
    texts, cost = metrics["texts"], metrics["cost"]
    assert [cost["real"][key] for key in ("texts", "prompt_tokens", "generated_tokens")] == [
        texts[key] for key in ("generated", "prompt_tokens", "generated_tokens")
    ]
    assert cost["predicted"]["texts"] == pytest.approx(cost["real"]["texts"], rel=0.2)
    assert cost["real"]["gpu_hours"] == 0 and cost["real"]["money"] is None and "no price file" in cost["real"]["why"]
    assert texts["generated"] >= 40 and texts["generated"] == sum(body is not None for *_, body in server.asked)


@pytest.fixture
def without_ray(monkeypatch):
    """Whoever would start Ray fails."""

    def session(*_):
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(cluster, "session", session)


@pytest.mark.slow
def test_an_estimator_with_a_server_starts_no_ray(without_ray, tmp_path):
    tiny_backbone(tmp_path / "parts").save(str(tmp_path / "encoder"))
    texts = [f"the team and its coach won match {n}" for n in range(6)] + [f"the bank and the market lost profit {n}" for n in range(6)]
    with completions(lambda body: wrote(body, "The coach of the team was pleased with them.", finish="stop")) as server:
        augment = {"server": server.url, "cache": str(tmp_path / "cache")}
        trainer = SelfTrainer(
            language_model="writer", augment=augment, encoder=str(tmp_path / "encoder"), train="head", options={"rounds": 1, "steps_per_round": 2}
        )
        trainer.fit(texts, classes=["sport", "money"])
    assert sum(body is not None for *_, body in server.asked) >= 12
    assert set(trainer.predict(texts)) <= {"sport", "money"}


def test_a_data_set_is_written_by_a_server_without_ray(without_ray, tmp_path):
    number = count()
    with completions(
        lambda body: wrote(body, f'A fine film about number {next(number)}, and I liked it very much indeed."', finish="stop")
    ) as server:
        settings = [f"augment.server={server.url}", "augment.model=writer", f"augment.cache={tmp_path / 'cache'}"]
        made = generate(load(None, [*settings, 'data.classes=["good","bad"]']), tmp_path / "made", per_class=3)
    assert made.facts["generated"]["written"] == {"good": 3, "bad": 3}
