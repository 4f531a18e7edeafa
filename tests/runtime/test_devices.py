"""What `auto` comes to: a table of machines and commands, and what is asked of Ray and of vLLM there. Nothing here starts, and no GPU is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selftrain.config import AugmentConfig, Experiment, TrainingConfig, load, parse
from selftrain.config.hardware import decided
from selftrain.errors import ConfigError, ResourceError
from selftrain.methods.recipe import resolve
from selftrain.runs import plan
from selftrain.runtime import devices as module
from selftrain.runtime.cluster import Needs, needs, requested
from selftrain.runtime.devices import alone, decide, device_here, keep_to_share, serving_options
from selftrain.runtime.hardware import Claim, Hardware, Node, require_room
from selftrain.sweeps.runner import decide_trials, trial_needs, trial_resources
from selftrain.texts.engines import engine_needs
from selftrain.texts.engines.vllm import actor_options, engine_kwargs
from selftrain.training.ray import scaling

ROOT = Path(__file__).resolve().parents[2]
CPU = Hardware((Node(0),))


def machine(gpus: int) -> Hardware:
    """One machine, whose process sees its GPUs."""
    return Hardware((Node(gpus),), here=gpus)


def decided_for(there: Hardware, document: dict | None = None, **counts: int) -> tuple[float, float | None]:
    """(GPUs of an engine, of a worker)."""
    found = decide(parse(document or {}), there, **{"engines": 1, "workers": 1} | counts)
    return found.engine, found.worker


# ---- the table: GPUs of the machine -> what each command asks for


@pytest.mark.parametrize(
    ("gpus", "engine", "memory", "worker"),
    [
        (0, 0, None, {"use_gpu": False}),
        (1, 0.6, 0.54, {"use_gpu": True, "resources_per_worker": {"GPU": 0.4}}),
        (2, 1, 0.8, {"use_gpu": True}),
        (4, 1, None, {"use_gpu": True}),
        (8, 1, None, {"use_gpu": True}),
    ],
)
def test_a_run(gpus, engine, memory, worker):
    found = decide(Experiment(), machine(gpus), engines=1, workers=1)
    augment, training = found.augment(AugmentConfig()), found.training(TrainingConfig())
    assert actor_options(augment)["num_gpus"] == engine
    assert engine_kwargs(augment).get("gpu_memory_utilization") == memory
    assert engine_kwargs(augment).get("tensor_parallel_size") == (1 if gpus else None)
    assert scaling(training) == {"num_workers": 1} | worker


@pytest.mark.parametrize(("gpus", "engine", "trial", "at_once"), [(0, 0, 0, None), (1, 0.6, 0.4, 1), (2, 1, 1, 1), (4, 1, 1, 3), (8, 1, 1, 7)])
def test_a_sweep_of_whole_encoders(gpus, engine, trial, at_once):
    found, trials = decide_trials(Experiment(), machine(gpus), engines=1, at_once=None, light=False)
    assert (found.engine, found.worker, trials) == (engine, trial, at_once)
    assert trial_resources(trial) == ({"CPU": 1, "GPU": trial} if gpus else {"CPU": 1})
    require_room(trial_needs(at_once or 1, found.worker, engine_needs(found.augment(AugmentConfig()), "a-model")).claims, machine(gpus).nodes)


@pytest.mark.parametrize(("gpus", "trial", "at_once"), [(0, 0, None), (1, 0.25, 4), (2, 0.5, 4), (4, 1, 4), (8, 1, 4)])
def test_a_sweep_without_texts_of_four_trials_at_once(gpus, trial, at_once):
    found, trials = decide_trials(Experiment(), machine(gpus), engines=0, at_once=4, light=False)
    assert (found.worker, trials) == (trial, at_once)


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_light_trials_stay_on_the_cores(gpus):
    found, trials = decide_trials(Experiment(), machine(gpus), engines=1, at_once=None, light=True)
    assert (found.engine, found.worker, trials) == (1 if gpus else 0, 0, None)
    asked, trials = decide_trials(parse({"training": {"gpu": True}}), machine(4), engines=0, at_once=None, light=True)
    assert (asked.worker, trials) == (1, 4)  # asked for is asked for


@pytest.mark.parametrize(("gpus", "expected"), [(0, 0), (1, 1), (2, 1), (4, 1), (8, 1)])
def test_generate(gpus, expected):
    found = alone(AugmentConfig(), machine(gpus))
    assert found.gpus == expected
    assert alone(AugmentConfig(replicas=4), machine(gpus)).gpus == {0: 0, 1: 0.25, 2: 0.5}.get(gpus, 1)


def test_engines_that_may_come_share_the_drivers_gpu_too():
    def memory(most):
        return alone(AugmentConfig(most_replicas=most), machine(4)).gpu_memory

    assert (memory(None), memory(3), memory(4)) == (None, None, 0.8)


@pytest.mark.parametrize(("gpus", "one", "four"), [(0, None, None), (1, 1, 0.25), (2, 1, 0.5), (4, 1, 1), (8, 1, 1)])
def test_serve(gpus, one, four):
    def asked(replicas):
        return serving_options("auto", machine(gpus), replicas).get("num_gpus")

    assert (asked(1), asked(4), asked(None)) == (one, four, 0.25 if gpus else None)
    assert serving_options("auto", machine(gpus), 1)["num_cpus"] == 1
    assert serving_options(0.5, machine(gpus), 4) == {"num_cpus": 1, "num_gpus": 0.5} and serving_options(False, machine(gpus), 1) == {"num_cpus": 1}


# ---- several engines and workers


@pytest.mark.parametrize(
    ("gpus", "engines", "workers", "expected"),
    [
        (1, 1, 2, (1, 0)),  # two workers cannot share a card, so the language model gets it
        (1, 2, 1, (0.5, 0)),
        (2, 1, 2, (0.4, 0.6)),
        (2, 2, 1, (0.6, 0.4)),
        (2, 2, 2, (1, 0)),  # both engines could land on one card, and a worker would wait for ever
        (3, 2, 2, (0.4, 0.6)),
        (4, 2, 2, (1, 1)),
        (8, 7, 1, (1, 1)),
        (8, 8, 1, (0.6, 0.4)),
        (8, 0, 8, (0, 1)),
        (8, 0, 9, (0, 0)),
    ],
)
def test_several_engines_and_workers(gpus, engines, workers, expected):
    assert decided_for(machine(gpus), engines=engines, workers=workers) == expected


@pytest.mark.parametrize("nodes", [(Node(0), Node(1)), (Node(0), Node(1), Node(1)), (Node(0), Node(8))])
def test_gpus_of_other_nodes_count(nodes):
    engine, worker = decided_for(Hardware((Node(0), *nodes), here=0))
    assert engine > 0 and worker > 0


def test_an_engine_leaves_memory_to_a_process_that_has_no_card_of_its_own():
    def memory(gpus, **document):
        return decide(parse(document), machine(gpus), engines=1, workers=0).engine_memory

    assert memory(1) == 0.8 and memory(2) is None
    assert memory(1, training={"gpu": False}) is None  # nothing else computes there
    assert decide(Experiment(), replace(machine(1), here=0), engines=1, workers=0).engine_memory is None


# ---- numbers win


def test_numbers_stay():
    assert decided_for(machine(8), {"augment": {"gpus": 4}, "training": {"gpu": True}}) == (4, 1)
    assert decided_for(machine(1), {"augment": {"gpus": 1}}) == (1, 0)
    assert decided_for(machine(2), {"augment": {"gpus": 1}}) == (1, 1)
    assert decided_for(machine(1), {"augment": {"gpus": 0.3}}) == (0.3, 0.7)
    assert decided_for(machine(1), {"training": {"gpu": True}}) == (0, 1)
    assert decided_for(machine(1), {"training": {"gpu": 0.25}}) == (0.75, 0.25)
    assert decided_for(machine(8), {"augment": {"gpus": 0}, "training": {"gpu": False}}) == (0, 0)
    assert decided_for(CPU, {"augment": {"gpus": 2}, "training": {"gpu": True}}) == (2, 1)  # an autoscaler may bring them
    found = decide(parse({"augment": {"gpu_memory": 0.3}}), machine(1), engines=1, workers=1)
    assert engine_kwargs(found.augment(AugmentConfig(gpu_memory=0.3)))["gpu_memory_utilization"] == 0.3
    assert engine_kwargs(AugmentConfig(gpus=4))["tensor_parallel_size"] == 4


@pytest.mark.parametrize("sweeps", [False, True])
def test_packages_for_the_cpu_use_no_gpu(sweeps):
    there = replace(machine(4), trains=False, writes=False)
    found = decide(Experiment(), there, engines=1, workers=1, together=not sweeps)
    assert (found.engine, found.worker) == (0, 0)
    assert ["EXTRA=gpu" in note for note in found.notes] == [True, True]
    assert decide(Experiment(), replace(there, nodes=(Node(0),)), engines=1, workers=1).notes == ()
    assert decided_for(replace(machine(4), writes=False)) == (0, 1)
    assert decided_for(replace(machine(4), trains=False)) == (1, 0)
    assert serving_options("auto", there, 1) == {"num_cpus": 1}


def test_what_finds_no_room_is_said():
    (note,) = decide(Experiment(), machine(1), engines=1, workers=2).notes
    assert note.startswith("Training computes on the CPU: 1 GPU cannot take 2 workers")
    (note,) = decide(parse({"augment": {"placement": {"a": "b"}}}), machine(1), engines=1, workers=1).notes
    assert note.startswith("vLLM computes on the CPU: 1 GPU cannot take 1 engine")
    assert decide(Experiment(), machine(1), engines=1, workers=1).notes == ()
    assert decide(parse({"augment": {"gpus": 0}, "training": {"gpu": False}}), machine(1), engines=1, workers=1).notes == ()


def test_two_workers_of_one_training_share_no_gpu():
    with pytest.raises(ConfigError, match=r"training\.gpu must be more than 0\.5 with training\.workers=2 \(got 0\.5\)") as caught:
        decide(parse({"training": {"gpu": 0.5}}), machine(2), engines=0, workers=2)
    assert caught.value.parameter == "training.gpu"
    assert decide(parse({"training": {"gpu": 0.5}}), machine(2), engines=0, workers=2, together=False).worker == 0.5


def test_a_gpu_of_this_process_is_asked_for_where_there_is_none():
    with pytest.raises(ResourceError, match=r"training\.gpu asks for a GPU, and PyTorch can use none on this machine"):
        decide(parse({"training": {"gpu": True}}), CPU, engines=0, workers=0)
    assert decide(parse({"training": {"gpu": True}, "ray": {"address": "auto"}}), CPU, engines=0, workers=0).worker is None


@pytest.mark.parametrize(
    ("claims", "nodes", "words"),
    [
        ([Claim("augment.gpus", 4)], [Node(2), Node(2)], r"too few GPUs: asked for are 1 x 4 \(augment\.gpus\), and the nodes have 2 \+ 2"),
        ([Claim("training.gpu", 1)] * 2 + [Claim("augment.gpus", 1)], [Node(2)], r"2 x 1 \(training\.gpu\) and 1 x 1 \(augment\.gpus\)"),
        ([Claim("augment.gpus", 0.7)] * 2, [Node(0), Node(1)], "2 x 0.7"),
        ([Claim("augment.gpus", 1)], [Node(0)], "the nodes have none"),
        ([Claim("augment.gpus", 1, {"role": "a"})], [Node(1, {"role": "b"})], r"augment\.placement asks for a node with the label role=a"),
        ([Claim("training.gpu", 0, {"role": "a"})], [Node(1)], r"training\.placement asks for a node with the label role=a"),
        ([Claim("augment.gpus", 1, {"role": "a"})] * 2, [Node(1, {"role": "a"}), Node(1)], "2 x 1"),
    ],
)
def test_too_little_is_one_sentence(claims, nodes, words):
    with pytest.raises(ResourceError, match=words):
        require_room(claims, nodes)


@pytest.mark.parametrize(
    ("claims", "nodes"),
    [
        ([Claim("a", 0.6), Claim("a", 0.4)], [Node(1)]),
        ([Claim("a", 0.4), Claim("a", 4), Claim("a", 0.6)], [Node(1), Node(4)]),
        ([Claim("a", 1, {"role": "a"}), Claim("a", 1)], [Node(1, {"role": "a", "zone": "b"}), Node(1)]),
        ([Claim("a", 0, {"role": "a"})], [Node(0, {"role": "a"})]),
        ([], []),
    ],
)
def test_enough_is_enough(claims, nodes):
    require_room(claims, nodes)


def test_an_undecided_auto_reaches_neither_ray_nor_vllm():
    for ask in (lambda: actor_options(AugmentConfig()), lambda: engine_kwargs(AugmentConfig()), lambda: scaling(TrainingConfig())):
        with pytest.raises(ValueError, match=r"is 'auto'; runtime\.devices\.decide makes a number of it"):
            ask()
    assert decided(True, "training.gpu") == 1.0


# ---- what is asked of Ray, on one machine and of an autoscaler


def test_an_autoscaler_is_asked_for_whole_processes_and_their_labels():
    experiment = parse({"augment": {"gpus": 4, "replicas": 2}, "training": {"gpu": 0.5}})
    assert requested(needs(experiment, engine_needs(experiment.augment, "a-model"))) == {
        "bundles": [{"GPU": 4}, {"GPU": 4}, {"GPU": 0.5}, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}]
    }
    placed = parse({"augment": {"gpus": 1, "placement": {"selftrain/role": "language-model"}}, "training": {"gpu": False}})
    assert requested(needs(placed, engine_needs(placed.augment, "a-model"))) == {
        "bundles": [{"GPU": 1}, {"CPU": 1}, {"CPU": 1}, {"CPU": 1}],
        "bundle_label_selectors": [{"selftrain/role": "language-model"}, {}, {}, {}],
    }


def test_placement_reaches_engines_workers_and_trials():
    placement = {"selftrain/role": "training"}
    assert actor_options(AugmentConfig(gpus=1, placement=placement))["label_selector"] == placement
    assert scaling(TrainingConfig(gpu=False, placement=placement))["label_selector"] == placement
    found = trial_resources(0.5, placement)
    assert (found.bundles, found._kwargs) == ([{"CPU": 1, "GPU": 0.5}], {"bundle_label_selector": [placement]})


def test_placements_on_other_nodes_do_not_compete():
    nodes = (Node(1, {"role": "a"}), Node(1, {"role": "b"}))
    document = {"augment": {"placement": {"role": "a"}}, "training": {"placement": {"role": "b"}}}
    assert decided_for(Hardware(nodes), document) == (1, 1)
    assert decided_for(Hardware(nodes), {**document, "training": {"placement": {"role": "a"}}}) == (0.6, 0.4)
    assert decided_for(Hardware(nodes), {**document, "training": {"placement": {"role": "c"}}}) == (1, 0)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """What `make demo` runs, planned; its language model is not assembled, an empty file of a gibibyte stands for its weights."""
    (tmp_path / "gemma").mkdir()
    with (tmp_path / "gemma" / "model.safetensors").open("wb") as file:
        file.truncate(2**30)  # a hole: no disk is used
    monkeypatch.setattr(plan, "language_model_of", lambda augment: tmp_path / "gemma")
    return plan.prepare(load(ROOT / "jobs" / "experiments" / "bbc_news.yaml"))


def test_the_demo_on_a_machine_with_one_gpu(demo):
    there = machine(1)
    placed = demo.placed(there)
    assert placed.needs.claims == (Claim("augment.gpus", 0.6), Claim("training.gpu", 0.4))
    require_room(placed.needs.claims, there.nodes)
    asked, kwargs = actor_options(placed.augment), engine_kwargs(placed.augment)
    assert (asked["num_cpus"], asked["num_gpus"]) == (1.0, 0.6) and "OMP_NUM_THREADS" not in asked["runtime_env"]["env_vars"]
    assert (kwargs["gpu_memory_utilization"], kwargs["tensor_parallel_size"], kwargs["dtype"]) == (0.54, 1, "auto")
    assert "kv_cache_memory_bytes" not in kwargs and "enforce_eager" not in kwargs and kwargs["max_num_seqs"] == 256
    for variant in placed.variants.values():
        assert scaling(variant.recipe.training) == {"num_workers": 1, "use_gpu": True, "resources_per_worker": {"GPU": 0.4}}
    assert placed.evaluation_gpu == 0.4
    assert placed.experiment == demo.experiment  # what is written down is what was asked for


def test_the_demo_on_a_cpu_asks_for_what_it_did_before_there_was_auto(demo):
    placed, before = demo.placed(CPU), AugmentConfig(**demo.experiment.augment.model_dump() | {"gpus": 0})
    assert placed.needs == Needs(3.0, 0.0, 2.0 + 1.5 + 1.5 + 0.25 + 3.0)
    assert placed.augment == before and placed.notes == () and placed.evaluation_gpu is False
    assert {**actor_options(placed.augment), "runtime_env": {}} == {"num_cpus": 1.0, "num_gpus": 0, "runtime_env": {}}
    kwargs = engine_kwargs(placed.augment)
    assert kwargs["enforce_eager"] is True and kwargs["kv_cache_memory_bytes"] == 2**28 and kwargs["max_num_seqs"] == 64
    assert {"tensor_parallel_size", "gpu_memory_utilization"}.isdisjoint(kwargs)
    for variant in placed.variants.values():
        assert scaling(variant.recipe.training) == {"num_workers": 1, "use_gpu": False}
    assert requested(placed.needs) == {"bundles": [{"CPU": 1}] * 3}


# ---- PyTorch in this process


def test_the_device_of_this_process(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device_here(gpu) for gpu in ("auto", True, 0.4, False, 0)] == ["cuda:1"] * 3 + ["cpu"] * 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [device_here(gpu) for gpu in ("auto", True, 0.4, False)] == ["cpu"] * 4


def test_a_part_of_a_card_is_a_part_of_its_memory(monkeypatch):
    bounds = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", lambda *given: bounds.append(given))
    for gpu, device in ((0.4, "cuda:0"), (True, "cuda:0"), ("auto", "cuda:0"), (False, "cpu"), (0.4, "cpu")):
        keep_to_share(gpu, device)
    ((fraction, device),) = bounds
    assert (round(fraction, 6), device) == (0.36, "cuda:0")
    assert all(sum(pair) <= 1 for pair in module._SHARED)


def cluster(nodes: int, cpus: float, gpus: float = 0.0) -> Hardware:
    return Hardware((Node(gpus, cpus=cpus),) * nodes, trains=bool(gpus), writes=bool(gpus))


@pytest.mark.parametrize(
    ("there", "changes", "asked", "at_once"),
    [
        (cluster(3, 4), {}, None, 4),  # ten CPUs beside the driver's and the engine's: room for all four
        (cluster(1, 4), {}, None, 2),
        (cluster(3, 4), {"training": {"workers": 3}}, None, 3),
        (cluster(1, 2), {}, None, 1),  # at least one: what is missing is said by what the run needs
        (cluster(3, 4), {"ray": {"address": None}}, None, 1),  # this machine's cores are one training's
        (cluster(1, 2), {"ray": {"address": None}}, 3, 3),
        (cluster(3, 4), {}, 9, 4),  # more than there are to do
        (cluster(3, 4), {"model": {"train": "head"}}, None, 4),  # heads train in actors
        (cluster(3, 4), {"model": {"train": "head"}, "training": {"threads": 4}}, None, 2),
        (cluster(3, 4), {"model": {"train": "head"}}, 3, 3),
        (cluster(3, 4), {"model": {"train": "head"}, "ray": {"address": None}}, None, 1),
        (cluster(2, 8, 2), {"model": {"train": "head"}, "training": {"gpu": True}}, None, 3),  # one of four cards writes
        (cluster(3, 4), {"method": {"name": "genco", "rounds": 0}}, None, 1),
        (cluster(2, 8, 2), {"augment": {"model": "gemma-3-270m", "gpus": 1}, "training": {"gpu": True}}, None, 3),  # one of four cards writes
        (cluster(2, 8, 2), {"augment": {"model": "gemma-3-270m", "gpus": 2}, "training": {"gpu": 0.5}}, None, 4),
        (cluster(2, 8, 1), {"augment": {"model": "gemma-3-270m", "gpus": 1}, "training": {"gpu": True}}, None, 1),
    ],
)
def test_as_many_trainings_at_once_as_a_cluster_has_room_for(demo, there, changes, asked, at_once):
    experiment = parse({**demo.experiment.model_dump(mode="json"), "seeds": [0, 1, 2, 3], "ray": {"address": "auto"}, "variants": {}, **changes})
    variant = replace(demo.main, experiment=experiment, recipe=resolve(experiment))
    found = replace(demo, experiment=experiment, variants={"genco": variant}).placed(there, asked)
    assert found.at_once == at_once
