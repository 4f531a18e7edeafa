"""Prompts for texts out of nothing, and what is made of the answers."""

import pytest

from selftrain.data.catalogue import CATALOGUE
from selftrain.data.corpus import Label
from selftrain.errors import SelfTrainError
from selftrain.texts.dataset.prompts import SUBJECT, TEMPLATE_OF, TEMPLATES, clean_subject, clean_text, label_prompts

SENTIMENT = (Label("negative", "bad", "a negative opinion"), Label("positive", "good", "a positive opinion"))
PROMPT = 'The movie review in positive sentiment for movie "The Third Man" is: "'


def test_zerogen_s_prompts_for_films():
    prompts = label_prompts("review", SENTIMENT, style="continue")
    assert prompts.subjects == ('Movie: "', 'Movie: "')
    assert prompts.texts[1].replace(SUBJECT, "The Third Man") == PROMPT
    assert "negative sentiment" in prompts.texts[0]


@pytest.mark.parametrize("style", ["continue", "instruct"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_tells_the_classes_apart_and_asks_for_a_subject_only_with_a_first_stage(template, style):
    prompts = label_prompts(template, SENTIMENT, style=style)
    assert len(set(prompts.texts)) == 2
    assert all((SUBJECT in text) == (prompts.subjects is not None) for text in prompts.texts)
    assert all(text.endswith('"') == (style == "continue") for text in (*prompts.texts, *(prompts.subjects or ())))


def test_a_class_name_with_braces_is_text():
    prompts = label_prompts("text", (Label("a", "a", "sets {x}"), Label("b", "b", "tuples")), style="continue")
    assert prompts.texts[0] == 'A text about sets {x}: "'


def test_named_sets_and_their_templates_exist():
    assert set(TEMPLATE_OF) <= set(CATALOGUE)
    assert set(TEMPLATE_OF.values()) <= set(TEMPLATES)
    with pytest.raises(SelfTrainError, match="template 'revew' does not exist; did you mean 'review'"):
        label_prompts("revew", SENTIMENT, style="continue")


@pytest.mark.parametrize(
    ("raw", "cut_off", "text", "reason"),
    [
        ('A film to remember." The end', False, "A film to remember.", ""),
        ("A film to\tremember.\nMore of it", False, "A film to remember.", ""),  # a new line ends it too
        ("<start_of_image> A film <br />to remember, 1 < 2 > 0.", False, "A film to remember, 1 < 2 > 0.", ""),
        ("A film to remember, I say", False, "A film to remember, I say", ""),  # the engine stopped at the mark and left it out
        ("It is long. And it never comes to", True, "It is long.", ""),
        ("It never comes to an end", True, "It never comes to an end", "truncated"),
        ('" is what they said', False, "", "empty"),
        ("  \n ", False, "", "empty"),
        ("so bad " * 10, False, ("so bad " * 10).strip(), "repeated"),
        ("The movie review in positive sentiment for movie The", False, "The movie review in positive sentiment for movie The", "echo"),
        ("The Third Man", False, "The Third Man", "echo"),
    ],
)
def test_texts_of_a_base_model(raw, cut_off, text, reason):
    found = clean_text(raw, PROMPT, style="continue", cut_off=cut_off)
    assert (found.text, found.reason) == (text, reason)


def test_an_instruct_model_answers_in_paragraphs_and_quotation_marks():
    found = clean_text('“Loved it.\n\nThe "best" of the year.”', "Write a review.", style="instruct", cut_off=False)
    assert (found.text, found.reason) == ('Loved it. The "best" of the year.', "")


@pytest.mark.parametrize(
    ("raw", "cut_off", "text", "reason"),
    [
        ('The Third Man" (1949)', True, "The Third Man", ""),
        ("The Third Man", True, "The Third Man", "truncated"),
        ("12.", False, "", "empty"),
        ("one two three four five six seven eight nine ten eleven", False, "one two three four five six seven eight nine ten eleven", "over-long"),
    ],
)
def test_subjects(raw, cut_off, text, reason):
    found = clean_subject(raw, style="continue", cut_off=cut_off)
    assert (found.text, found.reason) == (text, reason)
