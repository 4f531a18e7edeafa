"""The experiment document: what is read, and the one sentence that every mistake gets."""

import pytest
import yaml

from selftrain.config import Experiment, load, merge, parse
from selftrain.errors import ConfigError


def write(folder, text):
    file = folder / "experiment.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_alone_are_an_experiment():
    assert load() == Experiment()
    assert load().method == {"name": "genco"}


def test_overrides_win_over_flags_over_the_file(tmp_path):
    file = write(tmp_path, "model: {max_tokens: 32, batch_size: 8}\nname: a")
    found = load(file, ["model.max_tokens=99", "method.tau=1e-2", "seeds=[1, 2]"], {"model": {"max_tokens": 50, "scale": 3}})
    assert (found.model.max_tokens, found.model.batch_size, found.model.scale) == (99, 8, 3)
    assert found.method == {"name": "genco", "tau": 0.01}
    assert found.seeds == (1, 2)


def test_an_empty_mapping_leaves_out_what_the_file_has_and_any_other_is_laid_over_it(tmp_path):
    file = write(tmp_path, "variants: {a: {method: {tau: 0.5}}, b: {}}\ndata: {descriptions: {x: y}}")
    assert load(file, ["variants={}"]).variants == {} and load(file, ["variants={}"]).data.descriptions == {"x": "y"}
    assert load(file, ["variants={c: {}}"]).variants.keys() == {"a", "b", "c"}
    assert load(file, ["data.descriptions={}"]).data.descriptions == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {sourse: x}", r"Unknown key 'data\.sourse' in .*did you mean 'source'"),
        ("dta: {}", "Unknown key 'dta'.*did you mean 'data'"),
        ("model: {max_tokens: few}", r"model\.max_tokens"),
        ("seeds: [1, 1]", "same seed twice"),
        ("augment: {top_p: 1.5}", r"augment\.top_p.*less than or equal to 1"),
        ("name: a b", "name"),
        ("- a list", "holds a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_gets_one_sentence_that_names_it(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says) as error:
        load(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_no_such_file():
    with pytest.raises(ConfigError, match="No experiment file"):
        load("nowhere.yaml")


def test_an_override_without_equals():
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load(None, ["method.tau"])


def test_merge_changes_neither_side():
    below, above = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(below, above) == {"a": {"b": 1, "c": 2}}
    assert below == {"a": {"b": 1}}
    assert above == {"a": {"c": 2}}


def test_a_variant_keeps_the_rest_and_another_method_starts_from_its_own_defaults():
    experiment = parse(
        {"method": {"tau": 0.5}, "variants": {"ca": {"method": {"conditional_augmentation": False}}, "top": {"method": {"name": "supervised"}}}}
    )
    assert experiment.variant("ca").method == {"name": "genco", "tau": 0.5, "conditional_augmentation": False}
    assert experiment.variant("top").method == {"name": "supervised"}


def test_a_variant_may_not_change_the_language_model():
    with pytest.raises(ConfigError, match=r"variants\.x sets 'augment'"):
        parse({"variants": {"x": {"augment": {}}}}).variant("x")


def test_the_resolved_document_reads_back_as_itself():
    experiment = parse({"method": {"tau": 0.05}, "seeds": [3]})
    assert parse(yaml.safe_load(experiment.to_yaml())) == experiment
    assert parse(yaml.safe_load(experiment.to_yaml())).fingerprint() == experiment.fingerprint()
    assert parse({"seeds": [4]}).fingerprint() != parse({"seeds": [3]}).fingerprint()
