"""Texts to token ids, as the encoder of a bundle reads them, and batches of them that waste little padding.

A tokenizer of the library `tokenizers` is called once and computes no offsets. Tokenizers of BERT's kind (WordPiece after BERT's rules for words) are faster
still: a regular expression splits an ASCII text into the same words, and the pieces of known words are looked up. Tokenizing is most of the time of a static
student.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from selftrain.errors import BundleError
from selftrain.models.windows import DOCUMENT_TOKENS, Splitter

if TYPE_CHECKING:  # the import takes seconds, and a process that only names what is here does not need it
    from sentence_transformers import SentenceTransformer

BATCH_START_TOKENS = 64  # the cost of one more batch, in padded tokens that could be computed meanwhile
BATCH_TOKENS_CPU = 1024  # in a batch; with more, a core computes no more tokens a second
BATCH_TOKENS_GPU = 8192
_ONE_AT_A_TIME = threading.Lock()  # for readers that share an encoder whose length they set
_KNOWN_WORDS = 100_000  # words whose pieces are kept, with and without the punctuation around them
_KNOWN_CHARACTERS = 32  # of such a word; a longer one is rarely seen twice, and senders of texts must not fill the memory
_HEAD_CHARACTERS = 12  # of a text for each token that is read; English has four or five
_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")  # BERT's words of an ASCII text: runs of letters and digits, and every punctuation mark alone
_PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*")  # ASCII without the control characters that BERT drops


class Tokens(NamedTuple):
    """What the encoder reads of one text."""

    ids: list[int]
    truncated: bool  # whether there is more of the text
    further: tuple[list[int], ...] = ()  # of the windows behind the first; `ids` are the first one's

    @property
    def windows(self) -> tuple[list[int], ...]:
        """The token ids of every window; the text's probabilities are the geometric mean of theirs."""
        return (self.ids, *self.further)


@dataclass(frozen=True, slots=True)
class Continued:
    """x ⊕ x_k of GenCo's equation 9: a text, and its continuation by a language model."""

    text: str
    continuation: str

    def __len__(self) -> int:
        return len(self.text)


class Beginning(NamedTuple):
    """The part of a text that the encoder reads."""

    text: str
    truncated: bool  # whether there is more of the text


class Reader(Protocol):
    """Turns texts into the token ids that the encoder reads, cut at the bundle's length."""

    padding: int  # id that fills the end of a shorter row

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens that are read of each text, with the special tokens where the encoder has any."""
        ...

    def cut(self, texts: Sequence[str]) -> list[Beginning]:
        """The part of each text that is read, as text: a continuation is appended to it."""
        ...

    def up_to(self, tokens: int) -> Reader:
        """The same reader, cut at another length."""
        ...

    def splitter(self, most: int) -> Splitter:
        """What divides texts into up to `most` windows of the reader's length; a `BundleError` where the encoder has none."""
        ...


