"""The speed of a variant is measured once, whatever number of seeds it has."""

from __future__ import annotations

from light_runs import described

from selftrain.runs import rows
from selftrain.runs import run as story


def test_the_speed_of_a_variant_is_measured_with_its_first_seed_alone(home, monkeypatch):
    asked = []
    monkeypatch.setattr(rows, "inference_ms", lambda student, documents: (asked.append(len(documents)), 2.5)[1])
    metrics = story.run(described(home, "head", seeds=[0, 1, 2], variants={"fixmatch": {"method": {"name": "fixmatch", "rounds": 1}}})).metrics
    assert len(asked) == 2
    assert [row["inference_ms"] for row in metrics["rows"]] == [2.5, None, None] * 2
    assert [one["inference_ms"]["mean"] for one in metrics["summary"]] == [2.5, 2.5]
