"""vLLM under Ray Data, started once a run and fed for as long as the run wants texts.

Ray Data's LLM processor starts an engine per execution of a dataset (a minute or more on a CPU), but self-training wants new texts at every refresh. So the
dataset of a run is a stream: its read tasks wait on a queue and yield a row as soon as one is put there, the processor's vLLM actors work on whatever has
arrived, and the answers are consumed as they come. Closing the queue ends the dataset, and with it the engine.

    TextService (a Ray actor) --put--> queue --read tasks--> prompts --> vLLM actors --> iter_batches (the driver) --> TextService

All of it is public Ray API. Three settings matter, each found by its absence: blocks of one row (`target_max_block_size`), or a partly filled block waits for
rows that never come; batches of one row with many in flight, for the same reason (vLLM does the batching); and a stated CPU bundle for the vLLM actor, or
the processor waits for a GPU without an error. A seed per request is not passed on: on CPUs it kills the engine.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty as LocalEmpty
from queue import Queue as LocalQueue
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from ray.util.queue import Queue

from selftrain.augment.cache import Answer, TextCache
from selftrain.augment.service import Counts, EngineAnswer, EngineRequest, Progress, PromptRequest, TextService
from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.errors import UserError
from selftrain.models.precision import fast_cpu_dtype

READERS = 2  # read tasks; each passes on about five rows a second
READER_CPUS = 0.1
STAGE_CPUS = 0.1


def engine_cpus(config: AugmentConfig) -> float:
    """Logical CPUs that the text pipeline takes while a run lasts."""
    return 1.0 + READERS * READER_CPUS + 3 * STAGE_CPUS


class _QueueSource(Datasource):
    """Read tasks that yield rows of a queue until it says None."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self._queue = queue

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list[ReadTask]:
        queue = self._queue

        def read() -> Iterator[pa.Table]:
            while (row := queue.get(block=True)) is not None:
                yield pa.Table.from_pylist([row])

        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, unknown) for _ in range(READERS)]

    def estimate_inmemory_data_size(self) -> int | None:
        return None


def _before(row: dict[str, Any]) -> dict[str, Any]:
    return {"sampling_params": json.loads(row["sampling"])}


