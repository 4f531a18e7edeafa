"""The text channel: how a method asks for texts of the language model without knowing any engine.

The contract stands here, below methods, training and the room `texts`, because all three share it. Sections are those of GenCo (Zhang et al. 2024,
"Generation-driven Contrastive Self-training for Zero-shot Text Classification with Instruction-following LLM", arXiv:2304.11872).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TextKind = Literal["input", "conditional", "classify"]


@dataclass(frozen=True, order=True)
class TextRequest:
    """One text about a document: the key of GenDict in GenCo's algorithm 1, with the number of the sample.

    `input` asks for a continuation of the document (section 3.2), `conditional` for a text on one aspect of it (section 3.3, `label` is the class index),
    `classify` for the name of the class that the language model itself chooses (the Alpaca-7B row of table 2).
    """

    document_id: str
    kind: TextKind
    label: int = -1  # class index for `conditional`; -1 otherwise
    sample: int = 0


# A request whose text was filtered out (empty, repeated, prompt-echoing) is missing in the result; a method must do without it.
TextChannel = Callable[[Sequence[TextRequest]], Mapping[TextRequest, str]]


def no_texts(requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
    """The channel of a run without a language model: it accepts no request.

    Raises:
        RuntimeError: there is a request; the run should have started a language model.
    """
    if requests:
        raise RuntimeError(f"{len(requests)} texts were asked for, but this run has no language model")
    return {}


def continuations(texts: TextChannel, document_ids: Sequence[str], samples: int) -> list[list[str]]:
    """Up to `samples` continuations of every document (GenCo section 3.2), in one call of the channel.

    Args:
        texts: the channel.
        document_ids: of the corpus that the channel serves.
        samples: continuations a document; those that were filtered out are missing in its list.
    """
    requests = [[TextRequest(id_, "input", sample=sample) for sample in range(samples)] for id_ in document_ids]
    found = texts([request for of_document in requests for request in of_document])
    return [[found[request] for request in of_document if request in found] for of_document in requests]
