"""The figures of `make mutants`: what counts as noticed, and which explanations are refused."""

from __future__ import annotations

import pytest
from mutation import report
from mutation.report import Mutant, count, read_explanations, refused, wilson, write_explanation


def mutant(number: int, changed: str = "def x_f__mutmut_{}(a):\n    return a - 1\n") -> Mutant:
    return Mutant(
        f"selftrain.files.journal.x_f__mutmut_{number}",
        "selftrain/files/journal.py",
        "def x_f__mutmut_orig(a):\n    return a + 1\n",
        changed.format(number),
    )


def test_a_mutant_is_known_by_its_text_and_not_by_its_number():
    other = mutant(3, "def x_f__mutmut_{}(a):\n    return a * 1\n")
    assert mutant(1).identity == mutant(2).identity != other.identity
    assert mutant(1).change == "- return a + 1\n+ return a - 1"


def test_the_score_leaves_out_explained_mutants_and_those_that_wait():
    changes = [f"def x_f__mutmut_{{}}(a):\n    return a + {number}\n" for number in range(2, 8)]
    mutants = [mutant(number, change) for number, change in enumerate(changes, 1)]
    status = dict(zip((one.name for one in mutants), ["killed", "timeout", "survived", "survived", "unreached", None], strict=True))

    def known(one: Mutant) -> dict[str, str] | None:
        found = status[one.name]
        return {"status": found} if found else None

    explained = {(mutants[3].function, mutants[3].change): "no caller sees it"}
    file, everything = count(mutants, known, explained)
    assert {**file, "file": "all"} == everything
    assert [file[name] for name in ("mutants", "tested", "killed", "timeout", "survived", "unreached", "explained")] == [6, 5, 1, 1, 1, 1, 1]
    assert file["score"] == "50.0"  # two of the four that are tested and not explained
    assert float(file["from"]) < 50.0 < float(file["to"])  # one is not tested: a sample


def test_an_explanation_is_refused_when_a_test_notices_the_mutant_or_it_is_gone():
    survivor, caught = mutant(1), mutant(2, "def x_f__mutmut_{}(a):\n    return a + 2\n")
    status = {survivor.name: {"status": "survived"}, caught.name: {"status": "killed"}}
    explanations = {(one.function, one.change): "why" for one in (survivor, caught)} | {("selftrain.files.journal.x_f", "- gone\n+ went"): "why"}
    noticed, gone = refused([survivor, caught], lambda one: status[one.name], explanations)
    assert noticed.startswith(f"{caught.name}: a test notices it")
    assert gone.startswith("selftrain.files.journal.x_f: there is no such mutant any more")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)", True),
        ("zip(a, b, strict=True)", "zip(a, b, )", True),
        ("zip(a, b, strict=True)", "zip(a, strict=True)", False),
        ('read_text(encoding="utf-8")', "read_text()", True),
        ('a.encode("utf-8")', 'a.encode("UTF-8")', True),
        ('a.encode("utf-8")', 'a.encode("utf-16")', False),
        ("dumps(a, ensure_ascii=False)", "dumps(a, ensure_ascii=None)", True),
        ("dumps(a, ensure_ascii=False)", "dumps(a, ensure_ascii=True)", False),
        ("dumps(a, ensure_ascii=False)", "dumps(a, )", False),
        ("f(a, size=None)", "f(b, size=None)", False),
    ],
)
def test_some_kinds_of_change_make_no_difference_anywhere(before, after, same):
    made = Mutant(
        "selftrain.files.journal.x_f__mutmut_1", "selftrain/files/journal.py", f"def f():\n    return {before}\n", f"def f():\n    return {after}\n"
    )
    assert (made.kind is not None) is same


def test_an_explanation_is_written_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "EXPLANATIONS", tmp_path / "explained")
    write_explanation(mutant(1), "first")
    write_explanation(mutant(1), "better: said again")
    assert read_explanations() == {("selftrain.files.journal.x_f", "- return a + 1\n+ return a - 1"): "better: said again"}


def test_wilsons_interval_of_nine_in_ten():
    assert wilson(9, 10, 1000) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(9, 10, 10) == (0.9, 0.9)
    assert wilson(0, 0, 5) == (0.0, 1.0)
