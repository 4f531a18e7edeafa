"""GPUs and placements as an experiment writes them: `auto`, numbers and parts, and what older files hold."""

from __future__ import annotations

import pytest
import yaml

from selftrain.config import load, parse
from selftrain.errors import ConfigError


def engine(given):
    return parse({"augment": {"gpus": given}}).augment.gpus


def worker(given):
    return parse({"training": {"gpu": given}}).training.gpu


def same(found, expected):
    return found == expected and type(found) is type(expected)


def test_auto_is_the_default():
    assert parse({}).augment.gpus == parse({}).training.gpu == "auto"
    assert parse({}).augment.placement == parse({}).training.placement == {} and parse({}).augment.gpu_memory is None


def test_older_files_mean_what_they_did():
    old = parse(yaml.safe_load("{augment: {gpus: 1}, training: {gpu: true}}"))
    assert same(old.augment.gpus, 1) and old.training.gpu is True
    assert parse(yaml.safe_load(old.to_yaml())) == old
    assert "gpus: 1\n" in old.to_yaml() and "gpu: true\n" in old.to_yaml()  # as before, so that what was written down then is still the same


@pytest.mark.parametrize(("given", "expected"), [("auto", "auto"), (0, 0), (1, 1), (8, 8), (0.5, 0.5), (2.0, 2), ("4", 4), ("0.25", 0.25)])
def test_gpus_of_an_engine(given, expected):
    assert same(engine(given), expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("auto", "auto"), (True, True), (False, False), (0.5, 0.5), (1, True), (0, False), ("true", True), ("False", False), ("0.5", 0.5)],
)
def test_the_gpu_of_a_worker(given, expected):
    assert same(worker(given), expected)


def test_the_command_line_sets_them():
    asked = ["augment.gpus=0.5", "training.gpu=auto", "training.placement={selftrain/role: training}"]
    found = load(None, asked)
    assert (found.augment.gpus, found.training.gpu, found.training.placement) == (0.5, "auto", {"selftrain/role": "training"})


@pytest.mark.parametrize("given", [1.5, -1, "many", None, [1], float("nan"), float("inf"), 2**20])
def test_no_number_of_gpus(given):
    with pytest.raises(
        ConfigError, match=r"^augment\.gpus in the experiment: must be auto, a whole number of GPUs, or a part of one such as 0\.5"
    ) as caught:
        engine(given)
    assert caught.value.parameter == "augment.gpus"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"gpus": 0}, 64),
        ({"gpus": 1}, 256),
        ({"gpus": 0.5}, 256),
        ({"server": "http://127.0.0.1:1/v1", "model": "a"}, 32),
        ({"gpus": 0, "concurrent_requests": 7}, 7),
        ({"gpus": 1, "concurrent_requests": "8"}, 8),
    ],
)
def test_requests_at_once(section, expected):
    assert parse({"augment": section}).augment.requests_at_once == expected


def test_engines_while_prompts_wait_are_no_fewer_than_at_the_start():
    found = parse({"augment": {"model": "a", "replicas": 2, "most_replicas": 5}}).augment
    assert (found.engines, found.engines_at_most) == (2, 5)
    assert parse({"augment": {"model": "a", "replicas": 2}}).augment.engines_at_most == 2
    with pytest.raises(ConfigError, match=r"augment\.most_replicas must be at least augment\.replicas, 3 \(got 2\)"):
        parse({"augment": {"replicas": 3, "most_replicas": 2}})


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "many", None])
def test_no_number_of_requests(given):
    with pytest.raises(ConfigError, match=r"^augment\.concurrent_requests in the experiment: must be auto or a whole number of requests, at least 1"):
        parse({"augment": {"concurrent_requests": given}})


@pytest.mark.parametrize("given", [2, 1.5, -0.1, "yes please", None, {}, float("nan")])
def test_no_gpu_of_a_worker(given):
    with pytest.raises(ConfigError, match=r"^training\.gpu in the experiment: must be auto, true, false, or a part of a GPU such as 0\.5"):
        worker(given)


@pytest.mark.parametrize("given", ["training", {"a": 1}, {"a b": "c"}, {"a": "!b"}, {"a": "in(b, c)"}, {"": "a"}, {"a": ""}, [("a", "b")]])
def test_no_placement(given):
    with pytest.raises(
        ConfigError, match=r"^augment\.placement in the experiment: must be labels of Ray nodes and their values, e\.g\. \{selftrain/role"
    ):
        parse({"augment": {"placement": given}})


@pytest.mark.parametrize("given", [{"selftrain/role": "language-model"}, {"ray.io/accelerator-type": "H100", "zone": "eu-1.a"}, {"a": "b"}])
def test_labels_that_ray_takes_are_taken(given):
    from ray._private.label_utils import validate_label_selector

    assert not validate_label_selector(given)
    assert parse({"training": {"placement": given}}).training.placement == given
