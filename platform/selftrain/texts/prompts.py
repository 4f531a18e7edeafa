"""What the language model is asked.

Two styles: `continue` for base models, which continue where the prompt ends, and `instruct` for models that follow instructions, in the wording of GenCo's
table 4. Text and sampling of a prompt are part of the cache key, so an edited template generates anew and an old one stays valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from selftrain.config import AugmentConfig
from selftrain.data.corpus import Label
from selftrain.data.texts import TextRequest
from selftrain.data.words import joined, words_of

Style = Literal["continue", "instruct"]

# Of base models: the whole prompt.
TEMPLATES: dict[str, str] = {
    "input": "{document}",
    "conditional": "{document}\n\nIn terms of {description},",
    "classify": "{document}\n\nThe category of this text, one of {categories}, is",
}
# Of models that follow instructions (GenCo, table 4).
INSTRUCTIONS: dict[str, str] = {
    "input": "Elaborate the text in a few sentences.",
    "conditional": "Discuss the {label} aspects of the article.",
    "classify": "Classify the text by outputting a single category from {categories}.",
}
CHAT = "{instruction}\n\n{input}"  # what the chat template gets
CHOICE_TOKENS = 16  # enough for the name of any class
WORD_CHARACTERS = 40  # of a single word: a longer one is not prose, and an over-long prompt fails in the engine


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn."""

    temperature: float
    max_tokens: int
    min_tokens: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # the completion ends before the first of these
    choices: tuple[str, ...] = ()  # the completion is one of these; empty: free text

    def options(self) -> dict[str, Any]:
        """The options under vLLM's names. They are part of the cache key, so what is not used must stay out."""
        found: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if self.choices:
            return found | {"structured_outputs": {"choice": list(self.choices)}}
        found["min_tokens"] = self.min_tokens
        if self.top_p < 1:
            found["top_p"] = self.top_p
        if self.stop:
            found["stop"] = list(self.stop)
        return found


@dataclass(frozen=True)
class Prompt:
    """One completion that is wanted, ready for an engine."""

    text: str
    document_id: str  # of the document that it is about; where there is none, a name: the same prompt under two names gets two completions
    kind: str
    label: str  # class name, or ""
    sample: int
    sampling: Sampling


def free_sampling(config: AugmentConfig, *, min_tokens: int | None = None, max_tokens: int | None = None, stop: Sequence[str] = ()) -> Sampling:
    """Sampling of a free text.

    Args:
        config: for temperature and top_p, and for the limits that are not passed.
        min_tokens: of the completion; cut to `max_tokens`.
        max_tokens: of the completion.
        stop: strings before which the completion ends.
    """
    most = config.max_tokens if max_tokens is None else max_tokens
    least = config.min_tokens if min_tokens is None else min_tokens
    return Sampling(config.temperature, most, min(least, most), config.top_p, tuple(stop))


def prompt_for(request: TextRequest, document: str, labels: Sequence[Label], config: AugmentConfig) -> Prompt:
    """Fill the template of the style and the kind.

    Args:
        request: which kind, and for `conditional` which class.
        document: the whole document; the prompt holds its first `config.document_words` words.
        labels: the classes in index order.
        config: style, frame, words of the document, and sampling.
    """
    shown = joined(word._replace(text=word.text[:WORD_CHARACTERS]) for word in islice(words_of(document), config.document_words))
    fields = {"document": shown, "categories": ", ".join(label.name for label in labels)}
    name = ""
    sampling = free_sampling(config)
    if request.kind == "conditional":
        name = labels[request.label].name
        fields |= {"label": name, "description": labels[request.label].description}
    elif request.kind == "classify":
        lead = " " if config.style == "continue" else ""
        sampling = Sampling(0.0, CHOICE_TOKENS, choices=tuple(f"{lead}{label.name}" for label in labels))
    instructs = config.style == "instruct"
    filled = (INSTRUCTIONS if instructs else TEMPLATES)[request.kind].format(**fields)
    text = framed(filled, shown, config) if instructs else filled
    return Prompt(text, request.document_id, request.kind, name, request.sample, sampling)


def voted(prompt: Prompt) -> Prompt:
    """A prompt that asks for a class, as a vote: nothing is drawn, so the engine's seed is no part of its key, unlike that of a run's texts."""
    return replace(prompt, kind="vote")


def framed(instruction: str, document: str, config: AugmentConfig) -> str:
    """An instruction about a document as a model of style `instruct` gets it; braces in a document are left alone."""
    return (config.frame or CHAT).replace("{instruction}", instruction).replace("{input}", document)
