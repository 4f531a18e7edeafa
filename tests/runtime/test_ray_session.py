"""What a run asks of Ray is added up and compared before anything starts."""

import os

import pytest

from selftrain.config import AugmentConfig, parse
from selftrain.errors import ResourceError, ServiceError
from selftrain.runtime.cluster import Needs, _enough, needs, session
from selftrain.texts.engines import engine_needs
from selftrain.texts.engines.vllm import ENGINE_CPUS, ENGINE_GB


def test_needs_of_a_run_without_a_language_model():
    found = needs(parse({"training": {"workers": 3}}), None)
    assert (found.cpus, found.gpus) == (4.0, 0.0)


def test_the_engine_adds_cpus_and_the_memory_of_its_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(4 * 2**30)
    experiment = parse({"augment": {"engine_memory_gb": 3, "gpus": 0}})
    plain, found = needs(experiment, None), needs(experiment, engine_needs(experiment.augment, tmp_path))
    assert found.cpus == plain.cpus + ENGINE_CPUS
    assert found.memory_gb - plain.memory_gb == pytest.approx(1.5 * 4 + 3 + ENGINE_GB)


def test_gpus_of_engine_and_training_add_up(tmp_path):
    experiment = parse({"augment": {"gpus": 2}, "training": {"gpu": True, "workers": 2}})
    found = needs(experiment, engine_needs(experiment.augment, tmp_path))
    assert found.gpus == 4


def test_too_little_is_an_error_with_both_numbers():
    with pytest.raises(ResourceError, match="needs 4 CPUs and the Ray cluster has 2"):
        _enough(Needs(4, 0, 1), {"CPU": 2.0})
    with pytest.raises(ResourceError, match="needs 1 GPUs and the Ray cluster has 0"):
        _enough(Needs(1, 1, 1), {"CPU": 2.0})
    _enough(Needs(2, 0, 1), {"CPU": 2.0})


def test_too_little_memory_is_said_before_ray_starts():
    with pytest.raises(ResourceError, match="needs about 100000"), session(parse({}), Needs(1, 0, 100_000.0)):
        pass


def test_no_cluster_at_the_address():
    experiment = parse({"ray": {"address": "127.0.0.1:1"}})
    with pytest.raises(ServiceError, match=r"ray\.address '127\.0\.0\.1:1': no Ray cluster answers"), session(experiment, Needs(1, 0, 1)):
        pass


def test_engine_settings(monkeypatch):
    from selftrain.texts.engines import vllm
    from selftrain.texts.engines.vllm import engine_environment, engine_kwargs, resolve_dtype

    cpu = AugmentConfig(model="x", dtype="float32", gpus=0)
    assert engine_kwargs(cpu)["enforce_eager"]
    assert "tensor_parallel_size" not in engine_kwargs(cpu)
    assert engine_kwargs(cpu)["kv_cache_memory_bytes"] == 2**28
    assert int(engine_environment(cpu)["OMP_NUM_THREADS"]) == len(os.sched_getaffinity(0))
    monkeypatch.setattr(vllm, "is_alone", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    growing = cpu.model_copy(update={"most_replicas": 4})
    assert engine_environment(growing)["OMP_NUM_THREADS"] == "2"  # of the engines that there may be
    gpu = AugmentConfig(model="x", gpus=2)
    assert engine_kwargs(gpu)["tensor_parallel_size"] == 2
    assert "enforce_eager" not in engine_kwargs(gpu)
    assert "kv_cache_memory_bytes" not in engine_kwargs(gpu)
    assert "OMP_NUM_THREADS" not in engine_environment(gpu)
    assert resolve_dtype(gpu) == "auto"
    assert resolve_dtype(AugmentConfig(gpus=0)) in {"float32", "bfloat16"}
