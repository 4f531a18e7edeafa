"""What the language model is asked, and which of its answers are used.

Two styles: `continue` for base models, which go on writing where the prompt ends, and `instruct` for chat models, in the wording of GenCo's table 4. The
prompt's text is part of the cache key, so an edited template generates anew and an old one stays valid.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selftrain.data.corpus import Label
from selftrain.data.texts import TextRequest

Style = Literal["continue", "instruct"]

TEMPLATES: dict[tuple[str, str], str] = {
    ("continue", "input"): "{document}",
    ("continue", "conditional"): "{document}\n\nIn terms of {description},",
    ("continue", "classify"): "{document}\n\nThe category of this text, one of {categories}, is",
    ("instruct", "input"): "Elaborate the text in a few sentences.\n\n{document}",
    ("instruct", "conditional"): "Discuss the {description} aspects of the article.\n\n{document}",
    ("instruct", "classify"): "Classify the text by outputting a single category from {categories}.\n\n{document}",
}


@dataclass(frozen=True)
class Prompt:
    """What goes to the engine for one request."""

    text: str
    choices: tuple[str, ...] = ()  # the answer must be one of these; empty: free text


def prompt_for(request: TextRequest, document: str, labels: Sequence[Label], *, style: Style, words: int) -> Prompt:
    """Fill the template of (style, kind).

    Args:
        request: which kind, and for `conditional` which class.
        document: the whole document; its first `words` words are shown, and no single word of more than 40 characters (they are no prose, and an
            over-long prompt fails in the engine).
        labels: the classes in index order.
        style: of the language model.
        words: words of the document that are shown.
    """
    shown = " ".join(word[:40] for word in document.split()[:words])
    fields = {"document": shown, "description": "", "categories": ", ".join(label.name for label in labels)}
    if request.kind == "conditional":
        fields["description"] = labels[request.label].description
    text = TEMPLATES[style, request.kind].format(**fields)
    lead = " " if style == "continue" else ""
    choices = tuple(f"{lead}{label.name}" for label in labels) if request.kind == "classify" else ()
    return Prompt(text, choices)


@dataclass(frozen=True)
class Cleaned:
    """An answer after the filter: `text` to use, or the reason why it is not used."""

    text: str
    reason: str = ""  # "" | failed | empty | truncated | repeated | echo


def clean(raw: str, document: str, *, cut_off: bool) -> Cleaned:
    """Keep an answer, shortened to whole sentences, or say why not.

    empty: fewer than three words; truncated: cut off by the token limit before three whole words were written; repeated: more than half of its word
    triples occur before in it; echo: more than half of its word 5-grams stand in the document.
    """
    text = " ".join(raw.replace("�", " ").split())
    if len(text.split()) < 3:
        return Cleaned("", "truncated" if cut_off and text else "empty")
    if cut_off:
        text = _whole(text)
        if len(text.split()) < 3:
            return Cleaned("", "truncated")
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(triples) >= 4 and len(set(triples)) < 0.5 * len(triples):
        return Cleaned(text, "repeated")
    source = re.findall(r"\w+", document.lower())
    known = {tuple(source[i : i + 5]) for i in range(len(source) - 4)}
    grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    if grams and sum(gram in known for gram in grams) > 0.5 * len(grams):
        return Cleaned(text, "echo")
    return Cleaned(text)


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of `text` end."""
    return [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text)]


def _whole(text: str) -> str:
    """`text` up to its last whole sentence if that keeps half of it, else up to its last whole word."""
    ends = sentence_ends(text)
    if ends and ends[-1] >= len(text) / 2:
        return text[: ends[-1]]
    return text.rsplit(" ", 1)[0]
