"""One file a method, and one line here: the registry. A method's name is that of its file.

`method_class` gives the class behind a name, `options_of` validates a `method` section, and methods/recipe.py makes a `Recipe` of an experiment, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from selftrain.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from selftrain.data.corpus import Corpus
    from selftrain.methods.base import Method, Options

_CLASSES = (
    "zero_shot.genco:GenCo",
    "zero_shot.pesco:PESCO",
    "zero_shot.ipet:IPET",
    "zero_shot.lotclass:LOTClass",
    "zero_shot.combined:Combined",
    "zero_shot.binary_relevance:BinaryRelevance",
    "few_labels.ns3l:NS3L",
    "few_labels.ssc:SSC",
    "soft_labels.seal:SEAL",
    "noisy_labels.sungen:SunGen",
    "noisy_labels.zerogen:ZeroGen",
    "noisy_labels.confidence:Confidence",
    "noisy_labels.co_teaching:CoTeaching",
    "noisy_labels.meta_weight_net:MetaWeightNet",
    "noisy_labels.temporal_ensembling:TemporalEnsembling",
    "few_labels.cross_entropy:CrossEntropy",
    "few_labels.pseudo_label:PseudoLabel",
    "few_labels.pi_model:PiModel",
    "few_labels.mean_teacher:MeanTeacher",
    "few_labels.vat:VAT",
    "few_labels.mixmatch:MixMatch",
    "few_labels.fixmatch:FixMatch",
    "few_labels.multimatch:MultiMatch",
    "soft_labels.tf_kd:TFKD",
    "soft_labels.cs_kd:CSKD",
    "soft_labels.ps_kd:PSKD",
    "soft_labels.dlb:DLB",
    "soft_labels.uskd:USKD",
    "candidate_labels.seal_partial:SEALPartial",
    "candidate_labels.proden:PRODEN",
    "candidate_labels.cc:CC",
    "candidate_labels.cavl:CAVL",
    "candidate_labels.valen:VALEN",
    "candidate_labels.idgp:IDGP",
    "candidate_labels.plcr:PLCR",
    "candidate_labels.pico:PiCO",
    "few_labels.supervised:Supervised",
)
METHODS = {path.partition(":")[0].rpartition(".")[2]: f"{__name__}.{path}" for path in _CLASSES}  # name -> module:class, in the order of lists


def method_class(name: str) -> type[Method]:
    """The class of a method; imported only when asked for, since it brings torch along.

    Raises:
        ConfigError: no such method; the message has the nearest name.
    """
    if name not in METHODS:
        raise ConfigError(f"Unknown method {name!r} (method.name); {nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found


def options_of(document: Mapping[str, Any]) -> Options:
    """Validate the `method` section of an experiment.

    Raises:
        ConfigError: an unknown option (the message has the nearest name), or a value out of range.
    """
    cls = method_class(str(document["name"]))
    try:
        return cls.Options.model_validate(dict(document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or cls.name
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"Unknown option method.{key} of {cls.name}; {nearest(key, cls.Options.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"method.{key} of {cls.name}: {message[0].lower()}{message[1:]} (given: {first.get('input')!r}).") from None


def check_kind(name: str, corpus: Corpus) -> None:
    """Raise a `DataError` where the method does not learn from such documents."""
    if corpus.kind not in method_class(name).kinds:
        able = ", ".join(other for other in METHODS if corpus.kind in method_class(other).kinds)
        raise DataError(f"The documents of {corpus.name} are {corpus.kind}s, which the method {name} does not learn from; choose one of {able}.")
