"""The page of `make bench`: its table is that of its CSV, a question that is asked again replaces its line, and ratios are of pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import program

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def performance(tmp_path, monkeypatch):
    made = program("benchmarks/performance.py")
    monkeypatch.setattr(made, "RESULTS", tmp_path / "performance.csv")
    monkeypatch.setattr(made, "PAGE", tmp_path / "performance.md")
    (tmp_path / "performance.md").write_text("a\n\n<!-- performance -->\nold\n<!-- end of performance -->\n\nb\n")
    return made


@pytest.fixture
def paired(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield program("benchmarks/paired.py")
    sys.modules.pop("lines", None)


def test_the_page_has_the_lines_of_its_csv_and_every_question_has_a_program():
    made = program("benchmarks/performance.py")
    page, lines = made.PAGE.read_text(encoding="utf-8"), made.read(made.RESULTS)
    assert made.remade(page, lines) == page and lines.keys() <= made.QUESTIONS.keys()
    for name, (file, _) in made.QUESTIONS.items():
        assert f'"{name}"' in (ROOT / "benchmarks" / file).read_text(encoding="utf-8"), name
    for name, line in lines.items():
        assert line["command"].startswith(f"python benchmarks/{made.QUESTIONS[name][0]} --only {name} ")


def test_an_answer_replaces_the_line_of_its_question_alone(performance, paired):
    def line(question, ours):
        return {key: str(value) for key, value in paired.Compared(question, "steps a second", 10, ours, [2.0, 2.0, 2.0]).line("python x").items()}

    performance.write({"seal": line("seal", [1.0, 2.0, 4.0]), "genco": line("genco", [2.0, 2.0, 2.0])})
    performance.write(performance.read(performance.RESULTS) | {"seal": line("seal", [4.0, 4.0, 4.0])})
    found = performance.read(performance.RESULTS)
    assert list(found) == ["genco", "seal"] and [one["ratio"] for one in found.values()] == ["1.000", "0.500"]
    page = performance.PAGE.read_text()
    assert (
        page.startswith("a\n")
        and page.endswith("\nb\n")
        and "old" not in page
        and page.count("**seal**") == 1
        and "| 2.5 | 5 | steps a second | 0.500 |" in page
    )


def test_ratios_are_of_pairs_and_sides_take_turns_to_begin(paired, monkeypatch):
    now, turns = [0.0], []
    monkeypatch.setattr(paired.time, "process_time", lambda: now[0])

    def side(name, seconds):
        def prepared(pair):
            now[0] += 100.0  # is not timed

            def turn():
                turns.append(name)
                now[0] += seconds[pair]

            return turn

        return prepared

    found = paired.compare("x", "items a second", 8, side("ours", [1.0, 2.0, 4.0, 9.0]), side("theirs", [2.0, 2.0, 2.0, 9.0]), 3)
    assert found.ratios == [2.0, 1.0, 0.5]
    assert turns[2:4] == turns[4:6][::-1] and len(turns) == 8
    line = found.line("python x")
    assert (line["ratio"], line["q1"], line["q3"], line["n"], line["ours"], line["theirs"]) == ("1.000", "0.750", "1.500", 3, "4", "4")
