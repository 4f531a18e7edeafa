"""What the language model is asked for a text of a class without any document, and which completions are used.

ZeroGen (Ye et al. 2022, "ZeroGen: Efficient Zero-shot Learning via Dataset Generation", arXiv:2202.07922) has two stages: the first writes subjects (film
titles, the same ones for all classes), the second a text about one of them for a class. A template without a first stage asks for the text at once.
As in texts/prompts.py there are two styles; a prompt for base models ends in an open quotation mark, and the text ends where the quotation does.
Films are ZeroGen's prompts; restaurants, products and news are those of SunGen (Gao et al. 2023, "Self-Guided Noise-Free Data Generation for Efficient
Zero-Shot Learning", arXiv:2205.12679, table 10), word for word but for "news articles is".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selftrain.data.corpus import Label
from selftrain.data.words import word_count
from selftrain.errors import ConfigError, nearest
from selftrain.texts.filter import FilteredText, filter_completion, sentence_ends
from selftrain.texts.prompts import Style


@dataclass(frozen=True)
class LabelTemplate:
    """Prompts by style. Fields: {name} and {description} of the class, and in `text` {subject} where there is a first stage."""

    text: dict[Style, str]
    subject: dict[Style, str] | None = None


def _review(thing: str, first: str, text: str) -> LabelTemplate:
    return LabelTemplate(
        {
            "continue": text,
            "instruct": f'Write a {{name}} review of the {thing} "{{subject}}" in one or two sentences. Answer with the review alone.',
        },
        {"continue": f'{first}: "', "instruct": f"Name one {thing}. Answer with the name alone."},
    )


TEMPLATES: dict[str, LabelTemplate] = {
    "review": _review("film", "Movie", 'The movie review in {name} sentiment for movie "{subject}" is: "'),
    "restaurant": _review("restaurant", "Restaurant", 'The "{subject}" restaurant review in {name} sentiment is: "'),
    "product": _review("product", "Product", 'The "{subject}" product review in {name} sentiment is: "'),
    "news": LabelTemplate(
        {
            "continue": 'The news article is in the category of {name}: "',
            "instruct": "Write the first two sentences of a news article about {description}. Answer with the sentences alone.",
        }
    ),
    "text": LabelTemplate(
        {
            "continue": 'A text about {description}: "',
            "instruct": "Write two sentences about {description}. Answer with the sentences alone.",
        }
    ),
    "subject": LabelTemplate(
        {
            "continue": 'A text about {description}, on the subject of {subject}: "',
            "instruct": "Write two sentences about {subject}, a subject of {description}. Answer with the sentences alone.",
        },
        {
            "continue": 'A subject that has to do with {description}: "',
            "instruct": "Name one subject that has to do with {description}, in a few words. Answer with the subject alone.",
        },
    ),
}

# The template that fits the classes of a named set; every other set gets `text`.
TEMPLATE_OF = {
    "imdb": "review",
    "sst2": "review",
    "rotten_tomatoes": "review",
    "yelp_polarity": "restaurant",
    "amazon_polarity": "product",
    "ag_news": "news",
    "bbc_news": "news",
}


SUBJECT = "{subject}"


@dataclass(frozen=True)
class LabelPrompts:
    """A template filled for classes, in class order."""

    texts: tuple[str, ...]  # with a first stage they still hold `SUBJECT`
    subjects: tuple[str, ...] | None  # of the first stage; where all classes have the same prompt, they share their subjects


def label_prompts(template: str, labels: Sequence[Label], *, style: Style) -> LabelPrompts:
    """Fill `template` for every class.

    Args:
        template: a key of `TEMPLATES`.
        labels: the classes in index order.
        style: of the language model.

    Raises:
        ConfigError: no such template.
    """
    if template not in TEMPLATES:
        raise ConfigError(f"template {template!r} does not exist; {nearest(template, TEMPLATES)}", parameter="template")
    chosen = TEMPLATES[template]

    def filled(pattern: str) -> tuple[str, ...]:
        return tuple(pattern.format(name=label.name, description=label.description, subject=SUBJECT) for label in labels)

    return LabelPrompts(filled(chosen.text[style]), filled(chosen.subject[style]) if chosen.subject is not None else None)


# Where a completion of a base model ends. The engine stops there from `min_tokens` on; at an earlier mark `_quoted` cuts, as ZeroGen does.
STOP: dict[Style, tuple[str, ...]] = {"continue": ('"', "\n"), "instruct": ()}
_SUBJECT_WORDS = 10
_MARKUP = re.compile(r"</?[A-Za-z_]{1,30} ?/?>")  # <br />, and tokens of the model that are no text, such as <start_of_image>


def clean_subject(raw: str, *, style: Style, cut_off: bool) -> FilteredText:
    """A subject, or why it is not used: empty (no letter in it), truncated (the token limit cut it off), over-long (a name has at most ten words).

    Args:
        raw: the completion as the engine returned it.
        style: of the language model.
        cut_off: the token limit ended it.
    """
    found, ended = _quoted(raw, style=style, cut_off=cut_off)
    found = found.strip(" .,;:*'")
    if not any(character.isalpha() for character in found):
        return FilteredText("", "empty")
    if not ended:
        return FilteredText(found, "truncated")
    return FilteredText(found, "over-long" if word_count(found, _SUBJECT_WORDS + 1) > _SUBJECT_WORDS else "")


def clean_text(raw: str, prompt: str, *, style: Style, cut_off: bool) -> FilteredText:
    """The text for a class, shortened to whole sentences where the token limit cut it off, or why it is not used.

    Reasons: those of `filter.clean`, with the prompt as the document for `echo`; `truncated` also where no sentence is whole (ZeroGen drops these too).

    Args:
        raw: the completion as the engine returned it.
        prompt: that it completes.
        style: of the language model.
        cut_off: the token limit ended it.
    """
    found, ended = _quoted(raw, style=style, cut_off=cut_off)
    found = " ".join(found.split())
    if not ended and found:
        ends = sentence_ends(found)
        if not ends:
            return FilteredText(found, "truncated")
        found = found[: ends[-1]]
    cleaned = filter_completion(found, prompt, cut_off=False)
    if not cleaned.reason and cleaned.text.casefold() in prompt.casefold():  # shorter than the word 5-grams of `clean`
        return FilteredText(cleaned.text, "echo")
    return cleaned


def _quoted(raw: str, *, style: Style, cut_off: bool) -> tuple[str, bool]:
    """(the completion without markup up to the end of the quotation, whether the model ended it)."""
    text = _MARKUP.sub(" ", raw).replace("”", '"').replace("“", '"').strip()
    if style == "instruct":
        return text.strip('"'), not cut_off
    ends = [place for mark in STOP[style] if (place := text.find(mark)) >= 0]
    return (text[: min(ends)], True) if ends else (text, not cut_off)