def _before_chat(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": row["prompt"]}], "sampling_params": json.loads(row["sampling"])}


def _after(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": row["key"],
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "generated_tokens": row["num_generated_tokens"],
    }


def _one_schema(row: dict[str, Any]) -> dict[str, Any]:
    """Rows that failed skip `_after` and carry every intermediate column; here they get the same columns as the rest."""
    return {
        "key": row["key"],
        "text": row.get("text", ""),
        "prompt_tokens": int(row.get("prompt_tokens", 0)),
        "generated_tokens": int(row["generated_tokens"]) if isinstance(row.get("generated_tokens"), int) else 0,
        "error": row.get("__inference_error__", ""),
    }


@ray.remote(num_cpus=0, max_calls=1)  # a process of its own that ends: transformers and a large vocabulary take half a gigabyte
def _missing_bos(model_folder: str) -> str:
    """The beginning-of-sequence token if the tokenizer does not add it by itself: one made from a GGUF does not, and Gemma without it repeats itself for ever."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return "" if begins or tokenizer.bos_token is None else str(tokenizer.bos_token)


class StreamingEngine:
    """The `Engine` of a real run, in the process of the service: puts rows on the stream's queue and hears the answers. One `generate` at a time."""

    def __init__(self, config: AugmentConfig, model_folder: str) -> None:
        self.config = config
        self.model_folder = model_folder
        self._wanted = threading.Event()
        self._closed = False
        self._stream: LocalQueue[Queue | UserError] = LocalQueue()
        self._queue: Queue | None = None
        self._answers: LocalQueue[EngineAnswer | UserError] = LocalQueue()
        self._bos = ""

    def generate(self, requests: Sequence[EngineRequest]) -> Iterator[EngineAnswer]:
        """See `Engine.generate`; the stream starts at the first call."""
        if self._queue is None:
            if self.config.style == "continue":
                self._bos = ray.get(_missing_bos.remote(self.model_folder))
            self._wanted.set()
            stream = self._stream.get()
            if isinstance(stream, UserError):
                raise stream
            self._queue = stream
        rows = [{"key": request.key, "prompt": self._bos + request.prompt, "sampling": json.dumps(request.sampling)} for request in requests]
        for start in range(0, len(rows), 256):
            self._queue.put_nowait_batch(rows[start : start + 256])
        waiting = {request.key for request in requests}
        heard = time.monotonic()
        while waiting:
            try:
                answer = self._answers.get(timeout=1.0)
            except LocalEmpty:
                if time.monotonic() - heard > self.config.stall_seconds:
                    raise UserError(
                        f"The language model {self.model_folder} gave no text for {self.config.stall_seconds:.0f} s ({len(waiting)} wanted); see the engine's log "
                        "under Ray's session folder, give it more memory or cores, or raise augment.stall_seconds. What was generated is cached."
                    ) from None
                continue
            if isinstance(answer, UserError):
                raise answer
            heard = time.monotonic()
            if answer.key in waiting:  # a task that Ray retried may answer twice
                waiting.remove(answer.key)
                yield answer

    def wanted(self) -> bool:
        """Waits until the first text is wanted (True) or the run is over (False)."""
        self._wanted.wait()
        return not self._closed

    def connect(self, queue: Queue) -> None:
        """The stream is there; rows go to `queue`."""
        self._stream.put(queue)

    def hear(self, answers: Sequence[EngineAnswer]) -> None:
        """Answers of the stream."""
        for answer in answers:
            self._answers.put(answer)

    def fail(self, reason: str) -> None:
        """The stream ended before its time: an error for the one who waits for a text, now or later."""
        error = UserError(
            f"The language model {self.model_folder} stopped ({reason}); see the engine's log under Ray's session folder. What was generated is cached: "
            "continue the run with --resume, a selftrain generate with the same command."
        )
        self._stream.put(error)
        self._answers.put(error)

    def close(self) -> None:
        """End the stream, and with it the vLLM actors."""
        self._closed = True
        self._wanted.set()
        if self._queue is not None:
            for _ in range(READERS):
                self._queue.put(None)


def _dataset(config: AugmentConfig, model_folder: str, queue: Queue) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = (
        -1
    )  # by default a stream that nobody wants a text of for half an hour is ended; `stall_seconds` watches it here
    # One process a stage keeps up with an engine on a CPU, and each costs memory; a GPU wants more.
    stages: dict[str, Any] = {"num_cpus": STAGE_CPUS, "compute": ray.data.TaskPoolStrategy(size=1 if config.gpus == 0 else 8)}
    chat = config.style == "instruct"
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=model_folder,
            engine_kwargs=engine_kwargs(config),
            placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 0}} if config.gpus == 0 else None,
            concurrency=1,
            batch_size=1,
            max_concurrent_batches=config.concurrent_requests,
            max_tasks_in_flight_per_actor=config.concurrent_requests,
            chat_template_stage={"enabled": True, "batch_size": 1, "num_cpus": STAGE_CPUS} if chat else False,
            tokenize_stage=False,
            detokenize_stage=False,
            should_continue_on_error=True,
            log_engine_metrics=False,
            runtime_env={"env_vars": engine_environment(config)},
        ),
        preprocess=_before_chat if chat else _before,
        postprocess=_after,
        preprocess_map_kwargs={"num_cpus": READER_CPUS},  # as the read tasks, so that Ray Data runs both in one process
        postprocess_map_kwargs=stages,
    )
    source = ray.data.read_datasource(_QueueSource(queue), num_cpus=READER_CPUS, override_num_blocks=READERS)
    return processor(source).map(_one_schema, **stages)


def engine_kwargs(config: AugmentConfig) -> dict[str, Any]:
    """What vLLM is started with."""
    kwargs: dict[str, Any] = {
        "dtype": resolve_dtype(config),
        "max_model_len": config.max_model_tokens,
        "max_num_seqs": config.concurrent_requests,
        "seed": config.engine_seed,
        "enable_prefix_caching": True,  # the samples of a document share its prompt
    }
    if config.gpus == 0:
        kwargs["enforce_eager"] = True  # compiling takes longer than a small run generates
        kwargs["kv_cache_memory_bytes"] = int(config.engine_memory_gb * 2**30)
    else:
        kwargs["tensor_parallel_size"] = config.gpus
    return kwargs


