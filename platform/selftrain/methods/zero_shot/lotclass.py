"""LOTClass: words that a masked language model would put for a class's name label other words.

Paper: Text Classification Using Label Names Only: A Language Model Self-Training Approach (Meng et al. 2020, arXiv:2010.07245); a row of
GenCo's table 2.

    1  Category vocabulary: where a class's name stands in a document, the masked language model's 50 likeliest words at that place are noted; a class's
       vocabulary is the 100 most frequent ones, without stop words and words of several classes.
    2  Masked category prediction: a word is category-indicative where more than 20 of the 50 likeliest words at its place are of one class's vocabulary. It is
       hidden behind [MASK], and the class is predicted there:  L_MCP = - sum over such words w of log p(c_w | h_w).
    3  Self-training on all documents, by the first token: L_ST = KL(Q || P) with q_ij = (p_ij^2 / f_j) / sum_j' (p_ij'^2 / f_j'), f_j = sum_i p_ij.

The rounds are the epochs of step 2 (step 1 is the first one's refresh) and then the stretches of step 3 between two computations of Q.
Needs: class names that stand in the documents; a masked language model (`model.masked_lm`).
Differs: stop words are scikit-learn's less nine; a name of several tokens becomes one [MASK]. As in the released code, Q is computed over the documents of a
stretch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from selftrain.data.corpus import Corpus, Label
from selftrain.data.texts import TextChannel
from selftrain.errors import DataError
from selftrain.methods.base import ClassifierMethod, Options
from selftrain.methods.losses import text_to_label
from selftrain.methods.orders import LatestOrder
from selftrain.models.masked import INFERENCE_TEXTS, MaskedEncoder

CLIP = 1.0  # longest gradient
# scikit-learn's list holds some words that say what a text is about; NLTK's, which the authors used, does not.
STOP_WORDS = ENGLISH_STOP_WORDS - {"amount", "bill", "computer", "cry", "fire", "interest", "mill", "sincere", "system"}
WARM_UP = 0.1  # share of a phase's steps in which the learning rate rises


def sharpened_targets(probabilities: torch.Tensor) -> torch.Tensor:
    """Q of self-training in LOTClass (after Xie et al. 2016, arXiv:1511.06335), `[N, L]`, without gradient: (p_ij^2 / f_j) normalised over j, f_j = sum_i p_ij.

    Squaring sharpens, and dividing by how often a class is predicted keeps large classes from growing larger. A class that no document gets anything of
    stays at zero.

    Args:
        probabilities: P, `[N, L]`, rows that sum to one.
    """
    p = probabilities.detach()
    weights = p**2 / p.sum(dim=0).clamp(min=torch.finfo(p.dtype).tiny)
    return weights / weights.sum(dim=1, keepdim=True)


class LOTClassOptions(Options):
    """Options of LOTClass; defaults are the paper's (section 4) for AG News."""

    name: Literal["lotclass"] = "lotclass"
    top_words: int = Field(50, ge=1, description="likeliest words at a place that are looked at")
    vocabulary: int = Field(100, ge=1, description="words of a class's vocabulary before the filter")
    match_threshold: int = Field(
        20, ge=0, description="a word is category-indicative where more than this many of top_words are of the class's vocabulary"
    )
    fewest_documents: int = Field(10, ge=1, description="fewer documents with category-indicative words of a class are an error (released code)")
    mcp_epochs: int = Field(3, ge=1, description="passes over the documents with category-indicative words")
    mcp_learning_rate: float = Field(2e-5, gt=0, description="AdamW, 10 % warm-up, linear decay to 0")
    self_training_epochs: float = Field(1.0, gt=0, description="passes over all documents")
    update_interval: int = Field(50, ge=1, description="self-training steps between two computations of Q")
    learning_rate: float = Field(1e-6, gt=0, description="of self-training, likewise")
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(128, ge=1)


