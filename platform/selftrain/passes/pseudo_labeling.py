"""Pseudo-labels of a large corpus, made by actors all over a Ray cluster: what a round of GenCo or PESCO starts with.

documents, by reference -> Ray Data -> actors with the present encoder: embed, score, rank a block -> the rankings of blocks, merged here as they come

Blocks are those of methods/zero_shot/selection.py, so the result is that of one process. What travels to an actor is a block, the weights and the scorer once
a round; what comes back is S_t documents a class at the most, with their Q, and never a text.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from selftrain.config import TrainingConfig
from selftrain.config.hardware import decided
from selftrain.data.corpus import Corpus, Documents
from selftrain.data.texts import TextChannel, continuations
from selftrain.errors import ProcessDied, SelfTrainError
from selftrain.methods.recipe import Recipe
from selftrain.methods.zero_shot.selection import Ranking, Scorer, blocks, embedded
from selftrain.models.encoder import Encoder
from selftrain.models.open import open_encoder
from selftrain.passes.stream import Nodes, mapped
from selftrain.runtime.devices import keep_to_share

LARGE = 100_000  # documents, from which several nodes are worth the start of their actors in every round


def on_cluster(training: TrainingConfig, documents: int) -> bool:
    """Whether actors make the pseudo-labels; Ray has to be initialized.

    Args:
        training: with a number for `training.gpu`.
        documents: unlabeled ones.
    """
    if training.pseudo_labeling != "auto" or documents < LARGE:
        return training.pseudo_labeling == "cluster"
    import ray

    gpu = decided(training.gpu, "training.gpu")
    name, needed = ("GPU", gpu) if gpu else ("CPU", float(training.threads or 1))
    return sum(node["Alive"] for node in ray.nodes()) > 1 and ray.available_resources().get(name, 0.0) >= needed


@dataclass
class ClusterRanking:
    """A `RankingPass` over the actors of a cluster.

    Args:
        corpus: whose unlabeled documents, which are texts, are ranked.
        opened: opens the encoder in an actor; the present weights are loaded into it.
        texts: answers requests for continuations, from any process.
        training: GPUs, threads and placement of an actor: those of a training worker.
    """

    corpus: Corpus
    opened: Callable[[], Encoder]
    texts: TextChannel
    training: TrainingConfig
    _blocks: list[Any] = field(default_factory=list, init=False, repr=False)  # of the documents: references to tables

    @classmethod
    def of_recipe(cls, recipe: Recipe, corpus: Corpus, texts: TextChannel) -> ClusterRanking:
        """The pass of a training.

        Args:
            recipe: what is trained; its encoder is a sentence encoder, all of whose weights are trained.
            corpus: as the method sees it.
            texts: the text channel.
        """
        # What opening looks at; the documents travel as blocks.
        described = replace(corpus, unlabeled=Documents(), test=Documents(), validation=Documents(), granted={}, candidates={}, oracle={}, skipped=())
        return cls(corpus, partial(_open, recipe, described), texts, recipe.training)

    def __call__(self, encoder: Encoder, scorer: Scorer, size: int, samples: int) -> Ranking:
        """See `RankingPass`.

        Raises:
            SelfTrainError: what the text channel raised.
            ProcessDied: actors died again and again.
        """
        import ray
        import ray.data

        weights = {name: value.cpu() for name, value in encoder.state_dict().items()}
        round_ = ray.put({"weights": weights, "scorer": scorer})
        gpu, threads = decided(self.training.gpu, "training.gpu"), self.training.threads or 1
        resources: dict[str, Any] = {"num_gpus": gpu} if gpu else {"num_cpus": threads}
        if self.training.placement:
            resources["label_selector"] = dict(self.training.placement)
        arguments = (self.opened, round_, size, self.texts, samples, threads)
        documents = partial(ray.data.from_arrow_refs, self._documents())
        nodes = Nodes()
        while True:
            ranked = mapped(documents, _Actor, arguments, resources=resources, batch_format="pyarrow", in_order=True)
            try:
                with closing(ranked):
                    return Ranking.merged(map(_ranking, ranked), size)
            except ProcessDied:
                if not nodes.lost():
                    raise

    def _documents(self) -> list[Any]:
        if not self._blocks:
            import ray

            documents = self.corpus.unlabeled
            for block in blocks(range(len(documents))):
                rows = slice(block.start, block.stop)
                text = pa.array(documents.contents[rows], pa.large_string())
                self._blocks.append(ray.put(pa.table({"index": pa.array(block, pa.int64()), "id": pa.array(documents.ids[rows]), "text": text})))
        return self._blocks


def _open(recipe: Recipe, described: Corpus) -> Encoder:
    gpu = decided(recipe.training.gpu, "training.gpu")
    device = "cuda:0" if gpu else "cpu"
    keep_to_share(gpu, device)
    return open_encoder(recipe.model, described, device=device, precision=recipe.training.precision)


class _Actor:
    """Ranks blocks with the weights of one round."""

    def __init__(self, opened: Callable[[], Encoder], round_: Any, size: int, texts: TextChannel, samples: int, threads: int) -> None:
        import ray

        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        state = ray.get(round_)
        self._encoder = opened()
        self._encoder.load_state_dict(state["weights"])
        self._encoder.eval()
        self._scorer, self._size, self._texts, self._samples = state["scorer"], size, texts, samples

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            return self._ranked(block)
        except SelfTrainError as error:  # as it is: Ray Data's own report of an error loses what it was
            return pa.table({"error": [pickle.dumps(error)]})

    def _ranked(self, block: pa.Table) -> pa.Table:
        written = continuations(self._texts, block["id"].to_pylist(), self._samples) if self._samples else None
        confidence, targets = self._scorer(embedded(self._scorer.reader(self._encoder), block["text"].to_pylist(), written))
        ranking = Ranking.of(confidence, targets, self._size, block["index"].to_pylist()).to("cpu")
        kept = ranking.targets.numpy()
        return pa.table(
            {
                "index": ranking.documents.numpy(),
                "label": ranking.labels.numpy(),
                "confidence": ranking.confidence.numpy(),
                "targets": pa.FixedSizeListArray.from_arrays(kept.reshape(-1), kept.shape[1]),
                "seen": [ranking.seen] * len(kept),
                "mean_confidence": [ranking.mean_confidence] * len(kept),
            }
        )


def _ranking(block: pa.Table) -> Ranking:
    if "error" in block.column_names:
        raise pickle.loads(block["error"][0].as_py())

    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(block[name].to_numpy().copy())

    targets = torch.from_numpy(block["targets"].combine_chunks().flatten().to_numpy().copy()).reshape(len(block), -1)
    return Ranking(column("index"), column("label"), column("confidence"), targets, block["seen"][0].as_py(), block["mean_confidence"][0].as_py())