def engine_environment(config: AugmentConfig) -> dict[str, str]:
    """Environment of the vLLM processes; threads are bound by hand, since vLLM's `auto` leaves cores of a small machine idle.

    On a CPU the engine core runs the model itself: a worker process of its own costs 0.7 GB and wins nothing. vLLM allows that with
    VLLM_ENABLE_V1_MULTIPROCESSING=0 alone, and takes its threads from OMP_NUM_THREADS then (Ray sets that to 1).
    """
    environment = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN") if name in os.environ}
    if config.gpus == 0:
        environment |= {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return environment | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def resolve_dtype(config: AugmentConfig) -> str:
    """`auto` made concrete on a CPU; a GPU's is left to vLLM, which follows the model."""
    return config.dtype if config.dtype != "auto" or config.gpus else fast_cpu_dtype()


@contextmanager
def _quiet() -> Iterator[None]:
    """Building the processor imports vLLM and calls `ray.init` again; what they and Ray Data say of it on the terminal would bury the run's own lines."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of this process alone: Ray's were started before
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.getLogger("ray").setLevel(logging.WARNING)
        for handler in logging.getLogger("ray.data").handlers:
            if type(handler).__name__ != "SessionFileHandler":  # the log of the session keeps everything
                handler.setLevel(logging.ERROR)


def _drive(actor: Any, config: AugmentConfig, model_folder: str) -> None:
    """The stream's other end, a thread of the driver: as in any Ray Data program the driver executes the dataset, here from the first text that is wanted on."""
    try:
        if not ray.get(actor.wanted.remote()):
            return
        queue = Queue(actor_options={"num_cpus": 0})
        with _quiet():
            dataset = _dataset(config, model_folder, queue)
        ray.get(actor.connect.remote(queue))
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            answers = [
                EngineAnswer(row["key"], row["text"], row["prompt_tokens"], row["generated_tokens"], row["error"]) for row in batch.to_pylist()
            ]
            ray.get(actor.hear.remote(answers))
        queue.shutdown()
    except ray.exceptions.RayActorError:  # the service is gone: nobody waits any more
        return
    except BaseException as error:
        with suppress(Exception):
            actor.fail.remote(f"{type(error).__name__}: {error}")  # in words: not every error can be sent


@ray.remote(num_cpus=0, max_concurrency=8)
class _TextActor:
    """`TextService` as a Ray actor on the driver's node, where the cache is; the engine may run anywhere."""

    def __init__(self, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> None:
        from pathlib import Path

        self._engine = StreamingEngine(config, model_folder)
        self._service = TextService(config, corpus, model_fingerprint, TextCache(Path(cache_folder)), self._engine)
        self._one_at_a_time = threading.Lock()

    def answer(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        with self._one_at_a_time:
            return self._service.answer(requests)

    def complete(self, requests: Sequence[PromptRequest]) -> dict[PromptRequest, Answer]:
        with self._one_at_a_time:
            return self._service.complete(requests)

    def progress(self) -> Progress:
        return self._service.progress()

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        return self._service.counts, self._service.examples, self._service.conditional

    def wanted(self) -> bool:
        return self._engine.wanted()

    def connect(self, queue: Queue) -> None:
        self._engine.connect(queue)

    def hear(self, answers: Sequence[EngineAnswer]) -> None:
        self._engine.hear(answers)

    def fail(self, reason: str) -> None:
        self._engine.fail(reason)

    def close(self) -> None:
        self._service.close()


class RemoteTexts:
    """A `TextChannel` to the service of this run; it can be sent to Ray workers. The process that called `start` executes the stream."""

    def __init__(self, actor: Any, stream: threading.Thread | None = None) -> None:
        self._actor = actor
        self._stream = stream

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteTexts, (self._actor,)

    @classmethod
    def start(cls, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> RemoteTexts:
        """Start the service; the engine itself starts when the first text is missing in the cache."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        actor = _TextActor.options(  # type: ignore[attr-defined]
            scheduling_strategy=here
        ).remote(config, corpus, model_folder, model_fingerprint, cache_folder)
        ray.get(actor.progress.remote())
        stream = threading.Thread(target=_drive, args=(actor, config, model_folder), name="selftrain-texts", daemon=True)
        stream.start()
        return cls(actor, stream)

    def __call__(self, requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        """See `TextService.answer`."""
        answers: Mapping[TextRequest, str] = self._asked(self._actor.answer, requests)
        return answers

    def complete(self, requests: Sequence[PromptRequest]) -> Mapping[PromptRequest, Answer]:
        """See `TextService.complete`."""
        answers: Mapping[PromptRequest, Answer] = self._asked(self._actor.complete, requests)
        return answers

    @staticmethod
    def _asked(method: Any, requests: Sequence[Any]) -> Any:
        if not requests:
            return {}
        try:
            return ray.get(method.remote(list(requests)))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise

    def progress(self) -> Progress | None:
        """Where the present request stands; None if the service is gone."""
        try:
            result: Progress = ray.get(self._actor.progress.remote())
        except ray.exceptions.RayError:
            return None
        return result

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        """Counts, examples for the report, and (class, conditional text) pairs so far."""
        result: tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]] = ray.get(self._actor.summary.remote())
        return result

    def close(self) -> None:
        """End engine and service."""
        ray.get(self._actor.close.remote())
        if self._stream is not None:
            self._stream.join(timeout=60)
        ray.kill(self._actor)
