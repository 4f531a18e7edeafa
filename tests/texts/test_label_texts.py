"""Texts for classes, with a dictionary or a rule in the language model's place."""

import hashlib
from collections import Counter

import pytest

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Label
from selftrain.errors import SelfTrainError
from selftrain.texts.cache import Completion, TextCache
from selftrain.texts.dataset.prompts import label_prompts
from selftrain.texts.dataset.writing import SUBJECT_TRIES, TRIES, write_texts
from selftrain.texts.engines.base import Generation
from selftrain.texts.service import TextService

LABELS = (Label("negative", "bad", "a negative opinion"), Label("positive", "good", "a positive opinion"))
NAMES = ("negative", "positive")


class Model:
    """Answers a request by a rule; remembers what it was asked, round by round."""

    def __init__(self, rule):
        self.rule, self.rounds = rule, []

    def __call__(self, requests):
        self.rounds.append(list(requests))
        return {
            r: Completion("", r.document_id, r.kind, r.label, r.sample, text, False, 1, 1) for r in requests if (text := self.rule(r)) is not None
        }


def story(request):
    if request.kind == "subject":
        return f"Film {'abc'[request.sample % 3]}"
    return f"A {request.label} word on {request.text.split(chr(34))[1]} by critic {request.sample}."


def written(model, per_class=4, template="review", labels=LABELS, **config):
    names = tuple(label.name for label in labels)
    prompts = label_prompts(template, labels, style="continue")
    return write_texts(names, prompts, model, AugmentConfig(**config), per_class=per_class, origin="test")


def test_two_stages_and_every_class_gets_its_texts():
    model = Model(story)
    found = written(model)
    (subjects,) = found.subjects
    assert subjects.texts == ["Film a", "Film b", "Film c"]
    assert subjects.tries == SUBJECT_TRIES * 4 and subjects.filtered == {"duplicate": 5}
    assert found.classes[0].texts == [
        "A negative word on Film a by critic 0.",
        "A negative word on Film b by critic 0.",
        "A negative word on Film c by critic 0.",
        "A negative word on Film a by critic 1.",
    ]
    assert [len(got.texts) for got in found.classes] == [4, 4]
    texts = [request for request in model.rounds[-1] if request.kind == "label text"]
    assert Counter(request.label for request in texts) == {"negative": 4, "positive": 4}
    assert all(request.sampling.stop == ('"', "\n") for request in texts)


def test_one_stage_asks_for_samples_of_one_prompt():
    model = Model(lambda request: f"A {request.label} text of number {request.sample}.")
    found = written(model, template="text")
    assert found.subjects == () and len(model.rounds) == 1
    assert [request.sample for request in model.rounds[0] if request.label == "positive"] == [0, 1, 2, 3]
    assert {request.text for request in model.rounds[0]} == {'A text about a negative opinion: "', 'A text about a positive opinion: "'}


def test_subjects_of_a_class_of_its_own():
    """The prompts of the first stage name the class, so each class has a series of subjects."""

    def rule(request):
        if request.kind == "subject":
            return f"{'Bad' if 'negative' in request.text else 'Good'} thing {request.sample}"
        return "It was said of " + request.text.split("subject of ")[1].rstrip('": ') + " before."

    found = written(Model(rule), template="subject", per_class=2)
    assert [got.texts for got in found.subjects] == [["Bad thing 0", "Bad thing 1"], ["Good thing 0", "Good thing 1"]]
    assert found.classes[1].texts == ["It was said of Good thing 0 before.", "It was said of Good thing 1 before."]


def test_filtered_texts_are_counted_and_replaced():
    bad = {0: "", 1: "bad " * 12, 2: "So so so.", 3: "SO SO SO.", 4: None, 5: "Fine, in a way."}
    found = written(Model(lambda r: bad.get(r.sample, story(r)) if r.label == "positive" else story(r)), per_class=6, template="text")
    positive = found.classes[1]
    assert len(positive.texts) == 6
    assert positive.filtered == {"empty": 1, "repeated": 1, "duplicate": 1, "failed": 1}
    assert positive.texts[:2] == ["So so so.", "Fine, in a way."]
    assert found.classes[0].tries == 6 and found.classes[0].filtered == {}


def test_a_text_for_two_classes_counts_once():
    found = written(Model(lambda r: "It is a film." if r.sample == 0 else story(r)), template="text")
    assert ["It is a film." in got.texts for got in found.classes] == [True, False]
    assert found.classes[1].filtered == {"duplicate": 1}


def test_the_tries_have_a_bound():
    model = Model(lambda r: story(r) if r.sample < 2 or r.label == "negative" else "")
    found = written(model, per_class=4, template="text")
    assert [len(got.texts) for got in found.classes] == [4, 2]
    assert found.classes[1].tries == TRIES * 4 == sum(request.label == "positive" for asked in model.rounds for request in asked)
    assert sum(found.classes[1].filtered.values()) == TRIES * 4 - 2


def test_no_request_is_made_twice_and_a_second_pass_is_the_same():
    def rule(request):
        return "" if request.sample % 2 else story(request)

    first, second = Model(rule), Model(rule)
    assert written(first, per_class=9) == written(second, per_class=9)
    asked = [request for round_ in first.rounds for request in round_]
    assert len(set(asked)) == len(asked) and first.rounds == second.rounds


@pytest.mark.parametrize(
    ("rule", "template", "message"),
    [
        (lambda r: "..." if r.kind == "subject" else story(r), "review", r"no usable subject for 'Movie: \"' in 8 tries \(8 empty\)"),
        (lambda r: "" if r.label == "positive" else story(r), "text", r"no usable text for the class 'positive' in 20 tries \(20 empty\)"),
    ],
)
def test_a_class_without_texts_is_an_error(rule, template, message):
    with pytest.raises(SelfTrainError, match=message):
        written(Model(rule), template=template)


class Engine:
    """The service's engine: a text of its own for every prompt; `die_after` stands for a kill."""

    starting = False

    def __init__(self, die_after=None):
        self.die_after, self.generated, self.notices = die_after, [], []

    def generate(self, prompts):
        for prompt in prompts:
            if len(self.generated) == self.die_after:
                raise KeyboardInterrupt
            name = hashlib.sha256(f"{prompt.text}{prompt.sample}".encode()).hexdigest()[:32]
            self.generated.append(name)
            yield Generation(prompt, f"Film {name}" if prompt.kind == "subject" else f"All that is said of it is {name}.", 5, 5)

    def close(self):
        pass


def test_a_killed_generation_repeats_nothing(corpus, tmp_path):
    def through(engine):
        return TextService(AugmentConfig(), corpus, "model", TextCache(tmp_path), engine).complete

    killed, rest, none = Engine(die_after=23), Engine(), Engine()
    with pytest.raises(KeyboardInterrupt):
        written(through(killed), per_class=10)
    found = written(through(rest), per_class=10)
    assert [len(got.texts) for got in found.classes] == [10, 10]
    assert len(killed.generated) + len(rest.generated) == len({*killed.generated, *rest.generated}) == 30
    assert written(through(none), per_class=10) == found and none.generated == []
