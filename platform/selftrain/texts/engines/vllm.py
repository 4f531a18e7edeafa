"""The language model as a Ray Serve deployment: vLLM in a replica, which Serve starts, checks and replaces when it dies.

vLLM is imported in the replica alone. On a CPU its engine runs in the replica's own process: one process to start, and none that outlives another.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray import serve

from selftrain.config import AugmentConfig
from selftrain.runtime.ray_start import close_serves_port, is_alone
from selftrain.texts.engines.vllm_options import engine_environment, engine_kwargs

# Serve takes a replica as dead when it misses three checks. On few cores a step of the model may hold up the process that would answer.
CHECK_SECONDS, CHECK_PATIENCE_SECONDS = 2.0, 60.0
_QUIET = {"log_level": "WARNING", "enable_access_log": False}

Written = tuple[str, int, int]  # text, tokens of the prompt, tokens of the text


class Teacher:
    """An engine that ends with the service that asked for it: Serve's applications outlive the program that started them.

    Args:
        config: of the engine.
        model_folder: the model.
        owner: the actor of the text service.
        application: the name of this application.
    """

    def __init__(self, config: AugmentConfig, model_folder: str, owner: Any, application: str) -> None:
        from transformers import AutoTokenizer
        from vllm import EngineArgs, LLMEngine

        if is_alone():
            self._sockets = close_serves_port()
        self._owner = owner
        self._application = application
        self._chat = config.style == "instruct"
        self._tokenizer = AutoTokenizer.from_pretrained(model_folder)
        self._engine = LLMEngine.from_engine_args(EngineArgs(model=model_folder, disable_log_stats=True, **engine_kwargs(config)))
        self._asked: SimpleQueue[tuple[str, dict[str, Any], Future[Written]]] = SimpleQueue()
        self._broken: BaseException | None = None
        threading.Thread(target=self._work, name="selftrain-vllm", daemon=True).start()

    async def begin(self) -> str:
        """What every prompt has to begin with: the beginning-of-sequence token, where the tokenizer does not add it by itself.

        One made from a GGUF does not, and Gemma without it repeats itself for ever.
        """
        if self._chat:  # the template says it
            return ""
        begins = self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return "" if begins or self._tokenizer.bos_token is None else str(self._tokenizer.bos_token)

    async def write(self, prompt: str, sampling: dict[str, Any]) -> Written:
        """Go on with one prompt.

        Raises:
            ValueError: vLLM does not take it, for instance because it is too long.
        """
        if self._chat:
            prompt = self._tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        future: Future[Written] = Future()
        self._asked.put((prompt, sampling, future))
        return await asyncio.wrap_future(future)

    async def check_health(self) -> None:
        """Called by Serve every few seconds: raises when the engine is broken, and ends the application once its owner has died."""
        if self._broken is not None:
            raise RuntimeError(f"the engine failed: {self._broken}") from self._broken
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._owner.__ray_ready__.remote().future()), timeout=CHECK_PATIENCE_SECONDS / 2)
        except ray.exceptions.ActorDiedError:
            await asyncio.to_thread(serve.delete, self._application, _blocking=False)
        except (TimeoutError, ray.exceptions.RayError):
            return  # busy, or being started again

    def _work(self) -> None:
        """The engine's own thread: it takes what is asked between two steps, as vLLM's own loop does."""
        open_: dict[str, Future[Written]] = {}
        number = 0
        try:
            while True:
                number = self._take(open_, number)
                for output in self._engine.step():
                    if output.finished:
                        first = output.outputs[0]
                        open_.pop(output.request_id).set_result((first.text, len(output.prompt_token_ids), len(first.token_ids)))
        except BaseException as error:
            self._broken = error
            for future in open_.values():
                future.set_exception(RuntimeError(f"the engine failed: {type(error).__name__}: {error}"))

    def _take(self, open_: dict[str, Future[Written]], number: int) -> int:
        """Hand what was asked to the engine; with nothing in hand it waits for something."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        while True:
            try:
                prompt, sampling, future = self._asked.get(block=not open_)
            except Empty:
                return number
            number += 1
            given = dict(sampling)
            if (structure := given.pop("structured_outputs", None)) is not None:
                given["structured_outputs"] = StructuredOutputsParams(**structure)
            try:
                self._engine.add_request(str(number), prompt, SamplingParams(**given))
            except (ValueError, TypeError) as error:
                future.set_exception(error)
                continue
            open_[str(number)] = future


def deploy(config: AugmentConfig, model_folder: str, application: str, owner: Any) -> None:
    """Start the application and wait until its engine is ready.

    Raises:
        RuntimeError: Serve gave up; it says why.
    """
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    teacher = serve.deployment(
        name="teacher",
        num_replicas=1,
        ray_actor_options={
            # On a GPU with tensor parallelism vLLM's workers are processes of the replica, which has all the GPUs.
            "num_cpus": 1,
            "num_gpus": config.gpus,
            "runtime_env": {"env_vars": engine_environment(config)},
        },
        max_ongoing_requests=4 * config.concurrent_requests,
        health_check_period_s=CHECK_SECONDS,
        health_check_timeout_s=CHECK_PATIENCE_SECONDS,
        graceful_shutdown_timeout_s=1,
        graceful_shutdown_wait_loop_s=0.1,
        max_constructor_retry_count=3,
    )(Teacher)
    serve.run(teacher.bind(config, model_folder, owner, application), name=application, route_prefix=None, logging_config=_QUIET)
