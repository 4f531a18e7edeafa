"""The speed of a variant is measured once, whatever number of seeds it has; threads are chosen by what else the machine does."""

from __future__ import annotations

import torch
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


def test_a_run_beside_other_work_trains_with_fewer_threads_and_says_so(home, monkeypatch, one_thread, capsys):
    monkeypatch.setattr(story.OtherWork, "busy_cores", lambda others: 99.0)
    experiment = described(home, "head", training={}, method={"name": "cross_entropy", "rounds": 1})
    with_threads = []
    found = story.run(experiment, step_done=lambda *step: with_threads.append(torch.get_num_threads()))
    assert set(with_threads) == {1}
    threads = found.metrics["run"]["threads"]
    assert threads == {"count": 1, "why": threads["why"]} and threads["why"].startswith("other work keeps 99.0 of ")
    assert f"threads chosen count=1 why={threads['why']}" in capsys.readouterr().err
    assert f"1 ({threads['why']})" in (found.folder / "report.html").read_text(encoding="utf-8")