class LOTClass(ClassifierMethod):
    """See the module's docstring."""

    paper = (
        "Text Classification Using Label Names Only: A Language Model Self-Training Approach (Meng et al. 2020, arXiv:2010.07245); baseline of GenCo"
    )
    summary = "words that a masked language model would put for a class's name label other words; category prediction at these, then self-training"
    supervision = "none"
    masked_lm = True
    Options = LOTClassOptions
    options: LOTClassOptions
    encoder: MaskedEncoder

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.names = label_names(self.corpus.labels)
        self.vocabulary: list[list[int]] = []  # [class] -> tokens
        self._indicative: list[tuple[int, int, list[int]]] = []  # (document index, class, places of its category-indicative words)
        self._targets: dict[int, torch.Tensor] = {}  # document index -> Q, of the present stretch
        self._phase = ""
        self._order = LatestOrder()
        self.classifier = torch.nn.Linear(self.encoder.dimensions, len(self.corpus.labels)).to(self.encoder.device)

    @classmethod
    def check(cls, options: LOTClassOptions, corpus: Corpus) -> None:
        names = label_names(corpus.labels)
        twice = next((word for word, count in Counter(word for group in names for word in set(group)).items() if count > 1), None)
        if twice is not None:
            raise DataError(
                f"The word {twice!r} is in the names of two classes, and LOTClass learns a class from its name's words; rename one (data.classes)."
            )

    @property
    def self_training_steps(self) -> int:
        """Of step 3, altogether."""
        return max(1, int(len(self.corpus.unlabeled) * self.options.self_training_epochs / self.options.batch_size))

    @property
    def rounds(self) -> int:
        return self.options.mcp_epochs + -(-self.self_training_steps // self.options.update_interval)

    def steps(self, round_: int) -> int:
        if round_ < self.options.mcp_epochs:  # before the first refresh: as if every document had an indicative word
            return -(-(len(self._indicative) or len(self.corpus.unlabeled)) // self.options.batch_size)
        done = (round_ - self.options.mcp_epochs) * self.options.update_interval
        return min(self.options.update_interval, self.self_training_steps - done)

    def refresh(self, round_: int, texts: TextChannel) -> dict[str, float]:
        if round_ == 0:
            rows = self.encoder.tokens_of(self.corpus.unlabeled.contents)
            self.vocabulary = self.category_vocabulary(rows)
            self._indicative = self._find_indicative(rows)
        self._start_phase("mcp" if round_ < self.options.mcp_epochs else "self_training")
        if self._phase == "mcp":
            return {"documents_with_indicative_words": float(len({index for index, _, _ in self._indicative}))}
        documents = self.documents_of(round_)
        probabilities = torch.softmax(self._logits_without_dropout(documents), dim=1)
        targets = sharpened_targets(probabilities)
        self._targets = dict(zip(documents, targets, strict=True))
        return {"targets_agree": float((targets.argmax(dim=1) == probabilities.argmax(dim=1)).double().mean())}

    def step(self, round_: int, step: int) -> dict[str, float]:
        loss = self._mcp_loss(round_, step) if self._phase == "mcp" else self._self_training_loss(round_, step)
        value = self.backward(loss)
        self.update(clip=CLIP)
        return {self._phase: self.workers.mean(value)}

    def category_vocabulary(self, rows: list[list[int]]) -> list[list[int]]:
        """Tokens of every class's vocabulary, most frequent first (step 1).

        Raises:
            DataError: a class's name stands in no document.
        """
        found = [self._with_names(text, row) for text, row in zip(self.corpus.unlabeled.contents, rows, strict=True)]
        with_names = [(row, places) for row, places in found if places]
        counts: list[Counter[int]] = [Counter() for _ in self.names]
        for start in range(0, len(with_names), INFERENCE_TEXTS):
            part = with_names[start : start + INFERENCE_TEXTS]
            likeliest = self._likeliest([row for row, _ in part])
            for number, (_, places) in enumerate(part):
                for place, label in places:
                    counts[label].update(likeliest[number, place].tolist())
        for names, counted in zip(self.names, counts, strict=True):
            if not counted:
                raise DataError(
                    f"No unlabeled document contains {' or '.join(map(repr, names))}, so LOTClass cannot learn the class; use a name that stands in the "
                    "documents (data.classes), or more documents."
                )
        top = [[token for token, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[: self.options.vocabulary]] for counted in counts]
        classes_of = Counter(token for tokens in top for token in tokens)
        return [
            [token for token in tokens if self._word(token) in names or (classes_of[token] == 1 and self._says_something(token))]
            for names, tokens in zip(self.names, top, strict=True)
        ]

    def documents_of(self, round_: int) -> list[int]:
        """The documents of a stretch of self-training, in an order of the seed; one pass after another."""
        size, count = self.options.batch_size, len(self.corpus.unlabeled)
        first = (round_ - self.options.mcp_epochs) * self.options.update_interval * size
        order = self._order("self_training", lambda: np.random.default_rng([self.seed, 1]).permutation(count))
        return [int(order[place % count]) for place in range(first, first + min(count, self.steps(round_) * size))]

    def state(self) -> dict[str, Any]:
        own = {"phase": self._phase, "vocabulary": self.vocabulary, "indicative": self._indicative}
        return super().state() | own

    def load_state(self, state: dict[str, Any]) -> None:
        self.vocabulary, self._indicative = state["vocabulary"], [(index, label, list(places)) for index, label, places in state["indicative"]]
        if state["phase"]:
            self._start_phase(state["phase"])
        super().load_state(state)

    def _start_phase(self, phase: str) -> None:
        """Start a new optimiser where a phase begins."""
        if phase == self._phase:
            return
        options, mcp = self.options, phase == "mcp"
        total = options.mcp_epochs * self.steps(0) if mcp else self.self_training_steps
        self._phase = phase
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=options.mcp_learning_rate if mcp else options.learning_rate, weight_decay=options.weight_decay
        )
        warm = WARM_UP * total
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: (step + 1) / (warm + 1) if step < warm else max(0.0, (total - step) / (total - warm))
        )

    def _with_names(self, text: str, row: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """(tokens, [(place, class)] of the label names in them); a name of several tokens becomes one [MASK], since a place has one word."""
        tokenizer = self.encoder.tokenizer
        encoded = tokenizer(text, truncation=True, max_length=len(row), return_offsets_mapping=True)
        class_of = {word: label for label, group in enumerate(self.names) for word in group}
        tokens: list[int] = []
        places: list[tuple[int, int]] = []
        words, offsets = encoded.word_ids(0), encoded["offset_mapping"]
        start = 0
        while start < len(row):
            end = start + 1
            while end < len(row) and words[start] is not None and words[end] == words[start]:
                end += 1
            label = class_of.get(text[offsets[start][0] : offsets[end - 1][1]].strip().lower()) if words[start] is not None else None
            if label is not None:
                places.append((len(tokens), label))
            tokens += [tokenizer.mask_token_id] if label is not None and end - start > 1 else row[start:end]
            start = end
        return tokens, places

    def _likeliest(self, rows: list[list[int]]) -> torch.Tensor:
        """The `top_words` likeliest words at every token by the untrained language model, `[texts, tokens, top_words]`."""
        with torch.no_grad():
            logits = self.encoder.words(self.encoder.language_model, rows)
        return logits.topk(min(self.options.top_words, logits.shape[-1]), dim=-1).indices

    def _find_indicative(self, rows: list[list[int]]) -> list[tuple[int, int, list[int]]]:
        """Step 2's training data: every document once for each class that it has category-indicative words of.

        Raises:
            DataError: a class has them in fewer than `fewest_documents` documents.
        """
        special = set(self.encoder.tokenizer.all_special_ids)
        member = torch.zeros(len(self.names), len(self.encoder.tokenizer), dtype=torch.bool, device=self.encoder.device)
        for label, tokens in enumerate(self.vocabulary):
            member[label, tokens] = True
        found: list[tuple[int, int, list[int]]] = []
        for start in range(0, len(rows), INFERENCE_TEXTS):
            part = rows[start : start + INFERENCE_TEXTS]
            matches = (member[:, self._likeliest(part)].sum(dim=-1) > self.options.match_threshold).cpu()  # [class, text, token]
            for number, row in enumerate(part):
                for label in range(len(self.names)):
                    places = [place for place, token in enumerate(row) if token not in special and bool(matches[label, number, place])]
                    if places:
                        found.append((start + number, label, places))
        for label, name in enumerate(self.corpus.class_names):
            documents = sum(1 for _, own, _ in found if own == label)
            if documents < self.options.fewest_documents:
                raise DataError(
                    f"LOTClass found category-indicative words of the class {name!r} in {documents} documents, fewer than method.fewest_documents "
                    f"{self.options.fewest_documents}; use more documents, or lower method.match_threshold."
                )
        return found

    def _mcp_loss(self, round_: int, step: int) -> torch.Tensor:
        """L_MCP of a batch, the mean over its masked words."""
        size = self.options.batch_size
        order = self._order((round_, len(self._indicative)), lambda: np.random.default_rng([self.seed, round_]).permutation(len(self._indicative)))
        batch = [self._indicative[int(place)] for place in order[step * size : (step + 1) * size]]
        mine, factor = self.workers.part(len(batch))
        rows = self.encoder.tokens_of([self.corpus.unlabeled.contents[batch[place][0]] for place in mine])
        for row, place in zip(rows, mine, strict=True):
            for hidden in batch[place][2]:
                row[hidden] = self.encoder.tokenizer.mask_token_id
        owners = [number for number, place in enumerate(mine) for _ in batch[place][2]]
        positions = [hidden for place in mine for hidden in batch[place][2]]
        states = self.encoder.classify_tokens(rows)[owners, positions]
        labels = torch.tensor([batch[place][1] for place in mine for _ in batch[place][2]], device=states.device)
        words = sum(len(places) for _, _, places in batch)
        return F.cross_entropy(self._classify(states), labels, reduction="sum") * factor * len(batch) / words

    def _self_training_loss(self, round_: int, step: int) -> torch.Tensor:
        """L_ST of a batch; KL(Q || P) up to the entropy of Q, which has no gradient."""
        documents, size = self.documents_of(round_), self.options.batch_size
        batch = [documents[place % len(documents)] for place in range(step * size, (step + 1) * size)]
        logits = self._classify(self.embed([self.corpus.unlabeled.contents[index] for index in batch]))
        return text_to_label(logits, torch.stack([self._targets[index] for index in batch]))

    def _classify(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `[N, L]` with dropout."""
        logits: torch.Tensor = self.classifier(F.dropout(states, self.encoder.dropout, self.encoder.training))
        return logits

    def _logits_without_dropout(self, documents: list[int]) -> torch.Tensor:
        texts = [self.corpus.unlabeled.contents[index] for index in documents]
        with torch.no_grad():
            found: torch.Tensor = self.classifier(self.workers.encode(self.encoder.encode, texts, self.encoder.dimensions))
        return found

    def _word(self, token: int) -> str:
        """A token as the word that it is inside a text; empty for a piece of a word."""
        text: str = self.encoder.tokenizer.convert_ids_to_tokens(token)
        return "" if text.startswith("##") else text.lstrip("Ġ▁").lower()

    def _says_something(self, token: int) -> bool:
        word = self._word(token)
        return word.isalpha() and len(word) > 1 and word not in STOP_WORDS


def label_names(labels: Sequence[Label]) -> list[list[str]]:
    """The words of each class's name, in lower case: each of them stands for the class (as in the released code), connecting words do not."""
    return [[word for word in label.words.lower().split() if word not in STOP_WORDS] or [label.words.lower()] for label in labels]
