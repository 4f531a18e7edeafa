"""What a sweep may ask, and what it is refused, in one sentence each and before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from selftrain.errors import ConfigError, DataError, SelfTrainError
from selftrain.methods.recipe import resolve
from selftrain.sweeps.plan import prepare_sweep
from selftrain.sweeps.reference import shown_value
from selftrain.sweeps.space import Cell, load_space, parse_space

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted((ROOT / "tune_spaces").glob("*.yaml"))


def test_a_grid_is_every_combination(document):
    document["axes"] = {"method.learning_rate": [0.01, 0.1], "method.batch_size": [4, 8, 16]}
    space = parse_space(document)
    assert [setting.values for setting in space.settings()] == [(rate, size) for rate in ("0.01", "0.1") for size in ("4", "8", "16")]
    experiment = space.experiment(space.settings()[4], space.columns[0])
    assert (experiment.method["learning_rate"], experiment.method["batch_size"], experiment.method["rounds"]) == (0.1, 8, 2)
    prepared = prepare_sweep(space)
    assert len(prepared.cells) == 12 and len({cell.fingerprint for cell in prepared.cells}) == 12


def test_named_settings_change_the_method_and_drop_the_options_of_the_other(document):
    document["axes"] = {
        "host": {"alone": {"method": {"name": "ns3l", "rounds": 1}}, "VAT": {"method": {"name": "vat", "radius": 0.2, "rounds": 1}}},
        "method.ns3l_weight": [0.3, 1.0],
    }
    space = parse_space(document)
    settings = space.settings()
    assert [setting.name for setting in settings] == ["alone · 0.3", "alone · 1", "VAT · 0.3", "VAT · 1"]
    method = space.experiment(settings[2], space.columns[0]).method
    assert method == {"name": "vat", "radius": 0.2, "rounds": 1, "ns3l_weight": 0.3}


def test_datasets_are_columns(document, tmp_path):
    document["datasets"] = {"few": {"labels_per_class": 2}, "more": {"labels_per_class": 8}}
    space = parse_space(document)
    assert space.columns == ("few", "more")
    assert [space.experiment(space.settings()[0], column).data.labels_per_class for column in space.columns] == [2, 8]
    cells = prepare_sweep(space).cells
    assert {cell.data for cell in cells} == {cells[0].data}  # the same documents: read once


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"axes": {"method.learning_rat": [1.0]}}, "Unknown axis 'method.learning_rat'.*did you mean 'learning_rate'"),
        ({"axes": {"dat.source": ["x"]}}, "Unknown axis 'dat.source'.*did you mean 'data'"),
        ({"axes": {"model.max_token": [8]}}, "Unknown axis 'model.max_token'.*did you mean 'max_tokens'"),
        ({"axes": {}}, "axes in the sweep"),
        ({"axes": {"method.learning_rate": []}}, "'method.learning_rate' must have at least one value"),
        ({"axes": {"method.learning_rate": [0.1, -1.0]}}, "learning_rate of cross_entropy.*given: -1.0"),
        ({"axes": {"method.learning_rate": {"low": 0.1, "high": 1.0}}}, "is a range and a grid needs values"),
        ({"axes": {"method.learning_rate": [0.1, 0.1]}}, "have the same name"),
        ({"seeds": []}, "seeds in the sweep"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"metric": "speed"}, "metric in the sweep"),
        ({"sedes": [1]}, "Unknown key 'sedes'.*did you mean 'seeds'"),
        ({"axes": {"data.test_documents": [10, 20]}}, "the axis changes the test documents"),
        ({"axes": {"data.supervision": ["few", "none"]}}, "at none on .*needs labels"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(document, tmp_path, changes, sentence):
    with pytest.raises(SelfTrainError, match=sentence):
        prepare_sweep(parse_space({**document, **changes}))
    assert not (tmp_path / "runs").exists() and not (tmp_path / "mlflow.db").exists()


def test_without_labeled_test_documents_there_is_no_table(document, tmp_path):
    rows = tmp_path / "unlabeled.csv"
    rows.write_text("text\n" + "\n".join(f"a short text about team {number}" for number in range(60)))
    document["base"]["data"] = {"source": str(rows), "classes": ["a", "b"]}
    with pytest.raises(ConfigError, match="no labeled test documents"):
        prepare_sweep(parse_space(document))


def test_the_methods_own_conditions_are_checked(document):
    # tau <= 0, and a threshold that is not below one over the number of classes (two here).
    document["axes"] = {"method.tau": [0.1, 0.0]}
    document["base"]["method"] = {"name": "genco", "input_augmentation": False, "conditional_augmentation": False}
    with pytest.raises(SelfTrainError, match=r"method\.tau of genco"):
        prepare_sweep(parse_space(document))
    document["axes"] = {"method.ns3l_threshold": [0.1, 0.5]}
    document["base"]["method"] = {"name": "ns3l"}
    with pytest.raises(SelfTrainError, match=r"toy at 0\.5 on .*must be below 1/2"), pytest.warns(UserWarning, match="two classes"):
        prepare_sweep(parse_space(document))


def test_texts_without_a_language_model_are_refused(document):
    document["base"]["method"] = {"name": "genco"}
    document["axes"] = {"method.tau": [0.1, 0.5]}
    with pytest.raises(SelfTrainError, match=r"at 0\.1 on .*augment\.model is not set"):
        prepare_sweep(parse_space(document))


def test_small_is_laid_over_the_base_and_takes_the_place_of_the_rest(document, tmp_path):
    document["small"] = {"base": {"method": {"rounds": 1}}, "seeds": [7], "axes": {"method.learning_rate": [0.5]}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))
    full, small = load_space(tmp_path / "toy.yaml"), load_space(tmp_path / "toy.yaml", small=True)
    assert (full.seeds, small.seeds) == ((0, 1), (7,))
    experiment = small.experiment(small.settings()[0], small.columns[0])
    assert (experiment.method["rounds"], experiment.method["steps_per_round"], experiment.method["learning_rate"]) == (1, 3, 0.5)
    assert full.fingerprint() != small.fingerprint() and small.fingerprint() == parse_space(yaml.safe_load(small.to_yaml())).fingerprint()
    with pytest.raises(SelfTrainError, match="No sweep file"):
        load_space(tmp_path / "absent.yaml")


def test_what_every_setting_gets_reaches_those_with_another_method(document, tmp_path):
    """FixMatch was trained for twice the steps of SSC in a table: `small.base` does not reach it."""
    document["axes"] = {"method": {"alone": {}, "long": {"method": {"name": "pi_model", "rounds": 7}}, "other": {"method": {"name": "pi_model"}}}}
    document["small"] = {"every": {"method": {"rounds": 1}}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))

    def rounds(**how):
        space = load_space(tmp_path / "toy.yaml", **how)
        return [space.cell(setting, space.columns[0], 0).recipe.options.rounds for setting in space.settings()]

    assert rounds() == [2, 7, 10] and rounds(small=True) == [1, 7, 1]
    assert rounds(small=True, overrides=["method.rounds=3"]) == [3, 7, 3]
    assert rounds(overrides=["method.rounds=3"]) == [3, 7, 3]
    document["small"] = {"base": {"method": {"rounds": 1}}}
    with pytest.raises(
        SelfTrainError, match=r"small\.base\.method\.rounds of toy does not reach 'other', which has another method; set small\.every"
    ):
        parse_space(document)
    document["small"] = {"base": {"method": {"label_smoothing": 0.1}}}  # no option of the others
    parse_space(document)


def test_a_space_without_changes_of_every_setting_keeps_its_folder(document):
    assert parse_space(document).fingerprint() == parse_space(document | {"every": {}}).fingerprint()
    assert parse_space(document).fingerprint() != parse_space(document | {"every": {"method": {"rounds": 1}}}).fingerprint()


def test_overrides_are_laid_over_the_sweep_and_its_base_in_the_end(document, tmp_path):
    document["small"] = {"base": {"method": {"rounds": 1}}, "seeds": [7]}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))
    overrides = ["seeds=[4, 5]", "method.rounds=9", "data.test_documents=3"]
    space = load_space(tmp_path / "toy.yaml", small=True, overrides=overrides)
    experiment = space.experiment(space.settings()[0], space.columns[0])
    assert space.seeds == (4, 5) and (experiment.method["rounds"], experiment.data.test_documents) == (9, 3)
    assert experiment.method["steps_per_round"] == document["base"]["method"]["steps_per_round"]
    for wrong, why in (
        ("method.learning_rate=1", r"overrides: method\.learning_rate has no effect, every cell sets the axis 'method\.learning_rate'"),
        ("method={name: vat}", "overrides: method has no effect"),
        ("metod.rounds=1", "metod"),
        ("seeds=[1, 1]", "seeds must differ"),
        ("rounds", "not of the form"),
    ):
        with pytest.raises(ConfigError, match=why):
            prepare_sweep(load_space(tmp_path / "toy.yaml", overrides=[wrong]))
    document["axes"] = {"method": {"short": {"method": {"steps_per_round": 2}}}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))
    space = load_space(tmp_path / "toy.yaml", overrides=["method.rounds=9"])
    assert space.experiment(space.settings()[0], space.columns[0]).method["rounds"] == 9


def test_the_base_may_be_a_file(document, tmp_path):
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({**document["base"], "variants": {}}))
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**document, "base": "experiment.yaml"}))
    assert load_space(tmp_path / "toy.yaml").fingerprint() == parse_space({**document, "base": {**document["base"], "variants": {}}}).fingerprint()
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**document, "base": "absent.yaml"}))
    with pytest.raises(ConfigError, match="there is no experiment file"):
        load_space(tmp_path / "toy.yaml")


def test_the_papers_figures_belong_to_rows_and_columns(document, tmp_path):
    document["paper"] = {"source": "a table", "figures": {0.1: {"documents": "1.0"}}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="has a column 'documents'"):
        load_space(tmp_path / "toy.yaml")
    document["paper"]["figures"] = {0.2: {}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=r"has a row '0\.2' that the grid does not have"):
        load_space(tmp_path / "toy.yaml")


def test_a_reference_is_a_row_of_the_table_or_a_value_of_its_axes(document):
    document["axes"]["method"] = {"CE": {}, "pi": {"method": {"name": "pi_model"}}}
    for reference, read in (
        ("0.1 · pi", "0.1 · pi"),
        ({"method": "CE"}, {"method": "CE"}),
        ({"method.learning_rate": 0.1}, {"method.learning_rate": "0.1"}),
    ):
        space = parse_space(document | {"reference": reference})
        assert space.reference == read and space.fingerprint() == parse_space(document).fingerprint(), "no result depends on it"
        assert parse_space(yaml.safe_load(space.to_yaml())).reference == read
    for reference, why in (
        ("0.1 · p", r"^toy: reference names a row '0\.1 · p' that the table does not have; did you mean '0\.1 · pi'\?$"),
        (0.1, r"a row '0\.1' that the table"),
        ({"methods": "CE"}, r"an axis 'methods' that the table does not have; did you mean 'method'\?$"),
        ({"method": "SE"}, r"a value 'SE' that the axis 'method' does not have; did you mean 'CE'\?$"),
        ([1], r"^reference in the sweep: must be a row as the table shows it, or an axis and its value \(got \[1\]\)\.$"),
    ):
        with pytest.raises(ConfigError, match=why):
            parse_space(document | {"reference": reference})
    del document["axes"]["method"]
    assert parse_space(document | {"reference": 0.1}).reference == "0.1"
    document["base"]["data"]["validation_documents"] = 10
    with pytest.raises(ConfigError, match="reference of toy has no effect, a search ranks"):
        parse_space(document | {"reference": 0.1, "search": {"trials": 2}})


def test_a_cells_fingerprint_follows_what_decides_its_result_and_nothing_else(document, tmp_path):
    space = parse_space(document)
    experiment = space.experiment(space.settings()[0], space.columns[0])

    def fingerprint(seed=0, data="d", **changes):
        changed = experiment.model_copy(update={key: getattr(experiment, key).model_copy(update=value) for key, value in changes.items()})
        return Cell("a", "b", seed, changed, resolve(changed), data).fingerprint

    same = fingerprint()
    assert same == fingerprint(model={"cache": "elsewhere"}) == fingerprint(augment={"temperature": 0.1}) == fingerprint(training={"max_failures": 5})
    others = {fingerprint(seed=1), fingerprint(data="e"), fingerprint(model={"max_tokens": 8})}
    assert same not in others and len(others) == 3
    # An option that is written out at its default changes nothing.
    written = experiment.model_copy(update={"method": {**experiment.method, "weight_decay": 0.01}})
    assert Cell("a", "b", 0, written, resolve(written), "d").fingerprint == same


def test_values_as_they_are_shown():
    assert [shown_value(value) for value in (1.0, 0.05, 1e-5, True, None, "mae", 64)] == ["1", "0.05", "1e-05", "true", "none", "mae", "64"]


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_every_space_of_the_repository_is_valid(file):
    for small in (False, True):
        space = load_space(file, small=small)
        assert space.name == file.stem and space.claim and space.reference
        for column in space.columns:
            for setting in space.settings():
                space.cell(setting, column, 0)


def test_an_error_of_a_cell_keeps_its_class(document, monkeypatch):
    def build(*_):
        raise DataError("it does not fit")

    monkeypatch.setattr("selftrain.methods.recipe.Recipe.build", build)
    with pytest.raises(DataError, match=r"^toy at 0\.0001 on .*: it does not fit$"):
        prepare_sweep(parse_space(document))
