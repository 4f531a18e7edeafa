"""Every experiment that the repository holds is valid; those of paper/ are what the papers did, and no other file says so of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from settings import check_settings

from selftrain import methods
from selftrain.config import load
from selftrain.texts.prompts import framed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "jobs" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
PAPER = sorted((FOLDER / "paper").glob("*.yaml"))


def ids(file: Path) -> str:
    return file.stem


@pytest.mark.parametrize("file", [*FILES, *PAPER], ids=ids)
def test_an_experiment_names_methods_and_options_that_there_are(file):
    experiment = load(file)
    for variant in (experiment, *(experiment.variant(name) for name in experiment.variants)):
        methods.options_of(variant.method)
    assert file.read_text().startswith("#"), "a comment says which table it is and what it costs"


@pytest.mark.parametrize("file", PAPER, ids=ids)
def test_an_experiment_of_a_paper_names_data_and_encoders_that_there_are_and_says_what_differs(file):
    experiment = load(file)
    assert experiment.name == file.stem
    for variant in (experiment, *(experiment.variant(name) for name in experiment.variants)):
        check_settings(variant)
        assert variant.training.gpu is True and variant.training.precision == "float32"
    head = file.read_text().split("\nname:")[0]
    assert "Differs: " in head and re.search(r"(table|figure)s? \d", head)


def test_the_folder_is_looked_at():
    assert {"bbc_news", "bbc_news_table"} <= {file.stem for file in FILES}
    assert {"genco_table_2_ag_news", "ns3l_table_6", "seal_tables_1_2_cifar10"} <= {file.stem for file in PAPER}


def test_a_name_that_is_not_there_would_be_seen():
    experiment = load(FOLDER / "paper" / "genco_table_2_ag_news.yaml", ["variants={}"])
    for section, wrong in (("data", {"source": "ag_newz"}), ("data", {"descriptions": {"sprots": "x"}}), ("model", {"encoder": "a/b/c"})):
        part = getattr(experiment, section).model_copy(update=wrong)
        with pytest.raises((AssertionError, KeyError)):
            check_settings(experiment.model_copy(update={section: part}))


def test_settings_are_called_the_papers_below_paper_alone():
    """Two files elsewhere once said so, and were not."""
    said = re.compile(r"\bpapers?['’]s?\s+(?:full\s+|own\s+)?settings?\b|settings?\s+of\s+the\s+papers?\b", re.I)
    places = [ROOT / "README.md", *(file for folder in ("docs", "jobs", "tune_spaces") for file in sorted((ROOT / folder).rglob("*")))]
    found = [
        str(file.relative_to(ROOT))
        for file in places
        if file.suffix in (".md", ".yaml", ".py") and "paper" not in (file.parent.name, file.stem) and said.search(file.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert said.search("at the papers' settings") and said.search("the paper's full settings")


@pytest.mark.parametrize("file", [file for file in PAPER if file.stem.startswith("genco")], ids=ids)
def test_alpaca_is_asked_in_the_frame_of_table_4(file):
    config = load(file).augment
    assert framed("Elaborate the text in a few sentences.", "A goal.\n\nAnother.", config).splitlines() == [
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately "
        "completes the request.",
        "",
        "### Instruction:",
        "Elaborate the text in a few sentences.",
        "",
        "### Input:",
        "A goal.",
        "",
        "Another.",
        "",
        "### Response:",
    ]
    assert not config.chats