class FastReader:
    """A reader with a tokenizer of the library `tokenizers`, which holds the cut and the id of padding.

    Args:
        tokenizer: with truncation and padding set, and a post-processor where special tokens are wanted.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._file = tokenizer.to_str()
        self.padding = int((tokenizer.padding or {}).get("pad_id", 0))
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._words = _WordPieces.of(tokenizer)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Reader`."""
        if self._words is None:
            return self._ask(texts)
        heads = [self._words.head(text) for text in texts]
        found = [self._words(head) for head in heads]
        unknown = [index for index, tokens in enumerate(found) if tokens is None]
        for index, tokens in zip(unknown, self._ask([heads[index] for index in unknown]), strict=True):
            found[index] = tokens
        rows = [tokens for tokens in found if tokens is not None]
        unfilled = []
        for index, (text, head, tokens) in enumerate(zip(texts, heads, rows, strict=True)):
            if len(head) == len(text) or tokens.truncated:
                continue
            if len(tokens.ids) >= self._words.longest and _WORD.search(text, len(head)):
                rows[index] = tokens._replace(truncated=True)
            else:  # the head does not fill the length, or is not surely followed by a word
                unfilled.append(index)
        for index, tokens in zip(unfilled, self._ask([texts[index] for index in unfilled]), strict=True):
            rows[index] = tokens
        return rows

    def _ask(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(encoding.ids, bool(encoding.overflowing)) for encoding in self._tokenizer.encode_batch_fast(list(texts))] if texts else []

    def cut(self, texts: Sequence[str]) -> list[Beginning]:
        """See `Reader`."""
        return [
            Beginning(text[: max((end for _, end in encoding.offsets), default=0)], bool(encoding.overflowing))
            for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)
        ]

    def up_to(self, tokens: int) -> FastReader:
        """See `Reader`."""
        copy = Tokenizer.from_str(self._file)
        copy.enable_truncation(tokens)
        return FastReader(copy)

    def splitter(self, most: int) -> Splitter:
        """See `Reader`."""
        return Splitter(self._tokenizer, int((self._tokenizer.truncation or {}).get("max_length", DOCUMENT_TOKENS)), most)

    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids (before, after) every text."""
        return around(self._tokenizer)

    def without_special_tokens(self) -> Tokenizer:
        """A copy of the tokenizer that cuts as this one does, and adds no special tokens."""
        copy = Tokenizer.from_str(json.dumps({**json.loads(self._file), "post_processor": None}))
        copy.no_padding()
        return copy

    def save(self, file: Path) -> None:
        """Write the tokenizer with its cut and padding."""
        file.write_text(self._file, encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> FastReader:
        """Read what `save` wrote.

        Raises:
            BundleError: the file is missing or damaged.
        """
        try:
            return cls(Tokenizer.from_str(file.read_text(encoding="utf-8")))
        except Exception as error:  # the library raises plain Exception for whatever it cannot read
            raise BundleError(f"{file} cannot be read ({' '.join(str(error).split())[:150]}); run selftrain export again.") from None


class _WordPieces:
    """The ids of ASCII texts by looking up the pieces of each word; equal to the tokenizer's, for tokenizers of BERT's kind only."""

    def __init__(self, tokenizer: Tokenizer, *, lower: bool, special: Sequence[str], longest: int) -> None:
        self._lower, self._special = lower, special
        self._special_in_lower_case = [token for token in special if token == token.lower()]
        self._before, self._after = around(tokenizer)
        self.longest = longest
        self._room = longest - len(self._before) - len(self._after)
        self._known = _Pieces(tokenizer)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _WordPieces | None:
        """None where the tokenizer is of another kind."""
        facts = json.loads(tokenizer.to_str())
        normalizer, cut = facts["normalizer"] or {}, facts["truncation"] or {}
        rules = (normalizer.get("type"), (facts["pre_tokenizer"] or {}).get("type"), facts["model"].get("type"))
        if rules != ("BertNormalizer", "BertPreTokenizer", "WordPiece") or not normalizer["clean_text"] or cut.get("direction") != "Right":
            return None
        special = [token["content"] for token in facts["added_tokens"]]
        pieces = cls(tokenizer, lower=normalizer["lowercase"], special=special, longest=cut["max_length"])
        return pieces if pieces._room > 0 else None

    def head(self, text: str) -> str:
        """The beginning of a long text, up to a blank, where words end: if its tokens fill the length, they are those of the whole text."""
        most = _HEAD_CHARACTERS * self._room
        return text if len(text) <= most else text[: max(text.rfind(" ", 0, most), 0)] or text

    def __call__(self, text: str) -> Tokens | None:
        """The tokens that are read of `text`; None where the tokenizer itself has to find them."""
        if not _PLAIN.fullmatch(text):
            return None
        # A text may spell a special token ("[SEP]"), and the tokenizer takes it for one.
        for token in self._special:
            if token in text:
                return None
        if self._lower:
            text = text.lower()
            for token in self._special_in_lower_case:
                if token in text:
                    return None
        ids = [*chain.from_iterable(map(self._known.__getitem__, text.split()))]
        if len(self._known) > _KNOWN_WORDS:
            self._known.clear()
        return Tokens([*self._before, *ids[: self._room], *self._after], len(ids) > self._room)


class _Pieces(dict[str, tuple[int, ...]]):
    """The ids of what is between blanks, "(team's" as a whole, each computed once: splitting at blanks is much faster than finding words.

    In tuples, since Python's garbage collector goes through lists again and again.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, written: str) -> tuple[int, ...]:
        words = _WORD.findall(written)
        if len(words) == 1:
            pieces = tuple(self._tokenizer.encode(written, add_special_tokens=False).ids)
        else:
            pieces = tuple(chain.from_iterable(map(self.__getitem__, words)))
        if len(written) <= _KNOWN_CHARACTERS:
            self[written] = pieces
        return pieces


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens' ids that the tokenizer puts (before, after) a text."""
    word, full = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    start = full.index(word[0])
    return full[:start], full[start + len(word) :]


