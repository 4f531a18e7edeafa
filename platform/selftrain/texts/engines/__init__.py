"""One file an engine that writes texts. This one alone knows which of them a configuration asks for; vLLM on the cluster, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.models.locate import LanguageModel, each_model
from selftrain.runtime.cluster import Needs
from selftrain.texts.engines.base import Engine
from selftrain.texts.engines.resilient import Deployment, ResilientEngine


def on_cluster(config: AugmentConfig) -> bool:
    """Whether the language model, or one of several, runs on the Ray cluster, and not in a server that someone else runs."""
    return config.engines > 0


def engine_needs(config: AugmentConfig, model: LanguageModel | None) -> Needs | None:
    """What the engines ask of the cluster together; None for a run without a language model.

    Args:
        config: of the language model, or of several.
        model: its folder, whose weights are added up, or the name of a model on the hub, whose size is not known; None for no language model.
    """
    if model is None:
        return None
    found = [_needs_of_one(section, one) for section, one in zip(config.language_models, each_model(model), strict=True)]
    claims = tuple(claim for one in found for claim in one.claims)
    return Needs(sum(one.cpus for one in found), sum(one.gpus for one in found), sum(one.memory_gb for one in found), claims)


def _needs_of_one(config: AugmentConfig, model: Path | str) -> Needs:
    if not on_cluster(config):
        from selftrain.texts.engines import openai

        return openai.needs()
    from selftrain.texts.engines import vllm

    return vllm.needs(config, model)


def make_engines(config: AugmentConfig, models: Sequence[str], *, application: str, owner: Any) -> list[Engine]:
    """The engines that `config` asks for, one a language model; they do not start yet. What servers may be paid is theirs together.

    Args:
        config: of the language model, or of several.
        models: of `models.locate.name_on_nodes`, one a language model.
        application: a name that no other run on the cluster uses, and that a restarted service uses again.
        owner: the actor of the text service; the engines end with it.
    """
    from selftrain.texts.engines.spending import Spending

    spending = Spending(config, Path(".selftrain/texts" if "://" in config.cache else config.cache) / "spent" / f"{application}.json")
    names = [f"{application}-{place}" for place in range(len(models))] if config.teachers else [application]
    found: list[Engine] = []
    for section, model, name in zip(config.language_models, models, names, strict=True):
        if on_cluster(section):
            from selftrain.texts.engines.vllm import VllmDeployment

            deployment: Deployment = VllmDeployment(section, model, name, owner, engines=config.engines_at_most)
        else:
            from selftrain.passwords import read_key
            from selftrain.texts.engines.openai import ServerDeployment

            deployment = ServerDeployment(section, spending, read_key(variable=section.key_variable))
        found.append(ResilientEngine(section, model, deployment))
    return found
