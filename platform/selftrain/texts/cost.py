"""What texts of language models cost: how many the cache lacks, their tokens, and money by a price file.

`selftrain run`, `selftrain sweep` and `selftrain generate` predict with what stands here, and price with it what they took. Predicted tokens are those of a
sample of prompts, by the language model's own tokenizer where its folder is at hand, else a token for four characters. Money is what a price file says
(`cost.prices`): without a price that is needed there is none, and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from selftrain.config import AugmentConfig, Experiment, Prices, load_prices
from selftrain.errors import ConfigError
from selftrain.files.remote import is_address
from selftrain.models.locate import LanguageModel, contents_fingerprint, each_model
from selftrain.runtime.hardware import gpu_name
from selftrain.texts.cache import TextCache, cache_location
from selftrain.texts.prompts import Prompt
from selftrain.texts.service import key_of

SAMPLED = 500  # documents whose prompts are counted and looked up at least, evenly spread
CHARACTERS_A_TOKEN = 4  # where the tokenizer is a server's; English text
ENGINE_SECONDS = 90.0  # that an engine takes to start
ENDED = 0.8  # of the tokens that it may have, of a text that ends at a mark of its own: Gemma 3 270M, film reviews (docs/howto/cost.md)
TOKENS_A_SECOND = 100  # that a language model of 270 million weights writes on two cores

Tokens = tuple[float, float]  # of prompts, of texts


@dataclass(frozen=True)
class Cost:
    """One side of the comparison of what was predicted and what came."""

    texts: int
    prompt_tokens: int
    generated_tokens: int
    hours: float
    gpu_hours: float
    money: float | None  # None: see `why`
    currency: str | None
    why: str  # why there is no money; empty where there is
    at_most: bool = False  # a bound: how many texts or steps there will be cannot be known

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"hours": round(self.hours, 4), "gpu_hours": round(self.gpu_hours, 4)}

    def words(self) -> str:
        """In one line, for a terminal."""
        money = f"{self.money:,.4g} {self.currency}" if self.money is not None else f"no money: {self.why}"
        tokens = f"{self.prompt_tokens:,} tokens of prompts and {self.generated_tokens:,} of texts"
        bound = "at most " if self.at_most else ""
        return f"{bound}{self.texts:,} texts, {tokens}; {self.hours:.2f} hours, {self.gpu_hours:.2f} GPU-hours; {money}"


@dataclass(frozen=True)
class Wanted:
    """Texts of one kind that are wanted.

    Args:
        texts: how many, of all language models together.
        prompts: of them, or an even sample.
        of: how many texts `prompts` is a sample of: `texts` and more.
        each: whether every language model answers every prompt; else each writes its share.
        known: whether it is these prompts that are asked; else they are only like them, and the cache can say nothing of how many it lacks.
        most: bound of `texts`; None: the same, since their number is known.
    """

    texts: float
    prompts: Sequence[Prompt]
    of: float
    each: bool = False
    known: bool = True
    most: float | None = None

    @property
    def at_most(self) -> bool:
        """Whether `texts` is a bound and no expectation."""
        return self.most == self.texts


@dataclass(frozen=True)
class Missing:
    """Texts that are yet to be written."""

    texts: float
    tokens: Mapping[str, Tokens]  # by the language model's name
    most: float  # bound of `texts`
    at_most: bool  # whether `texts` is one

    @property
    def seconds(self) -> float:
        """Of the engine on two cores, its start included; none where nothing is missing."""
        written = sum(generated for _, generated in self.tokens.values())
        return ENGINE_SECONDS + written / TOKENS_A_SECOND if self.texts else 0.0


NOTHING = Missing(0.0, {}, 0.0, False)


def missing_texts(augment: AugmentConfig, model: LanguageModel, wanted: Iterable[Wanted], *, cached: bool) -> Missing:
    """What language models have yet to write.

    Args:
        augment: of one language model, or of several.
        model: of `language_model_of`.
        wanted: each text once.
        cached: whether to look into the cache of texts, where what is there costs nothing; nothing is written into it.
    """
    models, shares = each_model(model), [one.share for one in augment.teachers] or [1.0]
    held = opened(augment.cache) if cached else None
    tokens: dict[str, Tokens] = {}
    texts, most, at_most = 0.0, 0.0, False
    wanted = [one for one in wanted if one.texts and one.prompts]
    for (name, section), own_model, share in zip(teacher_sections(augment).items(), models, shares, strict=True):
        count, fingerprint = counter(own_model), contents_fingerprint(own_model) if held is not None and wanted else ""
        read = written = 0.0
        for one in wanted:
            part = 1 / len(models) if one.each else share / sum(shares)
            own, bound = one.texts * part, (one.texts if one.most is None else one.most) * part
            found = len(held.lookup([key_of(prompt, section, fingerprint) for prompt in one.prompts])) if held is not None else 0
            if one.known:
                there = one.of * found / len(one.prompts)
                own, bound = max(0.0, own - there), max(0.0, bound - there)
            texts, most = texts + own, most + bound
            at_most |= bool(own) and (one.at_most or (bool(found) and not one.known))
            read += own * sum(count(prompt.text) for prompt in one.prompts) / len(one.prompts)
            written += own * sum(_answer_tokens(prompt, count) for prompt in one.prompts) / len(one.prompts)
        tokens[name] = (read, written)
    return Missing(texts, tokens, most, at_most)


def _answer_tokens(prompt: Prompt, count: Callable[[str], float]) -> float:
    """Of what a prompt is answered with: a text that nothing ends is taken to be as long as it may be."""
    choices = prompt.sampling.choices
    if choices:
        return sum(map(count, choices)) / len(choices)
    return prompt.sampling.max_tokens * (ENDED if prompt.sampling.stop else 1.0)


def opened(location: str) -> TextCache | None:
    """The cache of texts; None where there is no folder yet, which a prediction must not make."""
    place = cache_location(location)
    return TextCache(place) if is_address(place) or Path(place).is_dir() else None


@cache
def counter(model: Path | str) -> Callable[[str], float]:
    """Tokens of a text, special ones included, for a language model."""
    if isinstance(model, Path) and (model / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        return lambda text: len(tokenizer.encode(text).ids)
    return lambda text: len(text) / CHARACTERS_A_TOKEN


def tokens_of(augment: AugmentConfig, counts: Iterable[Mapping[str, Any]]) -> dict[str, Tokens]:
    """Tokens that were read and written, by the language model's name.

    Args:
        augment: of one language model, or of several.
        counts: `TextCounts.to_json` of each text service.
    """
    found: dict[str, Tokens] = {}
    for one in counts:
        for name, own in (one.get("teachers") or {str(augment.name): one}).items():
            read, written = found.get(name, (0.0, 0.0))
            found[name] = (read + own["prompt_tokens"], written + own["generated_tokens"])
    return found


def priced(
    augment: AugmentConfig,
    prices: Prices | None,
    *,
    texts: float = 0.0,
    tokens: Mapping[str, Tokens] | None = None,
    hours: float = 0.0,
    gpu_hours: float = 0.0,
    at_most: bool = False,
) -> Cost:
    """A cost with its money.

    Args:
        augment: of the language models.
        prices: the price file; None: no money.
        texts: that are written.
        tokens: by the language model's name.
        hours: of the whole command.
        gpu_hours: of all GPUs together.
        at_most: whether these are bounds. Hours of GPUs are one where there may be fewer engines than are counted.
    """
    tokens = tokens or {}
    at_most |= bool(gpu_hours) and augment.engines_at_most > augment.engines
    money, why = _money(augment, prices, tokens, gpu_hours)
    read, written = (round(sum(one[place] for one in tokens.values())) for place in (0, 1))
    return Cost(round(texts), read, written, hours, gpu_hours, money, prices.currency if prices is not None else None, why, at_most)


def total(costs: Sequence[Cost]) -> Cost:
    """All of them together, at least one; without money where one of them has none."""
    texts, read, written = (sum(getattr(one, key) for one in costs) for key in ("texts", "prompt_tokens", "generated_tokens"))
    hours, gpu_hours = (sum(getattr(one, key) for one in costs) for key in ("hours", "gpu_hours"))
    why = next((one.why for one in costs if one.why), "")
    money = None if why else sum(one.money or 0.0 for one in costs)
    return Cost(texts, read, written, hours, gpu_hours, money, costs[0].currency, why, any(one.at_most for one in costs))


def _money(augment: AugmentConfig, prices: Prices | None, tokens: Mapping[str, Tokens], gpu_hours: float) -> tuple[float | None, str]:
    """(what it comes to, empty), or (None, what is missing)."""
    if prices is None:
        return None, "no price file (cost.prices)"
    total = 0.0
    for name, (prompt, generated) in tokens.items():
        section = teacher_sections(augment)[name]
        price = prices.teachers.get(name)
        if price is None and section.server is not None and not section.prompt_price + section.generated_price:
            return None, f"the price file has no teacher {name!r}"
        each = (price.prompt, price.generated) if price is not None else (section.prompt_price, section.generated_price)
        total += (prompt * each[0] + generated * each[1]) / 1e6
    if gpu_hours:
        gpu = gpu_name()
        if gpu is None or gpu not in prices.gpu_hours:
            return None, f"the price file has no GPU {gpu!r}" if gpu else "the GPUs have no name, or several"
        total += gpu_hours * prices.gpu_hours[gpu]
    return total, ""


def prices_of(experiment: Experiment) -> Prices | None:
    """The price file of an experiment; None where it has none.

    Raises:
        ConfigError: there is no such file, it is wrong, or the experiment itself has another price for a language model.
    """
    if experiment.cost.prices is None:
        return None
    prices = load_prices(experiment.cost.prices)
    for name, section in teacher_sections(experiment.augment).items():
        if (price := prices.teachers.get(name)) is None:
            continue
        for key, own, listed in (("prompt_price", section.prompt_price, price.prompt), ("generated_price", section.generated_price, price.generated)):
            if own and own != listed:
                raise ConfigError(
                    f"augment.{key} must be {listed:g}, the price that the price file has for {name!r} (got {own:g}); leave one of them out.",
                    parameter=f"augment.{key}",
                )
    return prices


def teacher_sections(augment: AugmentConfig) -> dict[str, AugmentConfig]:
    """The section of each language model, by its name."""
    names = [one.called for one in augment.teachers] or [str(augment.name)]
    return dict(zip(names, augment.language_models, strict=True))
