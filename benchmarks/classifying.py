"""What a bundle's answers cost beside the same model by hand: `python benchmarks/classifying.py [--repeats 7] [--out FILE.csv]`.

`Classifier.predict` on 64 documents of BBC News, a call, against sentence-transformers' own `encode` of the same bundle, a product with its prototypes and a
softmax. Both must answer alike. The classifier is all-MiniLM-L6-v2 as it is, with the class names of BBC News.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from paired import arguments, compare, tell
from sentence_transformers import SentenceTransformer

from selftrain import Classifier, SelfTrainer
from selftrain.bundle.format import read_prototypes
from selftrain.config import DataConfig
from selftrain.data.loading import load_corpus

COUNT = 64


def main() -> None:
    """Measure, and print a line."""
    options = arguments(__doc__, ["classifying"], 7)
    torch.set_num_threads(1)
    corpus, _ = load_corpus(DataConfig(source="bbc_news", unlabeled_documents=200, test_documents=100))
    texts, names = list(corpus.unlabeled.contents)[:COUNT], list(corpus.class_names)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        SelfTrainer(options={"rounds": 0}).fit(texts, classes=names).save(folder)
        ours, backbone = Classifier.load(folder, threads=1), SentenceTransformer(str(folder), device="cpu")
        prototypes, _ = read_prototypes(folder, ours.card)
        answers: dict[str, list[str]] = {}

        def by_hand() -> None:
            rows = backbone.encode(texts, batch_size=COUNT, convert_to_tensor=True, normalize_embeddings=True)
            answers["theirs"] = [names[place] for place in (ours.card.scale * rows @ prototypes.T).softmax(1).argmax(1).tolist()]

        def library() -> None:
            answers["ours"] = ours.predict(texts).tolist()

        tell(compare("classifying", "documents a second", COUNT, lambda _: library, lambda _: by_hand, options.repeats), "classifying.py", options)
    if answers["ours"] != answers["theirs"]:
        raise SystemExit("the two sides do not answer alike")


if __name__ == "__main__":
    sys.exit(main())
