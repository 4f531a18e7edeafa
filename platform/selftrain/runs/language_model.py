"""The language model's texts, for as long as a run trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from selftrain.runs.context import RunContext
from selftrain.texts.cache import broken_blocks, cache_location
from selftrain.texts.channel import Texts, open_texts
from selftrain.texts.service import TextCounts

NO_TEXTS = TextCounts().to_json() | {"tokens_per_second": None}  # what metrics.json says of a run without a language model


@contextmanager
def started_texts(context: RunContext) -> Iterator[Texts]:
    """The text channel of a run, in a `with` block that shows its progress."""
    experiment, model = context.plan.experiment, context.plan.language_model
    assert model is not None and context.llm_fingerprint is not None
    cache = cache_location(experiment.augment.cache)
    note = partial(_note_broken_blocks, context, cache, broken_blocks(cache))
    with ExitStack() as stack:
        stack.callback(note)
        opened = open_texts(
            context.plan.augment,
            context.corpus,
            model,
            model_fingerprint=None if isinstance(model, tuple) else context.llm_fingerprint,
            notify=lambda notice: context.events("recovered", what=notice),
        )
        texts = stack.enter_context(opened)
        note()
        yield texts


def _note_broken_blocks(context: RunContext, cache: str, before: set[str]) -> None:
    for file in sorted(broken_blocks(cache) - before - context.broken_blocks):
        context.broken_blocks.add(file)
        context.events("broken block of the text cache set aside", file=file, effect="its texts are generated again")
