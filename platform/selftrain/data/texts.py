"""The text channel: how a method asks for texts of the language model without knowing any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "conditional", "classify"]


@dataclass(frozen=True, order=True)
class TextRequest:
    """One text that is wanted: the key of GenDict in GenCo's algorithm 1, with the number of the sample.

    `input` asks for a continuation of the document (section 3.2), `conditional` for a text on one aspect of it (section 3.3, `label` is the class index),
    `classify` for the name of the class that the language model itself chooses (the Alpaca-7B row of table 2).
    """

    document_id: str
    kind: Kind
    label: int = -1  # class index for `conditional`; -1 otherwise
    sample: int = 0


# Answers may lack requests whose text was filtered out (empty, repeated, prompt-echoing): a method has to live with that.
TextChannel = Callable[[Sequence[TextRequest]], Mapping[TextRequest, str]]


def no_texts(requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
    """The channel of a run without a language model: it may only be asked for nothing."""
    if requests:
        raise RuntimeError(f"{len(requests)} texts were asked for, but this run has no language model")
    return {}


def continuations(texts: TextChannel, document_ids: Sequence[str], samples: int) -> list[list[str]]:
    """Up to `samples` continuations of every document (GenCo section 3.2), asked for at once; what was filtered out is missing from a document's list."""
    wanted = [[TextRequest(id_, "input", sample=sample) for sample in range(samples)] for id_ in document_ids]
    answers = texts([request for requests in wanted for request in requests])
    return [[answers[request] for request in requests if request in answers] for requests in wanted]
