"""Does it help to train without what fits no class? `python benchmarks/left_out.py [--sets ag_news,bbc_news,trec] [--shares 0,0.1,0.2,0.3] [--out FILE.csv]`.

One class of a set is left out in turn, as in benchmarks/none_of_these.py, and equation 5 of GenCo is trained on all documents but a share: those with the highest
score `unsure` by the zero-shot start, which lie among documents that it is least sure of. No label is used. A line is a set, a left-out class and a share:

training      clean: no document of the left-out class is there; mixed: they are
documents     that are trained on
caught        share of the documents of no class that are not trained on
none          share of documents of no class among those trained on
accuracy      on the documents of the known classes that are scored, which nobody trains on
auroc         of 1 - the highest probability, on all that are scored: whether those of no class get less sure answers
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lines import tell
from none_of_these import SETS, TRAINED_ON, Among, experiment, logits_of, part, trained
from sklearn.metrics import roc_auc_score

from selftrain.data.loading import load_corpus


def lines(name: str, shares: Sequence[float]) -> Iterator[dict[str, Any]]:
    """All lines of a set.

    Args:
        name: of the set.
        shares: of the documents that are left out.
    """
    corpus, truth = load_corpus(experiment(name, 0).data)
    labels = np.array([truth.unlabeled[id_] for id_ in corpus.unlabeled.ids])
    embeddings = trained(name, corpus, 0).encoder.encode(corpus.unlabeled.contents).double()
    frozen = torch.nn.functional.normalize(embeddings, dim=1).detach().numpy().astype(np.float32)
    learned, scored = np.split(np.random.default_rng(0).permutation(len(labels)), [round(TRAINED_ON * len(labels))])
    for left_out, label in enumerate(corpus.labels):
        names = tuple(one for one in corpus.labels if one is not label)
        of_class = labels[scored] != left_out
        wanted = np.where(labels > left_out, labels - 1, labels)[scored]
        for training in ("clean", "mixed"):
            places = learned if training == "mixed" else learned[labels[learned] != left_out]
            start = trained(name, replace(corpus, labels=names, unlabeled=part(corpus.unlabeled, places)), 0)
            among = Among(logits_of(start, embeddings)[places], frozen[places])
            order = np.argsort(among.sure[among.places].mean(axis=1))  # the least sure first
            for share in shares:
                kept = places[np.sort(order[round(share * len(places)) :])]
                student = trained(name, replace(corpus, labels=names, unlabeled=part(corpus.unlabeled, kept)), 1)
                found = student.predict([corpus.unlabeled.contents[place] for place in scored]).numpy()
                none, before = labels[kept] == left_out, (labels[places] == left_out).sum()
                figures = {
                    "caught": 1 - none.sum() / before if before else None,
                    "none": none.mean(),
                    "accuracy": (found.argmax(axis=1) == wanted)[of_class].mean(),
                    "auroc": roc_auc_score(~of_class, -found.max(axis=1)),
                }
                rounded = {key: None if value is None else round(float(value), 4) for key, value in figures.items()}
                yield {"set": name, "left_out": label.name, "training": training, "share": share, "documents": len(kept), **rounded}


def main() -> None:
    """Every set in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--shares", default="0,0.1,0.2,0.3")
    parser.add_argument("--out", type=Path, help="CSV that lines are added to")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for found in lines(name, [float(share) for share in options.shares.split(",")]):
            tell(found, options.out)


if __name__ == "__main__":
    main()
