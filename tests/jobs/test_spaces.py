"""The spaces that the repository holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from settings import check_settings

from selftrain.sweeps.space import load_space

ROOT = Path(__file__).resolve().parents[2]
PAPER = sorted((ROOT / "tune_spaces" / "paper").glob("*.yaml"))


def test_every_space_is_short_and_says_what_it_is():
    for file in (ROOT / "tune_spaces").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# ") and len(text.splitlines()) <= 50, file
        assert yaml.safe_load(text)["small"], file


@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_every_cell_of_a_space_of_a_paper_names_what_there_is(file):
    space, text = load_space(file), file.read_text(encoding="utf-8")
    assert space.reference and space.name == file.stem and text.startswith("# ") and len(text.splitlines()) <= 60
    assert "Differs: " in text or "differs in table" in text
    assert not space.small, "a small form is not what a paper did; tune_spaces/ has those"
    for column in space.columns:
        for setting in space.settings():
            check_settings(space.experiment(setting, column))


@pytest.mark.parametrize(("table", "methods"), [("few_labels", 8), ("candidates", 2)])
def test_methods_that_a_table_compares_are_tuned_alike(table, methods):
    """As many settings, seeds, steps and validation documents each, and the same documents."""
    spaces = [load_space(file) for file in sorted((ROOT / "tune_spaces" / "tuning").glob(f"{table}_*.yaml"))]
    budgets = set()
    for space in spaces:
        assert space.search is not None
        cells = [space.cell(setting, space.columns[0], seed) for setting in space.settings() for seed in space.seeds]
        steps = {cell.recipe.options.rounds * cell.recipe.options.steps_per_round for cell in cells}
        budgets.add((len(space.settings()), space.seeds, space.search, *steps, str(cells[0].experiment.data), str(cells[0].experiment.model)))
    assert len(spaces) == methods and len(budgets) == 1


def test_the_folder_is_looked_at():
    assert {"genco_table_5", "ns3l_figure_3", "seal_table_3_cifar10", "ssc_main", "sungen_table_4"} <= {file.stem for file in PAPER}
