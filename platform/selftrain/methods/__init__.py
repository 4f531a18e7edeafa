"""One file a method. `METHODS` is the whole registry: a new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from selftrain.errors import SelfTrainError, nearest

if TYPE_CHECKING:
    from selftrain.config import Experiment
    from selftrain.data.corpus import Corpus
    from selftrain.methods.base import Method, Options
    from selftrain.models.encoder import Encoder
    from selftrain.models.workers import Workers

METHODS = {
    "genco": "selftrain.methods.zero_shot.genco:GenCo",
    "pesco": "selftrain.methods.zero_shot.pesco:PESCO",
    "ipet": "selftrain.methods.zero_shot.ipet:IPET",
    "lotclass": "selftrain.methods.zero_shot.lotclass:LOTClass",
    "ns3l": "selftrain.methods.few_labels.ns3l:NS3L",
    "ssc": "selftrain.methods.few_labels.ssc:SSC",
    "seal": "selftrain.methods.soft_labels.seal:SEAL",
    "sungen": "selftrain.methods.noisy_labels.sungen:SunGen",
    "zerogen": "selftrain.methods.noisy_labels.zerogen:ZeroGen",
    "confidence": "selftrain.methods.noisy_labels.confidence:Confidence",
    "co_teaching": "selftrain.methods.noisy_labels.co_teaching:CoTeaching",
    "meta_weight_net": "selftrain.methods.noisy_labels.meta_weight_net:MetaWeightNet",
    "temporal_ensembling": "selftrain.methods.noisy_labels.temporal_ensembling:TemporalEnsembling",
    "cross_entropy": "selftrain.methods.few_labels.cross_entropy:CrossEntropy",
    "pseudo_label": "selftrain.methods.few_labels.pseudo_label:PseudoLabel",
    "pi_model": "selftrain.methods.few_labels.pi_model:PiModel",
    "mean_teacher": "selftrain.methods.few_labels.mean_teacher:MeanTeacher",
    "vat": "selftrain.methods.few_labels.vat:VAT",
    "mixmatch": "selftrain.methods.few_labels.mixmatch:MixMatch",
    "fixmatch": "selftrain.methods.few_labels.fixmatch:FixMatch",
    "tf_kd": "selftrain.methods.soft_labels.tf_kd:TFKD",
    "cs_kd": "selftrain.methods.soft_labels.cs_kd:CSKD",
    "ps_kd": "selftrain.methods.soft_labels.ps_kd:PSKD",
    "dlb": "selftrain.methods.soft_labels.dlb:DLB",
    "uskd": "selftrain.methods.soft_labels.uskd:USKD",
    "seal_partial": "selftrain.methods.candidate_labels.seal_partial:SEALPartial",
    "proden": "selftrain.methods.candidate_labels.proden:PRODEN",
    "cc": "selftrain.methods.candidate_labels.cc:CC",
    "cavl": "selftrain.methods.candidate_labels.cavl:CAVL",
    "plcr": "selftrain.methods.candidate_labels.plcr:PLCR",
    "pico": "selftrain.methods.candidate_labels.pico:PiCO",
    "supervised": "selftrain.methods.few_labels.supervised:Supervised",
}


def method_class(name: str) -> type[Method]:
    """The class of a method; imported only when asked for, since it brings torch along.

    Raises:
        SelfTrainError: no such method; the nearest name is given.
    """
    if name not in METHODS:
        raise SelfTrainError(f"Unknown method {name!r} (method.name); {nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def options_of(document: Mapping[str, Any]) -> Options:
    """Validate the `method` section of an experiment.

    Raises:
        SelfTrainError: an unknown option (the nearest is named), or a value out of range.
    """
    cls = method_class(str(document["name"]))
    try:
        return cls.Options.model_validate(dict(document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or cls.name
        if first["type"] == "extra_forbidden":
            raise SelfTrainError(f"Unknown option method.{key} of {cls.name}; {nearest(key, cls.Options.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise SelfTrainError(f"method.{key} of {cls.name}: {message[0].lower()}{message[1:]} (given: {first.get('input')!r}).") from None


def check_kind(name: str, corpus: Corpus) -> None:
    """Raise a `SelfTrainError` where the method does not learn from such documents."""
    if corpus.kind not in method_class(name).kinds:
        able = ", ".join(other for other in METHODS if corpus.kind in method_class(other).kinds)
        raise SelfTrainError(f"The documents of {corpus.name} are {corpus.kind}s, which the method {name} does not learn from; choose one of {able}.")


def trains(document: Mapping[str, Any]) -> bool:
    """Whether the `method` section trains anything; `rounds: 0` is the encoder as it is, the same for every seed."""
    return bool(getattr(options_of(document), "rounds", 1))


def build(experiment: Experiment, corpus: Corpus, encoder: Encoder, *, workers: Workers | None = None, seed: int = 0) -> Method:
    """The method that `experiment` describes, around `encoder`; one that trains a masked language model opens that instead, on the same device.

    Raises:
        SelfTrainError: what a method lacks: labels, or a masked language model.
    """
    from selftrain.models.workers import Workers as OneWorker

    options = options_of(experiment.method)
    cls = method_class(str(experiment.method["name"]))
    check_kind(cls.name, corpus)
    if cls.masked_lm:
        from selftrain.models.masked import open_masked

        encoder = open_masked(experiment.model, device=str(encoder.device), precision=getattr(encoder, "precision", "float32"))
    return cls(
        options=options,
        corpus=corpus,
        encoder=encoder,
        workers=workers or OneWorker(),
        seed=seed,
        scale=experiment.model.scale if experiment.model.similarity == "cosine" else 1.0,
        input_samples=experiment.augment.input_samples,
        conditional_samples=experiment.augment.conditional_samples,
    )
