"""The price file: what a GPU costs an hour, and a language model a million tokens. No price is built in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from selftrain.config.section import Section

Price = Annotated[float, Field(ge=0)]


class TeacherPrice(Section):
    """What a language model costs, for a million tokens."""

    prompt: Price = Field(description="of prompts")
    generated: Price = Field(description="of texts")


class Prices(Section):
    """A price file."""

    currency: str = Field(min_length=1, max_length=16, description="of all prices, e.g. EUR")
    gpu_hours: dict[str, Price] = Field(default_factory=dict, description="an hour of one GPU, by the name that PyTorch or Ray has for it")
    teachers: dict[str, TeacherPrice] = Field(default_factory=dict, description="by augment.model, or by the name of one of several teachers")


class CostConfig(Section):
    """What a run costs."""

    prices: str | None = Field(None, description="a price file (YAML); none: tokens and hours are reported, and no money")
