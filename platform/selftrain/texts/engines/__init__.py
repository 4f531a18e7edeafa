"""One file an engine that writes texts. This one alone knows which of them a configuration asks for; vLLM on the cluster, or a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.runtime.cluster import Needs
from selftrain.texts.engines.base import Engine


def on_cluster(config: AugmentConfig) -> bool:
    """Whether the language model runs on the Ray cluster, and not in a server that someone else runs."""
    return config.server is None


def engine_needs(config: AugmentConfig, model: Path | str | None) -> Needs | None:
    """What the engine asks of the cluster; None for a run without a language model.

    Args:
        config: of the language model.
        model: its folder, whose weights are added up, or the name of a model on the hub, whose size is not known; None for no language model.
    """
    if model is None:
        return None
    if not on_cluster(config):
        from selftrain.texts.engines import openai

        return openai.needs()
    from selftrain.texts.engines import vllm

    return vllm.needs(config, model)


def make_engine(config: AugmentConfig, model: str, *, application: str, owner: Any) -> Engine:
    """The engine that `config` asks for; it does not start yet.

    Args:
        config: of the language model.
        model: of `models.locate.name_on_nodes`.
        application: a name that no other run on the cluster uses, and that a restarted service uses again.
        owner: the actor of the text service; the engine ends with it.
    """
    from selftrain.texts.engines.resilient import ResilientEngine

    if not on_cluster(config):
        from selftrain.passwords import read_key
        from selftrain.texts.engines.openai import ServerDeployment
        from selftrain.texts.engines.spending import Spending

        spending = Spending(config, Path(".selftrain/texts" if "://" in config.cache else config.cache) / "spent" / f"{application}.json")
        return ResilientEngine(config, model, ServerDeployment(config, spending, read_key()))
    from selftrain.texts.engines.vllm import VllmDeployment

    return ResilientEngine(config, model, VllmDeployment(config, model, application, owner))
