"""What a run came to, in one document: metrics.json. The report, the table and MLflow have their figures from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selftrain.data.describing import skipped_by_reason
from selftrain.data.supervision import describe_supervision
from selftrain.evaluation.decisions import decisions
from selftrain.evaluation.summary import summarise
from selftrain.runs.context import RunContext
from selftrain.runs.cost import Cost
from selftrain.runs.plan import RunPlan
from selftrain.runs.rows import FIGURES
from selftrain.runs.versions import code_version, versions


def metrics_of(
    context: RunContext,
    rows: Sequence[Any],
    rounds: Sequence[Any],
    texts: Mapping[str, Any],
    cost: Mapping[str, Cost],
    *,
    bundle: Path | None,
    labeled: Path | None,
    registered: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """metrics.json of a run (evaluation/schema.py describes it).

    Args:
        context: of the run.
        rows: its table, one a variant, seed and way of inference.
        rounds: figures a round, of every training.
        texts: counts of the language model's texts.
        cost: `predicted` and `real`.
        bundle: what is served; None of images.
        labeled: labeled.csv, where there are no test documents.
        registered: the version in the registry.
    """
    experiment, corpus, plan = context.plan.experiment, context.corpus, context.plan
    skipped, listed = skipped_by_reason(corpus.skipped)
    return {
        "run": {
            "id": context.folder.name,
            "name": experiment.name,
            "folder": str(context.home.place),
            "command": "\n".join(context.starts.commands),
            "started": context.starts.started,
            "seconds": round(context.starts.seconds, 1),
            "threads": asdict(context.starts.threads),
            "code_version": code_version(),
            "config_fingerprint": experiment.fingerprint(),
            "mlflow_run_id": context.mlflow_id,
        },
        "versions": versions(),
        "asked": {
            "data": experiment.data.source,
            "classes": list(corpus.class_names),
            **({"parents": [list(above) for above in corpus.class_parents]} if corpus.class_parents else {}),
            **({"multi_label": True} if context.multi_label else {}),
            "encoder": experiment.model.encoder,
            "llm": experiment.augment.name if plan.language_model else None,
            "llm_fingerprint": context.llm_fingerprint,
            "method": plan.main.recipe.name,
            "supervision": describe_supervision(experiment.data),
            "seeds": list(experiment.seeds),
            "variant": plan.main_name,
        },
        "data": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "unlabeled": len(corpus.unlabeled),
            "validation": len(corpus.validation),
            "test": len(corpus.test),
            "labeled_test": context.labels is not None or context.memberships is not None,
            "skipped": skipped,
            "skipped_rows": listed,
        },
        "rows": rows,
        "summary": summarise(rows),
        "rounds": rounds,
        "decisions": decisions(rounds),
        "texts": dict(texts),
        "cost": {name: one.to_json() for name, one in cost.items()},
        "stages": context.starts.stages,
        "bundle": context.home.at(bundle.name) if bundle is not None else None,
        "labeled": context.home.at(labeled.name) if labeled is not None else None,
        "registered": registered,
        "serve": _serve_commands(context, bundle, registered),
    }


def _serve_commands(context: RunContext, bundle: Path | None, registered: Mapping[str, Any] | None) -> list[str]:
    if registered and registered["champion"]:
        what = f"--model {context.model_name}"
    elif context.home.address is None and bundle is not None:
        what = f"--bundle {bundle}"
    elif registered:  # a bundle in an object store has no folder to serve
        what = f"--model {context.model_name}@{registered['version']}"
    else:
        return []
    example = json.dumps({"texts": ["your text"]})
    return [f"selftrain serve {what}", f"curl -s http://127.0.0.1:8000/v1/classify -H 'content-type: application/json' -d '{example}'"]


def tags_of(plan: RunPlan) -> dict[str, str]:
    """Tags of the MLflow run."""
    return {
        "selftrain.code_version": code_version(),
        "selftrain.config_fingerprint": plan.experiment.fingerprint(),
        "selftrain.data_fingerprint": plan.corpus.fingerprint,
        "selftrain.language_model": str(plan.experiment.augment.name if plan.language_model else None),
    }


def final_figures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Final figures of the MLflow run, taken from metrics.json: the same numbers everywhere."""
    found: dict[str, float | None] = {"seconds": metrics["run"]["seconds"], "texts_generated": float(metrics["texts"]["generated"])}
    for row in metrics["summary"]:
        name = file_name(row["variant"]) + ("_augmented" if row["inference_augmentation"] else "")
        for figure in (*FIGURES, "micro_f1"):
            if row.get(figure) is not None:
                found[f"{name}.{figure}"] = row[figure]["mean"]
                if row["variant"] == metrics["asked"]["variant"] and not row["inference_augmentation"]:
                    found[figure] = row[figure]["mean"]
    return found


def file_name(name: str) -> str:
    """The name of a variant as part of a file's or a metric's."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
