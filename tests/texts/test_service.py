"""The text channel with an engine made of a dictionary: what is generated, cached, filtered and counted."""

import pytest

from selftrain.config import AugmentConfig
from selftrain.data.texts import TextRequest
from selftrain.texts.cache import TextCache
from selftrain.texts.service import BLOCK, EngineAnswer, PromptRequest, TextService


class Engine:
    """Writes a text of its own for every key; `die_after` stands for a kill."""

    def __init__(self, text="a new sentence about {n}.", die_after=None, failing=()):
        self.text, self.die_after, self.failing = text, die_after, failing
        self.generated = []

    def generate(self, requests):
        for number, request in enumerate(requests):
            if self.die_after is not None and number >= self.die_after:
                raise KeyboardInterrupt
            self.generated.append(request)
            yield EngineAnswer(request.key, self.text.format(n=number), 10, 6, "boom" if number in self.failing else "")

    def close(self):
        pass


def service(corpus, folder, engine, **config):
    return TextService(AugmentConfig(**config), corpus, "model-1", TextCache(folder), engine)


def wanted(corpus):
    return [TextRequest(id_, "input") for id_ in corpus.unlabeled.ids]


def test_a_second_run_generates_nothing(corpus, tmp_path):
    first, second = Engine(), Engine()
    one = service(corpus, tmp_path, first).answer(wanted(corpus))
    again = service(corpus, tmp_path, second)
    assert again.answer(wanted(corpus)) == one
    assert len(first.generated) == len(wanted(corpus))
    assert second.generated == []
    assert (again.counts.cached, again.counts.generated) == (len(wanted(corpus)), 0)


def test_a_killed_run_repeats_nothing_that_was_written(corpus, tmp_path):
    requests = [TextRequest(id_, "input", sample=sample) for id_ in corpus.unlabeled.ids for sample in range(4)]
    with pytest.raises(KeyboardInterrupt):
        service(corpus, tmp_path, Engine(die_after=BLOCK + 5)).answer(requests)
    rest = Engine()
    assert len(service(corpus, tmp_path, rest).answer(requests)) == len(requests)
    assert len(rest.generated) == len(requests) - BLOCK - 5


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_tokens": 16}, {"style": "instruct"}, {"document_words": 2}])
def test_whatever_changes_the_answer_generates_anew(corpus, tmp_path, change):
    service(corpus, tmp_path, Engine()).answer(wanted(corpus))
    other = Engine()
    service(corpus, tmp_path, other, **change).answer(wanted(corpus))
    assert len(other.generated) == len(wanted(corpus))


def test_another_model_generates_anew(corpus, tmp_path):
    service(corpus, tmp_path, Engine()).answer(wanted(corpus))
    other = Engine()
    TextService(AugmentConfig(), corpus, "model-2", TextCache(tmp_path), other).answer(wanted(corpus))
    assert len(other.generated) == len(wanted(corpus))


def test_filtered_texts_are_missing_and_counted_once(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine(text=" "))
    assert found.answer(wanted(corpus)) == {}
    assert found.answer(wanted(corpus)) == {}
    assert found.counts.to_json()["filtered"] == {"empty": len(wanted(corpus))}
    assert found.counts.requested == len(wanted(corpus))


def test_failed_rows_are_missing_counted_and_asked_for_again(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine(failing={0, 1}))
    assert len(found.answer(wanted(corpus))) == len(wanted(corpus)) - 2
    assert found.counts.filtered["failed"] == 2
    again = Engine()
    service(corpus, tmp_path, again).answer(wanted(corpus))
    assert len(again.generated) == 2


def test_classification_answers_are_class_names_and_not_filtered(corpus, tmp_path):
    engine = Engine(text=" sport")
    found = service(corpus, tmp_path, engine).answer([TextRequest(corpus.unlabeled.ids[0], "classify")])
    assert list(found.values()) == ["sport"]
    assert engine.generated[0].sampling["structured_outputs"] == {"choice": [" sport", " money"]}


def test_progress_is_idle_before_and_after(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine())
    found.answer(wanted(corpus))
    assert found.progress().wanted == 0


def prompts(count, **changed):
    fields = {"origin": "here", "kind": "label text", "label": "sport", "prompt": "Say it:", "min_tokens": 1, "max_tokens": 6, "stop": ("\n",)}
    return [PromptRequest(**{**fields, **changed}, sample=sample) for sample in range(count)]


def test_prompts_of_their_own_are_answered_raw_cached_and_told_apart(corpus, tmp_path):
    engine = Engine(text=" ", failing={2})
    found = service(corpus, tmp_path, engine)
    answers = found.complete(prompts(3))
    assert [answer.text for answer in answers.values()] == [" ", " "]  # raw: the caller filters
    assert all(answer.cut_off and answer.document_id == "here" and answer.label == "sport" for answer in answers.values())
    assert engine.generated[0].sampling == {"temperature": 0.8, "max_tokens": 6, "min_tokens": 1, "stop": ["\n"]}
    assert (found.counts.requested, found.counts.filtered) == (3, {"failed": 1})
    again = Engine()
    later = service(corpus, tmp_path, again)
    assert later.complete(prompts(3)).keys() == set(prompts(3))
    assert len(again.generated) == 1 and later.counts.cached == 2  # the failed one alone
    assert later.cache.count("here") == 3
    for change in ({"origin": "there"}, {"prompt": "Sing it:"}, {"max_tokens": 5}, {"stop": ()}):
        later.complete(prompts(1, **change))
    assert len(again.generated) == 5


def test_a_text_that_ended_by_itself_is_not_cut_off(corpus, tmp_path):
    (answer,) = service(corpus, tmp_path, Engine()).complete(prompts(1, max_tokens=7)).values()
    assert not answer.cut_off
