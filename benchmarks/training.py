"""What training costs beside plain PyTorch: `python benchmarks/training.py [--only genco] [--repeats 5] [--out FILE.csv]`.

`selftrain.training.fit` against the same method in one hand-written file (benchmarks/plain/), with the same weights, documents and random draws, in one process:

genco    a whole MiniLM, 24 documents of BBC News, with texts that stand for a language model's
ssc      small-cnn on 600 images of noise, 40 of them labeled
seal     a head on the frozen embeddings of 300 documents of BBC News, all labeled
sungen   a BiLSTM on 128 documents of BBC News, all labeled

Both sides begin with an opened encoder; what `fit` does besides (rounds, checkpoints, figures) is in its time. Documents are those that steps read, and those that
GenCo labels. Both must end with the same losses, or the program stops. Views of images are the library's own operations on both sides. Ray Train, which a whole
encoder and images run in, is not in it: it adds its start and a report a round.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from paired import Compared, arguments, compare, tell
from plain.genco import MeanPooled, Texts, genco
from plain.seal import seal
from plain.ssc import ssc
from plain.sungen import BiLSTM, sungen

from selftrain.config import DataConfig, parse
from selftrain.data.corpus import Corpus, Documents, Label
from selftrain.data.image_views import _weak, cutout, rand_augment
from selftrain.data.loading import load_corpus
from selftrain.data.texts import TextRequest
from selftrain.methods.recipe import Recipe, resolve
from selftrain.methods.soft_labels.top_k import top_k_cross_entropy
from selftrain.models.encoder import Encoder
from selftrain.models.locate import encoder_folder
from selftrain.models.open import open_encoder
from selftrain.training.fit import fit

AGREES = 2e-3  # that losses of the two sides may differ by: sums are not all taken in one order


@dataclass(frozen=True)
class Case:
    """One method on both sides.

    Args:
        recipe: what `fit` trains.
        corpus: on what.
        items: documents that one training reads.
        opened: a new encoder, with weights that follow from torch's seed where they are drawn.
        by_hand: seed and the untrained method to a training by hand, which returns the loss of every step.
        texts: the text channel.
    """

    recipe: Recipe
    corpus: Corpus
    items: int
    opened: Callable[[], Encoder]
    by_hand: Callable[[int, Any], Callable[[], list[float]]]
    texts: Callable[[Sequence[TextRequest]], dict[TextRequest, str]] = lambda requests: {}


def recipe_of(method: dict[str, Any], **model: Any) -> Recipe:
    """A recipe with these options."""
    document = {"method": method, "model": model, "training": {"threads": 1, "gpu": False}, "augment": {"model": "none"}}
    return resolve(parse(document))


@cache
def bbc_news(count: int) -> tuple[Corpus, list[int]]:
    """Documents of BBC News and their classes."""
    corpus, truth = load_corpus(DataConfig(source="bbc_news", unlabeled_documents=count, test_documents=100))
    return corpus, [truth.unlabeled[id_] for id_ in corpus.unlabeled.ids]


def with_labels(corpus: Corpus, labels: Sequence[int]) -> Corpus:
    """`corpus` with every label granted."""
    return Corpus(
        corpus.name, corpus.labels, corpus.prompts, corpus.unlabeled, Documents(), granted=dict(zip(corpus.unlabeled.ids, labels, strict=True))
    )


def genco_case() -> Case:
    """GenCo, the whole encoder."""
    corpus, _ = bbc_news(24)
    rounds, steps, per_class = 2, 1, 2
    options = {"name": "genco", "rounds": rounds, "steps_per_round": steps, "per_class": per_class, "start_check": False}
    recipe = recipe_of(options, train="full")
    documents, classes = list(corpus.unlabeled.contents), len(corpus.labels)
    tails = [" ".join(document.split()[-24:]) for document in documents]
    conditional = [[f"In terms of {label.description}, {tail}" for label in corpus.labels] for tail in tails]
    texts = Texts(documents, tails, conditional, corpus.label_prompts())
    place = {id_: number for number, id_ in enumerate(corpus.unlabeled.ids)}

    def channel(requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        return {one: tails[place[one.document_id]] if one.kind == "input" else conditional[place[one.document_id]][one.label] for one in requests}

    def by_hand(seed: int, method: Any) -> Callable[[], list[float]]:
        encoder = MeanPooled(str(encoder_folder(recipe.model.encoder)))
        return lambda: genco(encoder, texts, rounds=rounds, steps=steps, per_class=per_class, seed=seed)

    items = rounds * (len(documents) + steps * per_class * classes)
    return Case(recipe, corpus, items, lambda: open_encoder(recipe.model, corpus), by_hand, channel)


def ssc_case() -> Case:
    """SSC on images."""
    rounds, steps, count = 2, 5, 600
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 10
    pixels = (rng.integers(0, 128, (count, 3, 32, 32)) + 12 * labels[:, None, None, None]).astype(np.uint8)
    ids = tuple(str(number) for number in range(count))
    names = tuple(Label(str(number), str(number), str(number)) for number in range(10))
    granted = {ids[number]: int(labels[number]) for number in range(40)}
    corpus = Corpus("noise", names, (), Documents(ids, pixels), Documents(), granted=granted, kind="image")
    recipe = recipe_of({"name": "ssc", "rounds": rounds, "steps_per_round": steps}, encoder="small-cnn")
    images, known = torch.from_numpy(pixels), torch.from_numpy(labels)

    def weak(batch: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        return _weak(batch, draw, True)

    def strong(batch: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        changed = cutout(rand_augment(weak(batch, draw).float() / 255.0, draw), draw)
        return (changed * 255.0).round().clamp(0, 255).to(torch.uint8)

    def by_hand(seed: int, method: Any) -> Callable[[], list[float]]:
        parts = method.encoder.network, method.classifier.weight.detach(), method.classifier.projection
        return lambda: ssc(*parts, images, known, list(range(40)), weak=weak, strong=strong, steps=[steps] * rounds, seed=seed)

    return Case(recipe, corpus, rounds * steps * (32 + 96), lambda: open_encoder(recipe.model, corpus), by_hand)


def seal_case() -> Case:
    """SEAL on a head."""
    rounds, steps, warm_up = 4, 50, 50
    corpus = with_labels(*bbc_news(300))
    options = {"name": "seal", "rounds": rounds, "steps_per_round": steps, "objective_steps": warm_up}
    recipe = recipe_of(options, train="head", cache=".selftrain/embeddings")
    frozen: Any = open_encoder(recipe.model, corpus)
    rows = frozen.inputs(corpus.unlabeled.contents)
    labels = torch.tensor([corpus.granted[id_] for id_ in corpus.unlabeled.ids])

    def by_hand(seed: int, method: Any) -> Callable[[], list[float]]:
        names = {"w": "encoder.layer.linear.weight", "b": "encoder.layer.linear.bias", "v": "classifier.weight", "c": "classifier.bias"}
        f, g = dict(method.net.named_parameters()), method.generator
        f, g = ({short: parameters[name].detach() for short, name in names.items()} for parameters in (f, g))
        layers = [layer.weight.detach() for layer in method.objective.layers]

        def task(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
            return top_k_cross_entropy(logits, known, (0.8, 0.2))

        return lambda: seal(f, g, layers, rows, labels, task, rounds=rounds, steps=steps, warm_up_steps=warm_up, seed=seed)

    return Case(recipe, corpus, 32 * (rounds * steps + 2 * warm_up), lambda: copy.deepcopy(frozen), by_hand)


def sungen_case() -> Case:
    """SunGen on a BiLSTM."""
    iterations, epochs = 2, 2
    corpus = with_labels(*bbc_news(128))
    options = {"name": "sungen", "outer_iterations": iterations, "epochs": epochs}
    recipe = recipe_of(options, encoder="bilstm", similarity="dot", vocabulary=10_000)

    def by_hand(seed: int, method: Any) -> Callable[[], list[float]]:
        words, lstm, _ = method.encoder.backbone
        model = BiLSTM(*words.emb_layer.weight.shape, lstm.encoder.hidden_size, len(corpus.labels))
        model.words.load_state_dict(words.emb_layer.state_dict())
        model.lstm.load_state_dict(lstm.encoder.state_dict())
        model.classifier.load_state_dict(method.classifier.state_dict())
        rows = method.encoder.inputs(corpus.unlabeled.contents)
        return lambda: sungen(model, rows, method.targets, iterations=iterations, epochs=epochs, seed=seed)

    return Case(recipe, corpus, len(corpus.unlabeled) * (iterations + epochs), lambda: open_encoder(recipe.model, corpus), by_hand)


CASES = {"genco": genco_case, "ssc": ssc_case, "seal": seal_case, "sungen": sungen_case}


def measured(name: str, repeats: int) -> Compared:
    """Both sides of one method, and the check that they did the same.

    Raises:
        SystemExit: their losses differ.
    """
    case = CASES[name]()
    rounds: dict[int, list[float]] = {}

    def ours(seed: int) -> Callable[[], None]:
        torch.manual_seed(seed)
        encoder = case.opened()  # with the generator as it then is, as `fit` would have it

        def opened() -> Encoder:
            return encoder

        def turn() -> None:
            fitted = fit(case.recipe, case.corpus, case.texts, seed=seed, opened=opened)
            rounds[seed] = [one["loss"] for one in fitted.rounds]

        return turn

    def theirs(seed: int) -> Callable[[], None]:
        torch.manual_seed(seed)
        encoder = case.opened()
        by_hand = case.by_hand(seed, case.recipe.untrained(case.corpus, seed=seed, opened=lambda: encoder))

        def turn() -> None:
            found[seed] = np.array(by_hand())

        return turn

    found: dict[int, np.ndarray] = {}
    compared = compare(name, "documents a second", case.items, ours, theirs, repeats)
    for seed, means in rounds.items():
        apart = np.abs(np.array(means) - found[seed].reshape(len(means), -1).mean(axis=1)).max()
        if not apart < AGREES:
            raise SystemExit(f"{name}, seed {seed}: the losses of the two sides differ by up to {apart:.2g}; they did not train the same")
    return compared


def main() -> None:
    """Measure, and print a line each."""
    options = arguments(__doc__, list(CASES), 5)
    torch.set_num_threads(1)
    for name in options.only:
        tell(measured(name, options.repeats), "training.py", options)


if __name__ == "__main__":
    sys.exit(main())
