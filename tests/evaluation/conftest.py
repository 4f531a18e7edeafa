"""Plausible runs: invented probabilities, measured by the real metrics, in the shape of metrics.json."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from selftrain.evaluation.metrics import evaluate
from selftrain.evaluation.schema import RunMetrics, VariantRow
from selftrain.evaluation.summary import summarise

NAMES = ("business", "entertainment", "politics", "sport", "tech")
VARIANTS = (
    ("zero-shot encoder", "none", 1.0),
    ("self-training (equation 5)", "none", 2.3),
    ("genco without IA", "none", 2.5),
    ("genco without CA", "none", 2.6),
    ("genco", "none", 2.9),
    ("supervised on all labels", "all", 3.6),
)


def class_names(classes: int) -> list[str]:
    return list(NAMES[:classes]) + [f"class number {index}" for index in range(len(NAMES), classes)]


def probabilities(rng: np.random.Generator, labels: np.ndarray, classes: int, skill: float) -> np.ndarray:
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    logits *= 1.5
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def make_metrics(*, classes: int = 5, labeled: bool = True, llm: bool = True, seeds: tuple[int, ...] = (0, 1, 2), documents: int = 300) -> RunMetrics:
    names = class_names(classes)
    rows: list[VariantRow] = []
    for variant, supervision, skill in VARIANTS if labeled else VARIANTS[4:5]:
        for augmented in (False, True) if variant == "genco" and llm else (False,):
            for seed in seeds:
                rng = np.random.default_rng([seed, len(rows)])
                labels = rng.integers(0, classes, documents)
                likely = probabilities(rng, labels, classes, skill + 0.2 * augmented)
                counts = np.bincount(likely.argmax(axis=1), minlength=classes)
                rows.append(
                    VariantRow(
                        variant=variant,
                        seed=seed,
                        inference_augmentation=augmented,
                        supervision=supervision,
                        scores=evaluate(likely, labels, names).to_json() if labeled else None,
                        predicted=dict(zip(names, counts.tolist(), strict=True)),
                        mean_confidence=float(likely.max(axis=1).mean()),
                        train_seconds=41.25 + seed,
                        inference_ms=2.5 + seed,
                        documents=documents,
                    )
                )
    rounds = [
        {
            "variant": variant,
            "seed": seed,
            "round": round_,
            "figures": {"accuracy": 0.8 + 0.02 * skill * round_ / 3 + 0.003 * seed, "documents": 100.0},
        }
        for variant, _, skill in VARIANTS[1:5]
        for seed in seeds
        for round_ in range(1, 6)
    ]
    return {
        "run": {
            "id": "20260301-101500-a1b2c3",
            "name": "bbc_news",
            "folder": "runs/bbc_news-20260301-101500-a1b2c3",
            "command": "selftrain run jobs/experiments/bbc_news.yaml --set seeds=[0,1,2]",
            "started": "2026-03-01T10:15:00+00:00",
            "seconds": 517.3,
            "code_version": "0.1.0+g1a2b3c4",
            "config_fingerprint": "0123456789ab",
            "mlflow_run_id": "f00dcafe",
        },
        "versions": {"selftrain": "0.1.0", "torch": "2.13.0"},
        "asked": {
            "data": "bbc_news",
            "classes": names,
            "encoder": "all-MiniLM-L6-v2",
            "llm": "gemma-3-270m" if llm else None,
            "llm_fingerprint": "beef1234" if llm else None,
            "method": "genco",
            "supervision": "none",
            "seeds": list(seeds),
            "variant": "genco",
        },
        "data": {
            "name": "bbc_news",
            "fingerprint": "5eed5eed",
            "unlabeled": 1225,
            "test": documents,
            "labeled_test": labeled,
            "skipped": {"duplicate": 99, "empty": 2},
            "skipped_rows": [{"row": str(17 * index), "reason": "duplicate"} for index in range(30)],
        },
        "rows": rows,
        "summary": summarise(rows),
        "rounds": rounds if labeled else [],
        "texts": {
            "requested": 2450 if llm else 0,
            "generated": 2100 if llm else 0,
            "cached": 350 if llm else 0,
            "filtered": {"empty": 3, "repeated": 21, "echoes the prompt": 8} if llm else {},
            "prompt_tokens": 201_400 if llm else 0,
            "generated_tokens": 65_120 if llm else 0,
            "seconds": 301.7 if llm else 0.0,
            "tokens_per_second": 215.8 if llm else None,
        },
        "cost": {
            "predicted": {"texts": 2000, "prompt_tokens": 190_000, "generated_tokens": 64_000, "hours": 0.2, "gpu_hours": 0.15}
            | {"money": 1.25, "currency": "EUR", "why": ""},
            "real": {"texts": 2100, "prompt_tokens": 201_400, "generated_tokens": 65_120, "hours": 0.14, "gpu_hours": 0.12}
            | {"money": None, "currency": "EUR", "why": "the price file has no teacher 'writer'"},
        },
        "stages": [
            {"name": "data", "seconds": 0.8, "peak_memory_mb": 612.0},
            {"name": "texts and training", "seconds": 431.0, "peak_memory_mb": 5480.4},
            {"name": "evaluation", "seconds": 44.2, "peak_memory_mb": 1190.0},
        ],
        "bundle": "runs/bbc_news-20260301-101500-a1b2c3/bundle",
        "registered": {"model": "selftrain", "version": "3", "champion": True, "reason": "accuracy 0.934 beats 0.921 of version 2."},
        "serve": ["selftrain serve", 'selftrain predict "Shares rose after the bank\'s results"'],
    }


@pytest.fixture
def example() -> Callable[..., RunMetrics]:
    return make_metrics