class PreprocessReader:
    """A reader with the encoder's own preprocessing, for encoders without a tokenizer of the library `tokenizers`, such as a BiLSTM's words.

    Args:
        backbone: the encoder; its length is set at every call, since readers of several lengths may share it.
        longest: tokens of a text that are read.
    """

    padding = 0

    def __init__(self, backbone: SentenceTransformer, longest: int) -> None:
        self._backbone = backbone
        self._longest = longest

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Reader`; where the length is filled, unknown words count as more of the text, although the encoder skips them."""
        if not texts:
            return []
        with _ONE_AT_A_TIME:
            self._backbone.max_seq_length = self._longest
            features = self._backbone.preprocess(list(texts))
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(features["input_ids"].cpu(), features["attention_mask"].cpu(), strict=True)]
        return [Tokens(ids, len(ids) >= self._longest and len(text.split()) > len(ids)) for text, ids in zip(texts, rows, strict=True)]

    def cut(self, texts: Sequence[str]) -> list[Beginning]:
        """See `Reader`; in words, known or not."""
        words = [text.split() for text in texts]
        return [Beginning(" ".join(of_text[: self._longest]), len(of_text) > self._longest) for of_text in words]

    def up_to(self, tokens: int) -> PreprocessReader:
        """See `Reader`."""
        return PreprocessReader(self._backbone, tokens)

    def splitter(self, most: int) -> Splitter:
        """See `Reader`."""
        raise BundleError(
            f"The bundle's windows must be 1, since its tokenizer does not say where tokens begin and end (got {most}); train it again."
        )


def reader_of(backbone: SentenceTransformer, max_tokens: int) -> Reader:
    """The reader of an encoder, cut at `max_tokens` or at what the encoder reads at most.

    Raises:
        BundleError: the encoder needs more than token ids and their mask.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    found = backbone.tokenizer
    tokenizer = found if isinstance(found, Tokenizer) else getattr(found, "backend_tokenizer", None)
    longest = int(min(max_tokens, backbone.max_seq_length or math.inf))
    if tokenizer is None:
        return PreprocessReader(backbone, longest)
    padding = int(getattr(found, "pad_token_id", None) or 0)
    copy = cut_tokenizer(tokenizer, longest, padding=padding, static=isinstance(backbone[0], StaticEmbedding))
    if any(copy.encode("a text").type_ids):
        raise BundleError(
            "The encoder's tokenizer gives a single text segment ids (as XLNet's does), and a classifier reads token ids only; train another encoder."
        )
    return FastReader(copy)


def cut_tokenizer(tokenizer: Tokenizer, longest: int, *, padding: int, static: bool) -> Tokenizer:
    """A copy for a `FastReader`.

    Args:
        tokenizer: of the encoder.
        longest: tokens of a text that are read.
        padding: id that fills a shorter row.
        static: whether the encoder is a `StaticEmbedding`, which averages the words alone.
    """
    facts = json.loads(tokenizer.to_str())
    if static:
        facts["post_processor"] = None
    copy = Tokenizer.from_str(json.dumps(facts))
    copy.enable_truncation(longest)
    copy.enable_padding(pad_id=padding)
    return copy


def batches(lengths: Sequence[int], most: int, most_padding: float = BATCH_START_TOKENS) -> Iterator[list[int]]:
    """Indices in groups of similar length, shortest first: the next text joins unless the group then wastes more padding than one more batch costs.

    Args:
        lengths: tokens of each text.
        most: texts in a batch at most.
        most_padding: tokens that a batch may waste.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        padding = len(batch) * lengths[index] - tokens
        if batch and (len(batch) >= most or padding > most_padding):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask), both `[texts, longest]` in int64; the mask is 1 at a token. A batch without tokens is one column wide."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    there = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
    ids = np.full(there.shape, padding, np.int64)
    ids[there] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return ids, there.astype(np.int64)
