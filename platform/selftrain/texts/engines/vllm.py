"""vLLM in a replica of Ray Serve, which starts it, checks it and replaces it when it dies.

    _TextActor (channel.py) -> TextService -> ResilientEngine -> VllmDeployment --Serve's handle--> VllmReplica, in a process of its own

vLLM is imported in the replica alone. On a CPU its engine runs in the replica's own process: one process to start, and none that outlives another.
No seed is sent with a request: on a CPU that kills vLLM.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from selftrain.config import AugmentConfig
from selftrain.config.hardware import decided
from selftrain.errors import ProcessDied
from selftrain.models.locate import folder_on_node
from selftrain.runtime.background import Call
from selftrain.runtime.cluster import Needs
from selftrain.runtime.devices import CARD_MEMORY
from selftrain.runtime.hardware import Claim
from selftrain.runtime.ray_start import close_serves_port, is_alone
from selftrain.texts.engines.messages import Answers, Messages
from selftrain.texts.engines.replicas import Replicas
from selftrain.texts.engines.resilient import MAX_DEATHS, POLL_SECONDS, EngineGone, Written, asked_together

ENGINE_GB = 3.0  # vLLM, the text service and Ray Serve's controller, without weights and key-value cache
ENGINE_CPUS = 1.0  # logical CPUs of the replica; on GPUs with tensor parallelism vLLM's workers are its processes
# Serve takes a replica as dead when it misses three checks. On few cores a step of the model may hold up the process that would answer.
CHECK_SECONDS, CHECK_PATIENCE_SECONDS = 2.0, 60.0
# Of engines that become more or fewer. One takes a minute or two to start, so prompts that wait for less are not worth another. Training workers may wait for the
# GPUs of idle ones, which Ray Train does for four minutes at most; Serve hears every ten seconds how many messages are under way, and looks at their mean.
GROW_SECONDS, SHRINK_SECONDS, MEAN_SECONDS = 20.0, 60.0, 15.0
DRAIN_SECONDS = 60.0  # for what an engine is writing that is no longer needed; what takes longer is asked for again
_QUIET = {"log_level": "WARNING", "enable_access_log": False}

_STARTING = threading.Lock()  # Serve cannot make the deployments of two threads at once: it registers modules for pickle, and takes them back

_Answer = Callable[[Written | Exception], None]


def needs(config: AugmentConfig, model: Path | str) -> Needs:
    """What the engines ask of the cluster together; `model` is the language model's folder, or its name on the hub, whose weights are not known."""
    memory, gpus = 0.0, _gpus(config)
    if not gpus:
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 2**30 if isinstance(model, Path) else 0.0
        memory = 1.5 * weights + config.engine_memory_gb + ENGINE_GB
    # Memory is that of this machine, which all engines that may come would share. The rest is asked for at the start.
    claims = (Claim("augment.gpus", gpus, config.placement),) * config.replicas if gpus or config.placement else ()
    return Needs(config.replicas * ENGINE_CPUS, config.replicas * gpus, config.replicas_at_most * memory, claims)


def _gpus(config: AugmentConfig) -> float:
    """GPUs of an engine, once `runtime.devices.decide` has made a number of `auto`."""
    return decided(config.gpus, "augment.gpus")


def engine_kwargs(config: AugmentConfig) -> dict[str, Any]:
    """Arguments of vLLM's engine, on a CPU and on GPUs."""
    kwargs: dict[str, Any] = {
        "dtype": resolve_dtype(config),
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": config.requests_at_once,
        "seed": config.engine_seed,
        "enable_prefix_caching": True,  # the samples of a document share its prompt
        "generation_config": "vllm",  # what a request leaves open is vLLM's neutral value, not the model's own
    }
    gpus = _gpus(config)
    if not gpus:
        kwargs["enforce_eager"] = True  # compiling takes longer than a small run generates
        kwargs["kv_cache_memory_bytes"] = int(config.engine_memory_gb * 2**30)
        return kwargs
    kwargs["tensor_parallel_size"] = max(1, int(gpus))
    if memory := config.gpu_memory or (round(CARD_MEMORY * gpus, 4) if gpus < 1 else None):
        kwargs["gpu_memory_utilization"] = memory
    return kwargs


def actor_options(config: AugmentConfig, engines: int | None = None) -> dict[str, Any]:
    """What a replica asks of Ray; `engines` as in `engine_environment`."""
    environment = engine_environment(config, engines)
    options: dict[str, Any] = {"num_cpus": ENGINE_CPUS, "num_gpus": _gpus(config), "runtime_env": {"env_vars": environment}}
    return options | ({"label_selector": dict(config.placement)} if config.placement else {})


