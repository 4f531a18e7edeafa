"""A look as Prometheus figures: the text format, for the textfile collector of the node exporter."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from selftrain.evaluation.drift.look import Look


def exposition(look: Look, model: str, now: float) -> bytes:
    """The figures.

    Args:
        look: what was seen.
        model: name of the bundle.
        now: seconds since 1970.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"selftrain_watch_{name}", text, ["model", *labels], registry=registry)

    gauge("alarm", "1 from the first alarm on, until the change is accepted").labels(model).set(float(look.alarm is not None))
    gauge("texts", "Texts that were looked at").labels(model).set(look.texts)
    gauge("look_timestamp_seconds", "Time of the look").labels(model).set(now)
    evidence = gauge("evidence", "Evidence of a change as a share of an alarm's", "kind")
    for one in look.evidence:
        evidence.labels(model, one.kind).set(one.level)
    if look.described is not None:
        share = gauge("class_share", "Share of a class: of the reference's predictions, and as it is estimated now", "label", "of")
        for of_class in look.described.classes:
            share.labels(model, of_class.name, "reference").set(of_class.before)
            share.labels(model, of_class.name, "seen").set(of_class.estimated)
        confidence = gauge("confidence", "Mean probability of the predicted class", "of")
        for of, value in zip(("reference", "seen"), look.described.confidence, strict=True):
            confidence.labels(model, of).set(value)
        gauge("far_share", "Share of texts that are farther from known ones than 99 % of the reference").labels(model).set(look.described.far)
        gauge("apart", "Area under the curve of a classifier that tells seen texts from the reference").labels(model).set(look.described.apart)
    return generate_latest(registry)
