"""The way of a request's texts to a model and back: with continuations where it asks for them, and with a refusal for all that can go wrong."""

from __future__ import annotations

import asyncio

from selftrain.bundle.promise import PredictionSets, Stated, kept
from selftrain.bundle.tokens import Continued
from selftrain.bundle.typicality import Wanted
from selftrain.errors import ConfigError, SelfTrainError
from selftrain.serving.batching import BatcherClosed, Busy, Ticket, isolated
from selftrain.serving.language_model import LanguageModel, mean_over_continuations
from selftrain.serving.models import LoadedModel, Models, UnknownModel
from selftrain.serving.schemas import CheckedText, Refused, TextProbabilities
from selftrain.serving.seen import Seen


class Dispatch:
    """Asks models for the answers of a request.

    Args:
        models: the models that classify.
        timeout_seconds: seconds after which a request gets 504.
        language_model: writes continuations for requests with `augment`; None refuses them.
        seen: keeps a sample of what was answered; None keeps nothing.
    """

    def __init__(self, models: Models, *, timeout_seconds: float, language_model: LanguageModel | None, seen: Seen | None = None) -> None:
        self._models = models
        self._seen = seen
        self._timeout_seconds = timeout_seconds
        self._language_model = language_model
        self._comparing = asyncio.Lock()

    async def ask(
        self, wanted: str | None, items: list[CheckedText], *, augment: bool = False, none_of_these: Wanted | None = None
    ) -> tuple[LoadedModel, list[TextProbabilities | None]]:
        """The model, and its answers in the order of `items`; None for texts that it never saw.

        Args:
            wanted: the model, as `Models.get` takes it.
            items: the checked texts.
            augment: whether they are read with continuations.
            none_of_these: as in the request; where it asks, answers have a typicality, for which each text is read a second time.

        Raises:
            Refused: there is no such model or language model (404, 422), the model cannot say what fits no class (422), too many texts wait (503), or the answer
                took too long (504).
        """
        texts = [item.text for item in items if item.problem is None]
        writer = self._language_model if augment else None
        if augment and writer is None:
            raise Refused(422, 'augment: this server has no language model; leave out "augment"')
        try:
            async with asyncio.timeout(self._timeout_seconds):
                loaded, found = await (self._read(wanted, texts) if writer is None else self._read_continued(writer, wanted, texts))
                if none_of_these is not None:
                    none_threshold(loaded, none_of_these)
                    found = await self._compared(loaded, texts, found)
        except UnknownModel as error:
            raise Refused(404, str(error)) from None
        except Busy as error:
            raise Refused(503, str(error), {"retry-after": str(error.retry_after)}) from None
        except BatcherClosed:
            raise Refused(503, "this replica is stopping; try again", {"retry-after": "1"}) from None
        except TimeoutError:
            seconds = self._timeout_seconds
            raise Refused(504, f"there was no answer within {seconds:g} s; send fewer texts or fewer requests at a time") from None
        if self._seen is not None:
            self._seen.offer(loaded, texts)
        if len(found) == len(items):
            return loaded, list(found)
        given = iter(found)
        return loaded, [next(given) if item.problem is None else None for item in items]

    async def _read(self, wanted: str | None, texts: list[str]) -> tuple[LoadedModel, list[TextProbabilities]]:
        loaded = self._models.get(wanted)
        if loaded.together is not None and (found := await loaded.together.answers(texts)) is not None:
            return loaded, found
        loaded, ticket = self._models.submit(wanted, texts)
        return loaded, await _answered(ticket)

    async def _compared(self, loaded: LoadedModel, texts: list[str], found: list[TextProbabilities]) -> list[TextProbabilities]:
        """The answers, each with the typicality of its text; one request at a time, so that those that gave up waiting cost nothing."""
        async with self._comparing:
            rows = await asyncio.to_thread(isolated, lambda some: loaded.classifier.typicality(some)[1].tolist(), texts)
        return [TextProbabilities(None) if row is None else answer._replace(typicality=row) for answer, row in zip(found, rows, strict=True)]

    async def _read_continued(self, writer: LanguageModel, wanted: str | None, texts: list[str]) -> tuple[LoadedModel, list[TextProbabilities]]:
        while True:
            loaded = self._models.get(wanted)
            if loaded.card.multi_label:
                raise Refused(
                    422, f'augment: model {loaded.name}@{loaded.version} gives several labels a text, which are read alone; leave out "augment"'
                )
            written = await writer.write(texts, loaded.card, loaded.name)
            rows: list[list[str | Continued]] = []
            for text, one in zip(texts, written, strict=True):
                continued: list[str | Continued] = [Continued(text, continuation) for continuation in one.continuations]
                rows.append([] if one.problem is not None else continued or [text])
            try:
                ticket = loaded.batcher.submit([row for of_text in rows for row in of_text])
            except BatcherClosed:
                if self._models.get(wanted) is loaded:
                    raise
                continue  # its successor may have been trained with other continuations
            found = iter(await _answered(ticket))
            answers = []
            for of_text, one in zip(rows, written, strict=True):
                own = [next(found) for _ in of_text]
                answers.append(mean_over_continuations(own, len(one.continuations)) if own else TextProbabilities(None, problem=one.problem))
            return loaded, answers


def promised_threshold(loaded: LoadedModel) -> float:
    """The probability of the most probable class below which the model's promise takes that there is no label.

    Raises:
        Refused: the model states no promise, or one that its backend does not keep (422).
    """
    return _kept(loaded, loaded.card.promise, "abstain").threshold


def promised_sets(loaded: LoadedModel) -> PredictionSets:
    """How the model's prediction sets are made.

    Raises:
        Refused: as `promised_threshold`.
    """
    return _kept(loaded, loaded.card.sets, "sets")


def none_threshold(loaded: LoadedModel, none_of_these: Wanted) -> float:
    """The typicality up to which a text fits none of the model's classes.

    Raises:
        Refused: the model's bundle keeps no documents, or damaged ones, its backend gives no embeddings, or the model states no promise of it (422).
    """
    try:
        return loaded.classifier.none_threshold(none_of_these)
    except SelfTrainError as error:
        raise Refused(422, f"model {loaded.name}@{loaded.version}: {error}") from None


def _kept(loaded: LoadedModel, promise: Stated | None, parameter: str) -> Stated:
    try:
        return kept(promise, loaded.backend, parameter)
    except ConfigError as error:
        raise Refused(422, f"model {loaded.name}@{loaded.version}: {error}") from None


async def _answered(ticket: Ticket) -> list[TextProbabilities]:
    try:
        return await asyncio.wrap_future(ticket.done)
    finally:
        ticket.cancelled = True  # without effect where all are answered
