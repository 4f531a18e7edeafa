"""What `selftrain distill` does: students, their table, and the chosen one as champion."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.common import names_of
from selftrain.errors import ConfigError, SelfTrainError

NONE_CHOSEN = 2  # exit code where no student is shown to lose as little as was asked for


def layers_of(listed: str) -> list[int]:
    """The numbers of "2, 3".

    Raises:
        ConfigError: one is no whole number.
    """
    try:
        return [int(one) for one in names_of(listed)]
    except ValueError:
        raise ConfigError(f"layers must be whole numbers separated by commas, such as 3 or 2,3 (got {listed!r}).", parameter="layers") from None


def check(options: argparse.Namespace) -> None:
    """Raise a `ConfigError` for options that do not go together, before anything is read."""
    layers_of(options.layers)
    if options.promote and options.within is None:
        raise ConfigError("--promote needs to know how much a student may lose; pass that too, such as --within 0.01.")
    if not options.promote and (options.model is not None or options.tracking_uri is not None):
        raise ConfigError("--model and --tracking-uri say where the chosen student is registered; pass --promote too.")


def distill(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from selftrain.bundle.documents import load_documents
    from selftrain.bundle.format import read_card
    from selftrain.compress.distill import STUDENTS, generated_texts
    from selftrain.compress.distill import distill as made
    from selftrain.compress.onnx import require_empty
    from selftrain.compress.tiers import describe_tiers

    card = read_card(options.bundle)
    if options.out:
        require_empty(Path(options.out))
    model = options.model or card.name
    if options.promote:
        from selftrain.runs.register import check_registry

        check_registry(model, options.tracking_uri)
    columns = {"text_column": options.text_column, "label_column": options.label_column}
    corpus, truth = load_documents(card, options.documents or options.data, test_documents=options.test_documents, **columns)
    options.continues = "the same command goes on behind the students that are finished"
    result = made(
        options.bundle,
        (corpus, truth),
        generated=generated_texts(card, corpus),
        students=STUDENTS if options.student is None else (options.student,),
        out=options.out or None,
        layers=layers_of(options.layers),
        within=options.within,
        max_documents=options.max_documents,
    )
    print(describe_tiers(result.tiers, result.figure), result.note, sep="\n\n")
    print(f"students: {result.folder}  picture: {result.folder / 'tiers.svg'}")
    if options.within is None:
        return 0
    print(result.verdict)
    if result.chosen is None:
        return NONE_CHOSEN
    print(f"bundle: {result.chosen}")
    if options.promote:
        _promote(result.chosen, model, options.tracking_uri, result.verdict)
    return 0


def _promote(bundle: Path, model: str, uri: str | None, why: str) -> None:
    """Register a bundle as champion, and say so.

    Raises:
        SelfTrainError: the registry does not take it; the message has the command that does it later.
    """
    from selftrain.runs.register import register

    try:
        found = register(bundle, model, promote=True, why=why, uri=uri)
    except SelfTrainError as error:
        later = f"selftrain register {bundle} --model {model} --promote"
        raise type(error)(f"{error} The student is finished; `{later}` makes it champion.") from None
    print(f"{found.model} version {found.version}, {'champion' if found.champion else 'not champion'}")
