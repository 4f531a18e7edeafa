"""The Prometheus metrics of a replica. Labels are routes, statuses, models and outcomes; nothing of a text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters of one replica, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("selftrain_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "selftrain_request_seconds", "From the first byte of a request to its answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.texts = Counter("selftrain_texts", "Texts by outcome: label, abstain or error", ["model", "outcome"], registry=self.registry)
        self.batch_texts = Histogram(
            "selftrain_batch_texts", "Texts in one batch of the model", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.batch_padding = Histogram(
            "selftrain_batch_padding",
            "Share of a batch's tokens that is padding",
            ["model"],
            buckets=(0, 0.05, 0.1, 0.2, 0.5),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "selftrain_batch_seconds", "Time of one batch in the model", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.continuations = Counter(
            "selftrain_continuations",
            "Continuations of the language model by outcome: used, or why the filter dropped them",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.language_model_seconds = Histogram(
            "selftrain_language_model_seconds", "Time of the language model for one text", buckets=_SECONDS, registry=self.registry
        )
        self.language_model_errors = Counter(
            "selftrain_language_model_errors",
            "Texts or requests that the language model did not continue: unreachable, timeout, status, nonsense, refused (one text) or busy",
            ["reason"],
            registry=self.registry,
        )
        self.reloads = Counter("selftrain_model_reloads", "New champions: swapped or failed", ["model", "outcome"], registry=self.registry)
        self.seen = Counter(
            "selftrain_seen_texts",
            "Answered texts by what became of them for selftrain watch: kept, left_out (others were drawn), or lost (not classified again, or not written)",
            ["model", "outcome"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def watch(self, collector: Collector) -> None:
        """Read `collector` too, whenever the metrics are read."""
        self.registry.register(collector)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def gauge(name: str, text: str, label_names: Iterable[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """A gauge whose values are known now.

    Args:
        name: name of the metric.
        text: its help text.
        label_names: names of its labels.
        rows: (label values, value).
    """
    family = GaugeMetricFamily(name, text, labels=list(label_names))
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
