import pytest

from selftrain.evaluation.summary import MOST_COMPARED, best, compared, main_row, main_summary, plus_minus, summarise, text_table


def row(variant, seed, accuracy, *, augmented=False, supervision="none", documents=100, **more):
    scores = None if accuracy is None else {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "ece": 0.05}
    return {
        "variant": variant,
        "seed": seed,
        "inference_augmentation": augmented,
        "supervision": supervision,
        "scores": scores,
        "predicted": {},
        "mean_confidence": 0.5 + 0.1 * seed,
        "train_seconds": 10.0,
        "inference_ms": 1.5,
        "documents": documents,
        **more,
    }


ROWS = [
    row("genco", 0, 0.90),
    row("genco", 1, 0.94),
    row("genco", 0, 0.95, augmented=True),
    row("zero-shot", 0, 0.80),
    row("language model", 0, 0.99, documents=20),
    row("supervised", 0, 0.97, supervision="all"),
]


def test_seeds_are_summed_up_by_variant_and_augmentation():
    summary = summarise(ROWS)
    assert [(entry["variant"], entry["inference_augmentation"], entry["seeds"]) for entry in summary[:3]] == [
        ("genco", False, 2),
        ("genco", True, 1),
        ("zero-shot", False, 1),
    ]
    assert summary[0]["accuracy"] == {"mean": pytest.approx(0.92), "std": pytest.approx(0.02 * 2**0.5)}
    assert summary[0]["mean_confidence"]["mean"] == pytest.approx(0.55)
    assert summary[1]["accuracy"] == {"mean": 0.95, "std": None}


def test_best_competes_without_labels_on_all_documents():
    summary = summarise(ROWS)
    assert best(summary) is summary[1]
    assert [entry["bound"] for entry in summary] == [False, False, False, False, True]
    assert best(summarise([row("a", 0, 0.9, bound=True), row("b", 0, 0.8)]))["variant"] == "b"
    assert best(summarise([row("a", 0, None)])) is None
    assert best([]) is None


def test_main_row_is_the_asked_variant_with_plain_inference(example):
    metrics = example()
    assert (main_row(metrics)["variant"], main_row(metrics)["inference_augmentation"], main_row(metrics)["seed"]) == ("genco", False, 0)
    assert main_summary(metrics)["variant"] == "genco"
    del metrics["asked"]["variant"]
    assert main_row(metrics)["variant"] == "zero-shot encoder"
    assert main_row({**metrics, "rows": []}) is None


def test_of_many_variants_plots_show_the_runs_own_and_the_best(example):
    metrics = example()
    assert compared(metrics) == list(dict.fromkeys(row["variant"] for row in metrics["rows"]))
    metrics["rows"] = [row(f"v{index}", 0, accuracy) for index, accuracy in enumerate([0.1, 0.9, 0.2, 0.8, 0.7, 0.3, 0.6, 0.5, 0.4])]
    metrics["summary"], metrics["asked"]["variant"] = summarise(metrics["rows"]), "v0"
    assert compared(metrics) == ["v0", "v1", "v3", "v4", "v6", "v7", "v8"] and len(compared(metrics)) == MOST_COMPARED


def test_plus_minus():
    assert plus_minus({"mean": 0.93449, "std": 0.0031}) == "0.934 ± 0.003"
    assert plus_minus({"mean": 0.5, "std": None}, digits=1) == "0.5"
    assert plus_minus(None) == "–"


def test_table_is_aligned_and_names_the_best():
    lines = text_table(summarise(ROWS)).splitlines()
    assert lines[0].split("  ")[0] == "variant"
    starts = {line.index(text) for line, text in zip(lines[2:7], ["0.920 ±", "0.950", "0.800", "0.990", "0.970"], strict=True)}
    assert starts == {lines[0].index("accuracy")}
    assert lines[3].startswith("genco *") and "augmented" in lines[3]
    assert lines[6].startswith("supervised (bound)")
    assert lines[-1].startswith("* best")


def test_table_without_labels_shows_confidence():
    text = text_table(summarise([row("genco", 0, None), row("genco", 1, None)]))
    assert "mean confidence" in text and "0.550 ± 0.071" in text
    assert "accuracy" not in text and "*" not in text


def test_the_best_on_validation_stands_beside_the_last():
    validation = {"documents": 50, "round": 2, "accuracy": 0.9, "scores": {"accuracy": 0.96}}
    summary = summarise([row("a", 0, 0.9, validation=validation), row("b", 0, 0.8)])
    assert summary[0]["validated"] == {"mean": 0.96, "std": None} and summary[1]["validated"] is None
    table = text_table(summary).splitlines()
    assert table[0].endswith("best on validation") and table[2].endswith("0.960") and table[3].endswith("–")
    assert "validation" not in text_table(summarise([row("b", 0, 0.8)]))