def engine_environment(config: AugmentConfig, engines: int | None = None) -> dict[str, str]:
    """Environment of the vLLM processes; threads are set here, since vLLM's `auto` leaves cores of a small machine idle.

    Ray's state and logs show it, so it must hold no token of a hub.

    On a CPU the engine core runs the model itself: a worker process of its own costs 0.7 GB and gains nothing. vLLM allows that only with
    VLLM_ENABLE_V1_MULTIPROCESSING=0, and then takes its threads from OMP_NUM_THREADS (Ray sets that to 1).

    Args:
        config: of the engine.
        engines: of all language models together, at most; default: those of this one.
    """
    environment = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME") if name in os.environ}
    if not _gpus(config):
        sharing = (engines or config.replicas_at_most) if is_alone() else 1  # a cluster may have a node for each
        environment |= {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // sharing)), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return environment | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def replica_options(config: AugmentConfig) -> dict[str, Any]:
    """How many replicas Serve keeps, what it gives each, and how long one that it ends may go on.

    Serve counts messages, those that wait for a replica included. All but the last ones are of one size, so messages are as good as prompts: one replica is wanted
    for each load of an engine. What no replica takes waits in the text service, where one that comes later finds it.
    """
    load = math.ceil(config.requests_at_once / asked_together(config))  # messages that an engine works on
    if config.replicas_at_most == config.replicas:
        return {"num_replicas": config.replicas, "max_ongoing_requests": 4 * config.requests_at_once, "graceful_shutdown_timeout_s": 1}
    scaling = {
        "min_replicas": config.replicas,
        "max_replicas": config.replicas_at_most,
        "target_ongoing_requests": load,
        "upscale_delay_s": GROW_SECONDS,
        "downscale_delay_s": SHRINK_SECONDS,
        "look_back_period_s": MEAN_SECONDS,
    }
    return {"autoscaling_config": scaling, "max_ongoing_requests": 4 * load, "graceful_shutdown_timeout_s": DRAIN_SECONDS}


def resolve_dtype(config: AugmentConfig) -> str:
    """`auto` made concrete on a CPU; a GPU's is left to vLLM, which follows the model."""
    from selftrain.models.precision import fast_cpu_dtype

    return config.dtype if config.dtype != "auto" or _gpus(config) else fast_cpu_dtype()


class VllmDeployment:
    """The `Deployment` of vLLM by Ray Serve, in the process of the text service.

    Args:
        config: of the engine.
        model: of `models.locate.name_on_nodes`.
        application: a name that no other run on the cluster uses, and that a restarted service uses again.
        owner: the actor of the text service; the application ends with it.
        engines: of all language models together, at most.
    """

    def __init__(self, config: AugmentConfig, model: str, application: str, owner: Any, *, engines: int) -> None:
        import ray

        self._config = config
        self._model = model
        self._application = application
        self._owner = owner
        self._engines = engines
        self._restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._handle: Any = None
        self._messages = Messages(self._ask, asked_together(config))
        self._replicas = Replicas(application, DRAIN_SECONDS if config.replicas_at_most > config.replicas else None)
        self._unreported: list[str] = []  # deaths while the application started

    def start(self) -> None:
        """See `Deployment.start`."""
        from ray import serve

        # A service that was killed and restarted finds the engine of its earlier life.
        if not self._restarted or self._application not in serve.status().applications:
            self._deploy()
        handle = serve.get_app_handle(self._application)
        handle.wait_until_ready.remote().result()
        self._handle = handle.options(stream=True)

    def _deploy(self) -> None:
        run = partial(_run_application, self._config, self._model, self._application, self._owner, self._engines)
        call, over = Call(run, "selftrain-deploy"), False
        deaths: list[str] = []
        while not over and len(deaths) < MAX_DEATHS:
            over = call.ended(POLL_SECONDS)
            deaths += self.deaths()
        if call.failed or len(deaths) >= MAX_DEATHS:
            why = f"its engine {deaths[-1]}" if deaths else " ".join(str(call.failed).split())[-600:]
            self.stop()
            raise ProcessDied(f"The language model {self._model} could not be started: {why}.")
        self._unreported = deaths

    async def complete(self, prompt: str, options: dict[str, Any]) -> Written:
        """See `Deployment.complete`."""
        return await self._messages.ask((prompt, options))

    async def _ask(self, prompts: list[tuple[str, dict[str, Any]]]) -> AsyncIterator[list[tuple[int, Written | Exception]]]:
        from ray.exceptions import OutOfMemoryError, RayActorError
        from ray.serve.exceptions import RayServeException

        try:
            async for portion in self._handle.complete.remote(prompts):
                yield portion
        except (RayActorError, OutOfMemoryError, RayServeException) as error:
            raise EngineGone from error

    def deaths(self) -> list[str]:
        """See `Deployment.deaths`."""
        found, self._unreported = self._unreported, []
        return found + self._replicas.deaths()

    def ready(self) -> bool:
        """See `Deployment.ready`."""
        return self._replicas.ready()

    def waiting(self) -> bool:
        """See `Deployment.waiting`."""
        return self._replicas.waiting()

    def stop(self) -> None:
        """See `Deployment.stop`."""
        from ray import serve

        with suppress(Exception):  # a run that ends may have lost Serve before
            serve.delete(self._application, _blocking=False)
            self._replicas.kill()  # what they still write nobody waits for
            serve.delete(self._application)


class VllmReplica:
    """The process with the model. It ends with the service that owns it: an application of Serve outlives the program that started it.

    Args:
        config: of the engine.
        model: of `models.locate.name_on_nodes`; this node finds its folder.
        owner: the actor of the text service.
        application: the name of this application.
    """

    def __init__(self, config: AugmentConfig, model: str, owner: Any, application: str) -> None:
        if is_alone():
            self._sockets = close_serves_port()
        self._owner = owner
        self._application = application
        self._chat = config.chats
        self._waiting: SimpleQueue[tuple[str, dict[str, Any], _Answer]] = SimpleQueue()
        self._failure: BaseException | None = None
        started: Future[None] = Future()
        arguments = {"model": folder_on_node(model), "disable_log_stats": True, **engine_kwargs(config)}
        threading.Thread(target=self._run_engine, args=(arguments, started), name="selftrain-vllm", daemon=True).start()
        started.result()
        self._tokenizer = self._engine.get_tokenizer()
        self._beginning = self._beginning_of_prompts()

    def _beginning_of_prompts(self) -> str:
        """The beginning-of-sequence token where the tokenizer does not add it: one made from a GGUF does not, and Gemma repeats itself for ever without it."""
        if self._chat or self._tokenizer.bos_token is None:  # a chat template holds it
            return ""
        added = self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return "" if added else str(self._tokenizer.bos_token)

    async def wait_until_ready(self) -> None:
        """Returns as soon as a replica answers."""

    async def complete(self, prompts: Sequence[tuple[str, dict[str, Any]]]) -> AsyncIterator[list[tuple[int, Written | Exception]]]:
        """The completions of prompts with their options, as they are written: (place in `prompts`, text or error); a ValueError where vLLM refuses a prompt."""
        answers: Answers[Written] = Answers()
        for place, (prompt, options) in enumerate(prompts):
            if self._chat:
                prompt = self._tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
            self._waiting.put((f"{self._beginning}{prompt}", options, partial(answers.put, place)))
        async for portion in answers.portions(len(prompts)):
            yield portion

    async def check_health(self) -> None:
        """Serve calls this every few seconds: raises when the engine has failed, and ends the application once its owner has died."""
        import ray
        from ray import serve

        if self._failure is not None:
            raise RuntimeError(f"the engine failed: {self._failure}") from self._failure
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._owner.__ray_ready__.remote().future()), timeout=CHECK_PATIENCE_SECONDS / 2)
        except ray.exceptions.ActorDiedError:
            await asyncio.to_thread(serve.delete, self._application, _blocking=False)
        except (TimeoutError, ray.exceptions.RayError):
            return  # busy, or restarting

    def _run_engine(self, arguments: dict[str, Any], started: Future[None]) -> None:
        """The engine's own thread: it takes new prompts between two steps, as vLLM's own loop does.

        It makes the engine, too. Each thread that computes gets worker threads of its own from OpenMP, and with more of them than there are cores, all go to
        sleep at every barrier instead of waiting for microseconds: on a CPU that cost a seventh of the texts.
        """
        try:
            from vllm import EngineArgs, LLMEngine

            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        running: dict[str, _Answer] = {}
        number = 0
        try:
            while True:
                number = self._add_waiting(running, number)
                for output in self._engine.step():
                    if output.finished:
                        first = output.outputs[0]
                        running.pop(output.request_id)((first.text, len(output.prompt_token_ids), len(first.token_ids)))
        except BaseException as error:
            self._failure = error
            for answer in running.values():
                answer(RuntimeError(f"the engine failed: {type(error).__name__}: {error}"))

    def _add_waiting(self, running: dict[str, _Answer], number: int) -> int:
        """Pass new prompts to the engine, and wait for one where none is running; returns the number of the last one."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        while True:
            try:
                prompt, options, answer = self._waiting.get(block=not running)
            except Empty:
                return number
            number += 1
            try:
                structured = {name: StructuredOutputsParams(**value) for name, value in options.items() if name == "structured_outputs"}
                sampling = SamplingParams(**options | structured, output_kind=RequestOutputKind.FINAL_ONLY)  # nobody reads half a text
                self._engine.add_request(str(number), prompt, sampling)
            except (ValueError, TypeError) as error:
                # vLLM's own classes would have to be imported where they arrive.
                answer((ValueError if isinstance(error, ValueError) else RuntimeError)(str(error)))
                continue
            running[str(number)] = answer


def _run_application(config: AugmentConfig, model: str, application: str, owner: Any, engines: int) -> None:
    """Start the application and wait until its replica is ready.

    Raises:
        RuntimeError: Serve gave up; the message holds the reason.
    """
    from ray import serve

    with _STARTING:
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        deployment = serve.deployment(
            name="vllm",
            ray_actor_options=actor_options(config, engines),
            health_check_period_s=CHECK_SECONDS,
            health_check_timeout_s=CHECK_PATIENCE_SECONDS,
            graceful_shutdown_wait_loop_s=0.1,
            max_constructor_retry_count=3,
            **replica_options(config),
        )(VllmReplica)
        serve.run(deployment.bind(config, model, owner, application), name=application, route_prefix=None, logging_config=_QUIET)
