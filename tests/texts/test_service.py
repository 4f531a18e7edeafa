"""The text channel with an engine made of a dictionary: what is generated, cached, filtered and counted."""

import pytest

from selftrain.config import AugmentConfig
from selftrain.data.texts import TextRequest
from selftrain.texts.cache import TextCache
from selftrain.texts.engines.base import Generation
from selftrain.texts.prompts import Prompt, Sampling
from selftrain.texts.service import BLOCK, TextService


class Engine:
    """Writes a text of its own for every prompt; `die_after` stands for a kill."""

    starting = False

    def __init__(self, text="a new sentence about {n}.", die_after=None, failing=()):
        self.text, self.die_after, self.failing = text, die_after, failing
        self.generated = []
        self.notices = []

    def generate(self, prompts):
        for number, prompt in enumerate(prompts):
            if self.die_after is not None and number >= self.die_after:
                raise KeyboardInterrupt
            self.generated.append(prompt)
            yield Generation(prompt, self.text.format(n=number), 10, 6, "boom" if number in self.failing else "")

    def close(self):
        pass


def service(corpus, folder, engine, **config):
    return TextService(AugmentConfig(**config), corpus, "model-1", TextCache(folder), engine)


def wanted(corpus):
    return [TextRequest(id_, "input") for id_ in corpus.unlabeled.ids]


def test_a_second_run_generates_nothing(corpus, tmp_path):
    first, second = Engine(), Engine()
    one = service(corpus, tmp_path, first).usable_texts(wanted(corpus))
    again = service(corpus, tmp_path, second)
    assert again.usable_texts(wanted(corpus)) == one
    assert len(first.generated) == len(wanted(corpus))
    assert second.generated == []
    assert (again.counts.cached, again.counts.generated) == (len(wanted(corpus)), 0)


def test_a_killed_run_repeats_nothing_that_was_written(corpus, tmp_path):
    requests = [TextRequest(id_, "input", sample=sample) for id_ in corpus.unlabeled.ids for sample in range(4)]
    with pytest.raises(KeyboardInterrupt):
        service(corpus, tmp_path, Engine(die_after=BLOCK + 5)).usable_texts(requests)
    rest = Engine()
    assert len(service(corpus, tmp_path, rest).usable_texts(requests)) == len(requests)
    assert len(rest.generated) == len(requests) - BLOCK - 5


@pytest.mark.parametrize(("seconds", "files"), [(0.0, 4), (3600.0, 2)])
def test_a_fast_engine_costs_a_file_a_second_and_a_slow_one_a_file_for_each_block(corpus, tmp_path, monkeypatch, seconds, files):
    monkeypatch.setattr("selftrain.texts.service.BLOCK_SECONDS", seconds)
    documents = corpus.unlabeled.ids
    requests = [TextRequest(id_, "input", sample=sample) for id_ in documents for sample in range(4 * BLOCK // len(documents))]
    assert 3 * BLOCK < len(requests) <= 4 * BLOCK
    assert len(service(corpus, tmp_path, Engine()).usable_texts(requests)) == len(requests)
    assert len(list(tmp_path.glob("*.parquet"))) == files and len(TextCache(tmp_path)) == len(requests)


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"max_tokens": 16}, {"style": "instruct"}, {"document_words": 2}])
def test_whatever_changes_the_answer_generates_anew(corpus, tmp_path, change):
    service(corpus, tmp_path, Engine()).usable_texts(wanted(corpus))
    other = Engine()
    service(corpus, tmp_path, other, **change).usable_texts(wanted(corpus))
    assert len(other.generated) == len(wanted(corpus))


def test_another_model_generates_anew(corpus, tmp_path):
    service(corpus, tmp_path, Engine()).usable_texts(wanted(corpus))
    other = Engine()
    TextService(AugmentConfig(), corpus, "model-2", TextCache(tmp_path), other).usable_texts(wanted(corpus))
    assert len(other.generated) == len(wanted(corpus))


def test_filtered_texts_are_missing_and_counted_once(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine(text=" "))
    assert found.usable_texts(wanted(corpus)) == {}
    assert found.usable_texts(wanted(corpus)) == {}
    assert found.counts.to_json()["filtered"] == {"empty": len(wanted(corpus))}
    assert found.counts.requested == len(wanted(corpus))


def test_failed_rows_are_missing_counted_and_asked_for_again(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine(failing={0, 1}))
    assert len(found.usable_texts(wanted(corpus))) == len(wanted(corpus)) - 2
    assert found.counts.filtered["failed"] == 2
    again = Engine()
    service(corpus, tmp_path, again).usable_texts(wanted(corpus))
    assert len(again.generated) == 2


def test_classification_answers_are_class_names_and_not_filtered(corpus, tmp_path):
    engine = Engine(text=" sport")
    found = service(corpus, tmp_path, engine).usable_texts([TextRequest(corpus.unlabeled.ids[0], "classify")])
    assert list(found.values()) == ["sport"]
    assert engine.generated[0].sampling.choices == (" sport", " money")


def test_progress_is_idle_before_and_after(corpus, tmp_path):
    found = service(corpus, tmp_path, Engine())
    found.usable_texts(wanted(corpus))
    assert found.progress().total == 0


SAMPLING = Sampling(0.8, 6, 1, stop=("\n",))


def prompts(count, **changed):
    fields = {"document_id": "here", "kind": "label text", "label": "sport", "text": "Say it:", "sampling": SAMPLING}
    return [Prompt(**{**fields, **changed}, sample=sample) for sample in range(count)]


def test_completions_of_prompts_are_raw_cached_and_told_apart(corpus, tmp_path):
    engine = Engine(text=" ", failing={2})
    found = service(corpus, tmp_path, engine)
    answers = found.complete(prompts(3))
    assert [answer.text for answer in answers.values()] == [" ", " "]  # raw: the caller filters
    assert all(answer.cut_off and answer.document_id == "here" and answer.label == "sport" for answer in answers.values())
    assert engine.generated[0].sampling == SAMPLING
    assert (found.counts.requested, found.counts.filtered) == (3, {"failed": 1})
    again = Engine()
    later = service(corpus, tmp_path, again)
    assert later.complete(prompts(3)).keys() == set(prompts(3))
    assert len(again.generated) == 1 and later.counts.cached == 2  # the failed one alone
    assert later.cache.count("here") == 3
    changes = [{"document_id": "there"}, {"text": "Sing it:"}, {"sampling": Sampling(0.8, 5, 1, stop=("\n",))}, {"sampling": Sampling(0.8, 6, 1)}]
    for change in changes:
        later.complete(prompts(1, **change))
    assert len(again.generated) == 5


def test_a_text_that_ended_by_itself_is_not_cut_off(corpus, tmp_path):
    (answer,) = service(corpus, tmp_path, Engine()).complete(prompts(1, sampling=Sampling(0.8, 7))).values()
    assert not answer.cut_off
