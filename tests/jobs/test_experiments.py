"""Every experiment that the repository holds is valid, and has its small twin or is one."""

from pathlib import Path

import pytest

from selftrain import methods
from selftrain.config import load

FOLDER = Path(__file__).parents[2] / "jobs" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_names_methods_and_options_that_there_are(file):
    experiment = load(file)
    for variant in (experiment, *(experiment.variant(name) for name in experiment.variants)):
        methods.options_of(variant.method)
    assert file.read_text().startswith("#"), "a comment says which table it is and what it costs"


def test_the_folder_is_looked_at():
    assert {"bbc_news", "bbc_news_table"} <= {file.stem for file in FILES}
