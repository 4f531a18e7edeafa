"""The leaderboard sets only rows side by side that saw the same labels of the same documents."""

from __future__ import annotations

import re

from selftrain.evaluation.leaderboard import PAGE_TITLES, TITLES, entries_of, text_table, to_html


def run(name, rows, *, data="news", fingerprint="f", started="2026-01-01", llm=None):
    def mean(value):
        return None if value is None else {"mean": value, "std": 0.01}

    summary = [
        {
            "variant": variant,
            "inference_augmentation": False,
            "supervision": supervision,
            "bound": False,
            "documents": 100,
            "seeds": 3,
            "accuracy": mean(accuracy),
            "macro_f1": mean(accuracy),
            "ece": mean(0.1),
            "validated": None,
            "mean_confidence": mean(0.5),
            "train_seconds": mean(2.0),
            "inference_ms": mean(0.75),
        }
        for variant, supervision, accuracy in rows
    ]
    return {
        "run": {"id": name, "started": started},
        "asked": {"encoder": "mini", "llm": llm},
        "data": {"name": data, "fingerprint": fingerprint},
        "summary": summary,
        "texts": {"requested": 12},
    }


def test_the_best_is_the_best_of_the_same_supervision_and_documents():
    found = entries_of(
        [
            run("one", [("genco", "none", 0.8), ("zero-shot", "none", 0.7), ("supervised", "all", 0.9)]),
            run("two", [("ns3l", "10 a class", 0.85)], data="other", fingerprint="g"),
        ]
    )
    assert [(entry.data, entry.supervision, entry.method, entry.best) for entry in found] == [
        ("news", "all", "supervised", True),
        ("news", "none", "genco", True),
        ("news", "none", "zero-shot", False),
        ("other", "10 a class", "ns3l", True),
    ]
    text = text_table(found)
    assert text.count(" *") == 3 and "0.800 ± 0.010 *" in text and "10 a class" in text


def test_the_latest_of_the_same_row_counts():
    old, new = run("old", [("genco", "none", 0.9)], started="2026-01-01"), run("new", [("genco", "none", 0.8)], started="2026-02-01")
    (only,) = entries_of([new, old])
    assert only.run == "new"
    assert len(entries_of([old, run("split", [("genco", "none", 0.8)], fingerprint="other split")])) == 2
    assert len(entries_of([old, run("texts", [("genco", "none", 0.8)], llm="gemma")])) == 2


def test_rows_without_scores_stand_last_and_are_not_the_best():
    found = entries_of([run("one", [("a", "none", None), ("b", "none", 0.2)])])
    assert [(entry.method, entry.best) for entry in found] == [("b", True), ("a", False)]
    assert "No finished run" in text_table([])


def test_what_classifying_costs_is_a_column_that_an_older_run_leaves_empty():
    new, old = run("new", [("a", "none", 0.8)]), run("old", [("b", "none", 0.7)])
    del old["summary"][0]["inference_ms"]
    first, second = entries_of([new, old])
    place = TITLES.index("inference (ms)")
    assert (first.cells()[place], second.cells()[place]) == ("0.75 ± 0.01", "–") and second.keys()[place] < first.keys()[place]


def test_the_page_has_a_table_for_each_group_with_the_accuracy_beside_the_method():
    page = to_html(entries_of([run("one", [("genco", "none", 0.8), ("zero-shot", "none", 0.7), ("supervised", "all", 0.9)])]))
    assert page.count("<table") == 2 and re.findall(r"<h[23]>(.*?) <span", page) == ["news", "Labels seen: all", "Labels seen: none"]
    assert re.findall(r'<tr[^>]*><td data-key="(.*?)">', page) == ["supervised", "genco", "zero-shot"]
    assert PAGE_TITLES[:2] == ("method", "accuracy") and set(PAGE_TITLES) | {"data", "supervision", "documents"} == set(TITLES)
    assert page.count('<tr class="best">') == 2
    assert "<table" not in to_html([])


def test_the_page_sorts_by_numbers_and_escapes_names():
    page = to_html(entries_of([run("<b>", [("genco <i>", "none", 0.8)])]))
    assert "<i>" not in page and "genco &lt;i&gt;" in page
    assert len(re.findall(r"<th ", page)) == len(re.findall(r"<td ", page)) == len(PAGE_TITLES) and 'data-key="0.8"' in page
    assert "src=" not in page and "href=" not in page
