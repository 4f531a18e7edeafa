"""Two nodes, the driver's without a GPU and one with a GPU and a label, both of the real Ray: one card holds an engine and a training worker at the same time.

The GPU is a logical one: Ray counts it, and nothing computes on it. So vLLM is a stub that only starts, and the training loop looks where it runs instead of
training; what Ray is asked for is the code of a run.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from tiny import tiny_language_model

from selftrain.config import AugmentConfig, parse
from selftrain.data.texts import TextRequest
from selftrain.errors import ResourceError
from selftrain.runtime import ray_start
from selftrain.runtime.cluster import needs, session
from selftrain.runtime.devices import alone, decide
from selftrain.runtime.hardware import Node, hardware_of_cluster
from selftrain.sweeps.runner import run_trials
from selftrain.texts.channel import open_texts
from selftrain.texts.engines import engine_needs
from selftrain.training.process_group import OneMachine
from selftrain.training.ray import scaling

pytestmark = pytest.mark.ray

LABELS = {"selftrain/role": "gpus"}
ENGINE = """
from types import SimpleNamespace

class EngineArgs:
    def __init__(self, **_):
        pass

class SamplingParams:
    def __init__(self, **_):
        pass

class LLMEngine:
    from_engine_args = classmethod(lambda cls, args: cls())

    def __init__(self):
        self.waiting = []

    def get_tokenizer(self):
        return SimpleNamespace(bos_token=None)

    def add_request(self, id, prompt, sampling):
        self.waiting.append(id)

    def step(self):
        import ray
        context = ray.get_runtime_context()
        text = f"It ran on {context.get_node_id()} with {context.get_assigned_resources()['GPU']:g} there."
        waiting, self.waiting = self.waiting, []
        return [SimpleNamespace(request_id=id, finished=True, prompt_token_ids=[1], outputs=[SimpleNamespace(text=text, token_ids=[2])]) for id in waiting]
"""


@pytest.fixture(scope="module")
def gpu_node(tmp_path_factory):
    """The id of the node with the GPU; Ray's processes take the stub for vLLM."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("stub")
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text(ENGINE)
    (folder / "vllm" / "sampling_params.py").write_text("class StructuredOutputsParams:\n    pass\n\nclass RequestOutputKind:\n    FINAL_ONLY = 2\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in ray_start._ALONE:  # of a Ray that an earlier test has started
            patch.delenv(name, raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        ray_start._settings_read_again(alone=False)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        cluster.add_node(num_cpus=4, num_gpus=1, labels=LABELS)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU"))
        finally:
            ray.shutdown()
            cluster.shutdown()
    ray_start._settings_read_again(alone=os.environ.get(ray_start._CLUSTERS) == "0")


def there():
    """The cluster, as it would be with packages for GPUs."""
    return replace(hardware_of_cluster(), trains=True, writes=True)


def looking():
    """(what a trial does, what a training worker does): each says where it runs and with how much of a GPU. Made here, so that they are pickled as they are."""

    def where():
        import ray

        context = ray.get_runtime_context()
        return {"node": context.get_node_id(), "gpu": context.get_assigned_resources().get("GPU", 0.0)}

    def loop(config):
        import json
        import time
        from pathlib import Path

        import ray

        end = time.monotonic() + 60
        while (left := ray.available_resources().get("GPU", 0.0)) > 0.001 and time.monotonic() < end:  # Ray says it of other nodes with a delay
            time.sleep(0.1)
        Path(config["file"]).write_text(json.dumps(where() | {"left": left}))

    return lambda config, shared, report: where(), loop


def test_ray_counts_gpus_of_other_nodes_and_their_labels(gpu_node):
    found = hardware_of_cluster()
    assert found.gpus == 1 and found.here == 0
    (node,) = [node for node in found.nodes if node.gpus]
    assert isinstance(node, Node) and LABELS.items() <= node.labels.items()
    # On this machine's packages nothing of it is used, so that all goes on as before there was auto.
    assert alone(AugmentConfig(), found).gpus == 0


def test_one_gpu_holds_an_engine_and_a_worker(gpu_node, corpus, tmp_path):
    import ray.train
    from ray.train.torch import TorchTrainer

    experiment = parse(
        {"augment": {"model": str(tmp_path / "model"), "cache": str(tmp_path / "cache"), "placement": LABELS}, "training": {"placement": LABELS}}
    )
    devices = decide(experiment, there(), engines=1, workers=1)
    model = tiny_language_model(tmp_path / "model")
    request = TextRequest(corpus.unlabeled.ids[0], "input")
    with open_texts(devices.augment(experiment.augment), corpus, model, progress=False) as texts:
        assert texts([request]) == {request: f"It ran on {gpu_node} with 0.6 there."}
        trainer = TorchTrainer(
            looking()[1],
            train_loop_config={"file": str(tmp_path / "seen.json")},
            torch_config=OneMachine(),
            scaling_config=ray.train.ScalingConfig(**scaling(devices.training(experiment.training))),
            run_config=ray.train.RunConfig(name="where", storage_path=str(tmp_path / "results")),
        )
        trainer.fit()
    found = json.loads((tmp_path / "seen.json").read_text())
    assert {key: found[key] for key in ("node", "gpu")} == {"node": gpu_node, "gpu": 0.4}
    assert found["left"] < 0.001  # both held their part at the same time


def test_a_trial_runs_where_it_is_placed_with_its_part(gpu_node, tmp_path):
    results = []
    run_trials(
        looking()[0],
        None,
        lambda config, result: results.append(result),
        configs=[{}],
        at_once=1,
        gpus=0.5,
        placement=LABELS,
    )
    assert results == [{"node": gpu_node, "gpu": 0.5}], results


def test_a_run_asks_for_what_the_cluster_has_and_refuses_what_it_has_not(gpu_node):
    import ray

    address = ray.get_runtime_context().gcs_address
    for document, words in (
        ({"augment": {"gpus": 0.7}, "training": {"gpu": 0.7}}, "needs 1.4 GPUs and the Ray cluster has 1"),
        (
            {"augment": {"gpus": 0, "placement": {"selftrain/role": "none"}}, "training": {"gpu": False}},
            r"augment\.placement asks for a node with the label",
        ),
    ):
        experiment = parse({**document, "ray": {"address": address}})
        with pytest.raises(ResourceError, match=words), session(experiment, needs(experiment, engine_needs(experiment.augment, "a-model"))):
            pass
    experiment = parse({})

    def wanted(found):
        found = replace(found, trains=True, writes=True)
        asked = decide(experiment, found, engines=1, workers=1).experiment(experiment)
        return needs(asked, engine_needs(asked.augment, "a-model"))

    with session(experiment, wanted) as found:
        assert found.gpus == 1
