"""Several language models: who writes what, what each has cost, and what their votes come to. Engines are rules, or small HTTP servers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from completions import completions
from light_runs import described, furnish

from selftrain import generate
from selftrain.config import AugmentConfig, DataConfig, Experiment, load, parse
from selftrain.data.corpus import document_id
from selftrain.data.loading import load_corpus
from selftrain.data.texts import TextRequest
from selftrain.errors import ConfigError, ResourceError, ServiceError
from selftrain.evaluation.schema import LANGUAGE_MODEL_ROW
from selftrain.models.locate import contents_fingerprint, language_model_of
from selftrain.runs import run as story
from selftrain.runs.rows import teacher_rows
from selftrain.runtime import cluster
from selftrain.sweeps.plan import model_name
from selftrain.sweeps.space import text_settings
from selftrain.texts.cache import TextCache
from selftrain.texts.channel import open_texts
from selftrain.texts.engines import engine_needs, on_cluster, openai, resilient
from selftrain.texts.engines.base import Generation
from selftrain.texts.prompts import Prompt, Sampling
from selftrain.texts.service import TextService
from selftrain.texts.teachers import TeacherService, Turns, service_of


def teachers(*shares, **more):
    return AugmentConfig(teachers=[{"model": name, "share": share, **more} for name, share in zip("abc", shares, strict=False)])


class Engine:
    """Writes a sentence with its own name; `choose` is what it votes."""

    starting = False

    def __init__(self, name, choose=lambda text: "sport", fails=None):
        self.name, self.choose, self.fails = name, choose, fails
        self.generated, self.notices = [], []

    def generate(self, prompts):
        for prompt in prompts:
            if self.fails is not None:
                raise self.fails
            self.generated.append(prompt)
            said = f" {self.choose(prompt.text)}" if prompt.sampling.choices else f"The {self.name} wrote of number {len(self.generated)} today."
            yield Generation(prompt, said, 10, 6)

    def close(self):
        self.generated.append("closed")


def service(corpus, folder, config, engines):
    return service_of(config, corpus, [f"model-{engine.name}" for engine in engines], str(folder), engines)


def requests(corpus, samples, kind="input", label=-1):
    return [TextRequest(id_, kind, label, sample) for id_ in corpus.unlabeled.ids for sample in range(samples)]


def test_of_the_samples_about_a_document_each_teacher_writes_its_share():
    turns = Turns(teachers(1, 1).teachers)
    for number in range(50):
        assert {turns.teacher(TextRequest(f"d{number}", "input", sample=sample)) for sample in (0, 1)} == {"a", "b"}
    turns = Turns(teachers(2, 1, 1).teachers)
    for number in range(50):
        wrote = Counter(turns.teacher(TextRequest(f"d{number}", "conditional", 1, sample)) for sample in range(8))
        assert wrote == {"a": 4, "b": 2, "c": 2}


def test_of_all_texts_each_teacher_writes_its_share_whatever_is_asked_for_before():
    turns, again = Turns(teachers(0.7, 0.3).teachers), Turns(teachers(7, 3).teachers)
    asked = [TextRequest(f"d{number}", "input") for number in range(4000)]
    wrote = Counter(map(turns.teacher, asked))
    assert wrote["a"] / 4000 == pytest.approx(0.7, abs=0.025)
    assert [again.teacher(one) for one in reversed(asked)][::-1] == [turns.teacher(one) for one in asked]
    sampling = Sampling(0.8, 6)
    prompts = [Prompt("one prompt", "here", "label text", "sport", sample, sampling) for sample in range(3000)]
    assert Counter(map(turns.teacher, prompts))["a"] / 3000 == pytest.approx(0.7, abs=0.002)
    assert len({turns.teacher(Prompt(f"a prompt {n}", "here", "subject", "", 0, sampling)) for n in range(20)}) == 2  # about one origin, too


def test_texts_of_all_teachers_are_one_result_and_each_is_cached_as_that_models_own(corpus, tmp_path):
    engines = [Engine("a"), Engine("b")]
    found = service(corpus, tmp_path, teachers(1, 1), engines)
    assert isinstance(found, TeacherService)
    asked = requests(corpus, 2)
    texts = found(asked)
    assert list(texts) == asked and found([]) == {}
    wrote = Counter((request.document_id, text.split()[1]) for request, text in texts.items())
    assert set(wrote.values()) == {1} and len(wrote) == len(asked)  # of each document one by each
    alone = Engine("a")
    one = TextService(AugmentConfig(model="a"), corpus, "model-a", TextCache(tmp_path), alone)
    own = [request for request in asked if texts[request].split()[1] == "a"]
    assert one.usable_texts(own) == {request: texts[request] for request in own} and alone.generated == []
    later = [Engine("a"), Engine("b")]
    assert service(corpus, tmp_path, teachers(1, 1), later)(asked) == texts and [engine.generated for engine in later] == [[], []]


def test_counts_and_examples_say_whose_they_are(corpus, tmp_path):
    found = service(corpus, tmp_path, teachers(1, 1), [Engine("a"), Engine("b")])
    found(requests(corpus, 2))
    found(requests(corpus, 1, "conditional", 1))
    counts, examples, conditional = found.summary()
    said = counts.to_json()
    assert said["requested"] == said["generated"] == 3 * len(corpus.unlabeled) and said["prompt_tokens"] == 10 * said["generated"]
    assert said["seconds"] > 0 and said["teachers"].keys() == {"a", "b"}
    assert sum(one["requested"] for one in said["teachers"].values()) == said["requested"]
    assert [example["teacher"] for example in examples[:4]] == ["a", "b", "a", "b"]
    assert all(f"The {example['teacher']} wrote" in example["text"] for example in examples)
    assert len(conditional) == len(corpus.unlabeled) and {label for label, _ in conditional} == {1}
    assert {text.split()[1] for _, text in conditional[:2]} == {"a", "b"}  # the map shows the first of them
    found.close()
    assert [one.engine.generated[-1] for one in found._services.values()] == ["closed", "closed"]


def test_one_model_has_no_teachers(corpus, tmp_path):
    found = service(corpus, tmp_path, AugmentConfig(model="a"), [Engine("a")])
    assert type(found) is TextService
    found(requests(corpus, 1))
    assert "teachers" not in found.counts.to_json() and all("teacher" not in example for example in found.examples)


def test_a_teacher_that_fails_ends_the_work_and_what_the_others_wrote_is_cached(corpus, tmp_path):
    good = Engine("a")
    found = service(corpus, tmp_path, teachers(1, 1), [good, Engine("b", fails=ServiceError("no answer"))])
    with pytest.raises(ServiceError, match="no answer"):
        found(requests(corpus, 2))
    assert len(good.generated) == len(corpus.unlabeled) == len(TextCache(tmp_path))


def test_teachers_write_at_the_same_time(corpus, tmp_path):
    together = threading.Barrier(2, timeout=20)

    class Waiting(Engine):
        def generate(self, prompts):
            together.wait()  # breaks where one waits for the other to end
            yield from super().generate(prompts)

    assert len(service(corpus, tmp_path, teachers(1, 1), [Waiting("a"), Waiting("b")])(requests(corpus, 2))) == 2 * len(corpus.unlabeled)


def test_progress_is_that_of_all_teachers(corpus, tmp_path):
    states = []

    class Watched(Engine):
        def generate(self, prompts):
            for number, one in enumerate(super().generate(prompts)):
                if number == 2:
                    self.notices.append("its engine died")
                states.append(found.progress())
                yield one

    found = service(corpus, tmp_path, teachers(1, 1), [Watched("a"), Watched("b")])
    asked = requests(corpus, 2)
    found(asked)
    assert max(state.total for state in states) == len(asked)
    done = [state.done_so_far for state in states]
    assert max(done) >= len(asked) - 2 and {state.done_so_far - state.done for state in states} == {0}
    after = found.progress()
    assert (after.total, after.done_so_far, sorted(after.notices)) == (0, len(asked), ["a: its engine died", "b: its engine died"])
    found(requests(corpus, 1, "conditional", 0))
    assert {state.done_so_far - state.done for state in states[len(asked) :]} == {len(asked)}
    assert found.progress().notices[:2] == after.notices  # what was said keeps its place


def test_every_teacher_votes_on_every_document_once(corpus, tmp_path):
    engines = [Engine("a", lambda text: "money"), Engine("b", lambda text: "sport" if "match" in text else "weather")]
    found = service(corpus, tmp_path, teachers(1, 1), engines)
    documents = {"one": "the match was won", "two": "the bank was not"}
    votes = found.votes(documents)
    assert votes == {"a": {"one": "money", "two": "money"}, "b": {"one": "sport"}}  # weather is no class
    assert engines[0].generated[0].sampling.choices == (" sport", " money") and engines[0].generated[0].sampling.temperature == 0
    assert found.votes(documents) == votes and [len(engine.generated) for engine in engines] == [2, 2]
    seeded = service(corpus, tmp_path, teachers(1, 1).model_copy(update={"engine_seed": 7}), engines)
    assert seeded.votes(documents) == votes and [len(engine.generated) for engine in engines] == [2, 2]  # nothing is drawn
    single = service(corpus, tmp_path, AugmentConfig(model="a"), engines[:1])
    assert single.votes(documents) == {"a": votes["a"]}


def context(corpus, documents, labels, asked=9):
    experiment = parse({"augment": {"teachers": [{"model": "a"}, {"model": "b"}, {"model": "c"}]}, "evaluation": {"llm_documents": asked}})
    plan = SimpleNamespace(experiment=experiment)
    return SimpleNamespace(plan=plan, corpus=corpus, documents=documents, labels=labels, stages=lambda name: nullcontext())


def test_the_row_of_several_teachers_is_what_their_weighed_votes_come_to(corpus, tmp_path):
    """Twelve texts of sport, then twelve of money: `a` and `b` are right, but for a document of each; `c` says sport always."""
    documents = corpus.unlabeled
    place = {text: number for number, text in enumerate(documents.contents)}

    def choose(wrong):
        def of(text):
            number = place[text.split("\n")[0]]
            right = number < 12
            return "sport" if right != (number == wrong) else "money"

        return of

    engines = [Engine("a", choose(3)), Engine("b", choose(17)), Engine("c")]
    config = teachers(1, 1, 1)
    labels = np.array([0] * 12 + [1] * 12)
    rows = teacher_rows(context(corpus, documents, labels, 24), service(corpus, tmp_path, config, engines))
    assert [row["variant"] for row in rows] == [LANGUAGE_MODEL_ROW, *(f"{LANGUAGE_MODEL_ROW}: {name}" for name in "abc")]
    assert [row["scores"]["accuracy"] for row in rows] == pytest.approx([1.0 - 1 / 24, 23 / 24, 23 / 24, 0.5], abs=0.05)
    assert rows[0]["scores"]["accuracy"] >= rows[1]["scores"]["accuracy"]
    reliability = [row["reliability"] for row in rows[1:]]
    assert min(reliability[:2]) > 0.85 and reliability[2] < 0.7 and "reliability" not in rows[0]
    assert all(row["bound"] and row["failed"] == 0 and row["documents"] == 24 for row in rows)
    few = teacher_rows(context(corpus, documents, None, 3), service(corpus, tmp_path, config, engines))
    assert {row["documents"] for row in few} == {3} and few[0]["scores"] is None


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"model": "m", "teachers": [{"model": "a"}, {"model": "b"}]}, r"augment\.model and augment\.teachers cannot both be set"),
        ({"server": "http://s/v1", "teachers": [{"model": "a"}, {"model": "b"}]}, r"augment\.server and augment\.teachers cannot both be set"),
        ({"teachers": [{"model": "a"}]}, "must be at least two"),
        ({"teachers": [{"model": "a"}, {"model": "a", "server": "http://s/v1"}]}, "two are called 'a'; set their name"),
        ({"teachers": [{"model": "a"}, {"model": "b", "shar": 2}]}, r"Unknown key 'augment\.teachers\.1\.shar' in .*did you mean 'share'"),
        ({"teachers": [{"model": "a"}, {"model": "b", "share": 0}]}, r"augment\.teachers\.1\.share .*greater than 0 \(got 0\)"),
        ({"teachers": [{"model": "a"}, {"server": "http://s/v1"}]}, r"augment\.teachers\.1\.model .*field required"),
        ({"teachers": [{"model": "a"}, {"model": "b", "server": "http://me:secret@s/v1"}]}, r"augment\.teachers\.1\.server holds a password"),
        ({"teachers": [{"model": "a", "server": f"http://{n}/v1", "name": n} for n in "xy"]}, "must be different models, and two are 'a'"),
        ({"key_variable": "my key"}, r"augment\.key_variable"),
    ],
)
def test_teachers_that_cannot_be(augment, message):
    with pytest.raises(ConfigError, match=message):
        parse({"augment": augment})


def test_a_section_a_language_model():
    config = AugmentConfig(
        temperature=0.3,
        replicas=2,
        teachers=[{"model": "a"}, {"model": "b", "name": "bee", "server": "http://s/v1", "key_variable": "B", "prompt_price": 2, "share": 3}],
    )
    first, second = config.language_models
    assert (first.model, first.server, first.temperature, first.teachers) == ("a", None, 0.3, ())
    assert (second.model, second.server, second.key_variable, second.prompt_price) == ("b", "http://s/v1", "B", 2)
    assert (config.writes, config.name, config.engines, on_cluster(config)) == (True, "a + bee", 2, True)
    assert config.model_copy(update={"most_replicas": 5}).engines_at_most == 5  # the server's are not ours
    assert second.engines_at_most == 0
    assert [one.engines for one in (first, second)] == [2, 0] and AugmentConfig(model="m").language_models == (AugmentConfig(model="m"),)
    found = engine_needs(config.model_copy(update={"gpus": 0}), ("a", "served:b"))
    assert found == engine_needs(first.model_copy(update={"gpus": 0}), "a") and found.cpus == 2
    assert model_name(config) == "a + b of http://s/v1"
    assert "teachers" in text_settings(Experiment(augment=config)) and "teachers" not in text_settings(Experiment())
    assert text_settings(Experiment(augment=AugmentConfig(most_replicas=4))) == text_settings(Experiment())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(resilient, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(openai, "BACKOFF_SECONDS", 0.01)

    def session(*_):
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(cluster, "session", session)


def written(body, text, used=(3, 4)):
    said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}
    return {"id": "1", "created": 1, "model": "m", "object": "answer", "choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage}


def chosen(body):
    """The class that a good teacher chooses where it has a choice, else None."""
    if "response_format" not in body:
        return None
    text = body["messages"][0]["content"].split("\n\n", 1)[1]
    good = any(word in text for word in ("fine", "team", "coach"))
    first, second = body["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"]
    return json.dumps({"choice": first if good else second})


def server(stack, name, text, votes=chosen):
    reply = lambda body: written(body, votes(body) or text(body))  # noqa: E731
    return stack.enter_context(completions(reply, models=(name,)))


def asked_of(server):
    return [({name.lower(): value for name, value in headers.items()}, body) for _, headers, body in server.asked if body is not None]


def test_servers_have_their_own_keys_and_spend_from_one_purse(corpus, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_A", "open")
    monkeypatch.setenv("KEY_OF_B", "sesame")
    with ExitStack() as stack:
        servers = [server(stack, name, lambda body: "The coach of the team was pleased with them.") for name in "ab"]
        prices = [(1_000_000, 0), (0, 2_000_000)]  # a request is booked at its bytes, or at twice its tokens, and charged at 3, or 8
        section = {
            "teachers": [
                {"model": name, "server": one.url, "key_variable": f"KEY_OF_{name.upper()}", "prompt_price": price[0], "generated_price": price[1]}
                for name, one, price in zip("ab", servers, prices, strict=True)
            ],
            "cache": str(tmp_path / "cache"),
            "max_cost": 400,
            "concurrent_requests": 4,
        }
        config = AugmentConfig(**section)
        model = language_model_of(config)
        assert model == ("served:a", "served:b") and contents_fingerprint(model) == "served:a + served:b"
        with open_texts(config, corpus, model, progress=False) as texts, pytest.raises(ResourceError, match="max_cost"):
            texts([TextRequest(id_, "input", sample=sample) for id_ in corpus.unlabeled.ids for sample in range(20)])
        keys = [{headers["authorization"] for headers, _ in asked_of(one)} for one in servers]
        assert keys == [{"Bearer open"}, {"Bearer sesame"}]
        counts = [len(asked_of(one)) for one in servers]
        assert min(counts) > 5 and 3 * counts[0] + 8 * counts[1] <= 400  # one alone would stay below its half


def test_a_data_set_of_several_teachers_says_who_wrote_what_and_has_weighed_labels(quick, tmp_path):
    """Two good teachers, and one that writes the opposite of what it is asked for: its texts are relabeled, and no vote is asked for twice."""
    numbers = {"a": iter(range(1000)), "b": iter(range(1000)), "c": iter(range(1000))}

    def text(name, body):
        good = "about good" in body["messages"][0]["content"]
        word = "fine" if good != (name == "c") else "dull"
        return f"A {word} film by {name}, number {next(numbers[name])}, and everyone who saw it said so."

    with ExitStack() as stack:
        servers = {name: server(stack, name, lambda body, name=name: text(name, body)) for name in "abc"}
        listed = [{"model": name, "server": servers[name].url} for name in "abc"]
        settings = [f"augment.teachers={json.dumps(listed)}", "augment.style=instruct", f"augment.cache={tmp_path / 'cache'}"]
        experiment = load(None, [*settings, 'data.classes=["good","bad"]'])
        made = generate(experiment, tmp_path / "made", per_class=9)
        before = {name: len(asked_of(one)) for name, one in servers.items()}
        assert generate(experiment, tmp_path / "made", per_class=9).found
        generate(experiment, tmp_path / "again", per_class=9)
        assert {name: len(asked_of(one)) for name, one in servers.items()} == before
        with pytest.raises(Exception, match="with other teachers"):
            generate(load(None, [settings[0].replace('"model": "a"', '"share": 2, "model": "a"'), *settings[1:], 'data.classes=["good","bad"]']),
                     tmp_path / "made", per_class=9)  # fmt: skip
    rows = pq.read_table(tmp_path / "made" / "train.parquet").to_pylist()
    assert list(rows[0]) == ["text", "label", "written_for", "teacher", "agreement"] and len(rows) == 18
    assert Counter(row["teacher"] for row in rows) == {"a": 6, "b": 6, "c": 6}
    assert all(f"by {row['teacher']}," in row["text"] for row in rows)
    assert all(row["label"] == ("dull" in row["text"]) for row in rows)  # 0 is good
    assert all((row["label"] != row["written_for"]) == (row["teacher"] == "c") for row in rows) and all(0.5 < row["agreement"] <= 1 for row in rows)
    facts = made.facts["generated"]["teachers"]
    assert facts["wrote"] == {"a": 6, "b": 6, "c": 6} and facts["relabeled"] == {"a": 0, "b": 0, "c": 6}
    assert facts["weighed"] == {"good": 9, "bad": 9} and facts["reliability"]["written for"] < 0.8 < min(facts["reliability"][name] for name in "abc")
    assert "votes" in made.facts["notes"] and made.facts["generated"]["written"] == {"good": 9, "bad": 9}
    corpus, _ = load_corpus(DataConfig(source=str(tmp_path / "made"), supervision="all", min_documents=10))
    assert len(corpus.unlabeled) == 18 and document_id(rows[0]["text"]) in corpus.unlabeled.ids


@pytest.mark.slow
def test_a_run_with_several_teachers(quick, tmp_path):
    """Through the whole run: shares, rows, report, and the bundle's card."""
    home = furnish(tmp_path)
    with ExitStack() as stack:
        servers = [server(stack, name, lambda body: "The coach of the team was pleased with them.") for name in ("one", "two")]
        listed = [{"model": name, "server": one.url} for name, one in zip(("one", "two"), servers, strict=True)]
        augment = {"teachers": listed, "style": "instruct", "cache": str(tmp_path / "cache"), "input_samples": 2}
        changes = {"method": {"name": "genco", "rounds": 1, "steps_per_round": 2}, "augment": augment}
        changes |= {"evaluation": {"map": "none", "llm_documents": 6}}
        document = described(home, "head").model_dump(mode="json")
        document["data"] |= {"supervision": "none"}
        found = story.run(parse(document | changes))
        counts = [len(asked_of(one)) for one in servers]
    metrics = json.loads((found.folder / "metrics.json").read_text())
    assert metrics["asked"]["llm"] == "one + two" and metrics["asked"]["llm_fingerprint"] == "served:one + served:two"
    assert metrics["texts"]["requested"] == sum(counts) and [metrics["texts"]["teachers"][name]["requested"] for name in ("one", "two")] == counts
    assert abs(counts[0] - counts[1]) < 0.3 * sum(counts)
    rows = {row["variant"]: row for row in metrics["rows"]}
    assert {LANGUAGE_MODEL_ROW, f"{LANGUAGE_MODEL_ROW}: one", f"{LANGUAGE_MODEL_ROW}: two"} < rows.keys()
    assert rows[LANGUAGE_MODEL_ROW]["scores"]["accuracy"] == 1.0
    page = (found.folder / "report.html").read_text()
    assert "by one" in page and "requested of two" in page
    assert "teachers weighed" in (found.folder / "events.jsonl").read_text()
    assert json.loads((found.bundle / "selftrain.json").read_text())["llm"] == "one + two"
