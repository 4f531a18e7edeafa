"""vLLM under Ray Data, started once a run and fed for as long as the run wants texts.

Ray Data's LLM processor starts an engine per execution of a dataset (a minute or more on a CPU), but self-training wants new texts at every refresh. So the
dataset of a run is a stream: its read tasks wait on a queue and yield a row as soon as one is put there, the processor's vLLM actors work on whatever has
arrived, and the answers are consumed as they come. Closing the queue ends the dataset, and with it the engine.

    TextService (a Ray actor) --put--> queue --read tasks--> prompts --> vLLM actors --> iter_batches --> TextService

All of it is public Ray API. Three settings matter, each found by its absence: blocks of one row (`target_max_block_size`), or a partly filled block waits for
rows that never come; batches of one row with many in flight, for the same reason (vLLM does the batching); and a stated CPU bundle for the vLLM actor, or
the processor waits for a GPU without an error. A seed per request is not passed on: on CPUs it kills the engine.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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

from selftrain.augment.cache import TextCache
from selftrain.augment.service import Counts, EngineAnswer, EngineRequest, Progress, TextService
from selftrain.config import AugmentConfig
from selftrain.data.corpus import Corpus
from selftrain.data.texts import TextRequest
from selftrain.errors import UserError

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


class StreamingEngine:
    """The `Engine` of a real run. Not thread-safe: one `generate` at a time."""

    def __init__(self, config: AugmentConfig, model_folder: str) -> None:
        self.config = config
        self.model_folder = model_folder
        self._queue: Queue | None = None
        self._answers: LocalQueue[EngineAnswer | BaseException] = LocalQueue()
        self._thread: threading.Thread | None = None
        self._bos = ""

    def generate(self, requests: Sequence[EngineRequest]) -> Iterator[EngineAnswer]:
        """See `Engine.generate`; the engine starts at the first call."""
        if self._thread is None:
            self._start()
        assert self._queue is not None
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
            if isinstance(answer, BaseException):
                raise answer
            heard = time.monotonic()
            if answer.key in waiting:  # a task that Ray retried may answer twice
                waiting.remove(answer.key)
                yield answer

    def close(self) -> None:
        """End the stream, the vLLM actors and the queue."""
        if self._queue is None or self._thread is None:
            return
        for _ in range(READERS):
            self._queue.put(None)
        self._thread.join(timeout=60)
        self._queue.shutdown()
        self._queue = self._thread = None

    def _start(self) -> None:
        from transformers import AutoTokenizer

        if self.config.style == "continue":
            # The tokenizer made from a GGUF adds no BOS by itself, and Gemma without it repeats itself for ever.
            tokenizer = AutoTokenizer.from_pretrained(self.model_folder)
            begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
            self._bos = "" if begins or tokenizer.bos_token is None else tokenizer.bos_token
        self._queue = Queue(actor_options={"num_cpus": 0})
        self._thread = threading.Thread(target=self._consume, name="selftrain-texts", daemon=True)
        self._thread.start()

    def _consume(self) -> None:
        try:
            for batch in self._dataset().iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    self._answers.put(EngineAnswer(row["key"], row["text"], row["prompt_tokens"], row["generated_tokens"], row["error"]))
        except BaseException as error:  # whatever ends the stream must reach the one who waits for it
            self._answers.put(error)

    def _dataset(self) -> ray.data.Dataset:
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = 1
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # One process a stage keeps up with an engine on a CPU, and each costs memory; a GPU wants more.
        stages: dict[str, Any] = {"num_cpus": STAGE_CPUS, "concurrency": 1 if self.config.gpus == 0 else 8}
        chat = self.config.style == "instruct"
        processor = build_processor(
            vLLMEngineProcessorConfig(
                model_source=self.model_folder,
                engine_kwargs=engine_kwargs(self.config),
                placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 0}} if self.config.gpus == 0 else None,
                concurrency=1,
                batch_size=1,
                max_concurrent_batches=self.config.concurrent_requests,
                max_tasks_in_flight_per_actor=self.config.concurrent_requests,
                chat_template_stage={"enabled": True, "batch_size": 1, "num_cpus": STAGE_CPUS} if chat else False,
                tokenize_stage=False,
                detokenize_stage=False,
                should_continue_on_error=True,
                log_engine_metrics=False,
                runtime_env={"env_vars": engine_environment(self.config)},
            ),
            preprocess=_before_chat if chat else _before,
            postprocess=_after,
            preprocess_map_kwargs=stages,
            postprocess_map_kwargs=stages,
        )
        source = ray.data.read_datasource(_QueueSource(self._queue), num_cpus=READER_CPUS, override_num_blocks=READERS)
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
    else:
        kwargs["tensor_parallel_size"] = config.gpus
    return kwargs


def engine_environment(config: AugmentConfig) -> dict[str, str]:
    """Environment of the vLLM processes; threads are bound by hand, since vLLM's `auto` leaves cores of a small machine idle."""
    environment = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN") if name in os.environ}
    if config.gpus == 0:
        cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        environment |= {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.engine_memory_gb))), "VLLM_CPU_OMP_THREADS_BIND": cores}
    return environment | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def resolve_dtype(config: AugmentConfig) -> str:
    """`auto` made concrete: bfloat16 on a CPU that multiplies it in hardware (emulated, it is three times slower than float32)."""
    if config.dtype != "auto" or config.gpus:
        return config.dtype
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        flags = []
    return "bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


@ray.remote(num_cpus=0, max_concurrency=4)
class _TextActor:
    """`TextService` as a Ray actor on the driver's node, where the cache is; the engine may run anywhere."""

    def __init__(self, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> None:
        from pathlib import Path

        self._service = TextService(config, corpus, model_fingerprint, TextCache(Path(cache_folder)), StreamingEngine(config, model_folder))
        self._one_at_a_time = threading.Lock()

    def answer(self, requests: Sequence[TextRequest]) -> dict[TextRequest, str]:
        with self._one_at_a_time:
            return self._service.answer(requests)

    def progress(self) -> Progress:
        return self._service.progress()

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        return self._service.counts, self._service.examples, self._service.conditional

    def close(self) -> None:
        self._service.close()


class RemoteTexts:
    """A `TextChannel` to the service of this run; it can be sent to Ray workers."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, config: AugmentConfig, corpus: Corpus, model_folder: str, model_fingerprint: str, cache_folder: str) -> RemoteTexts:
        """Start the service; the engine itself starts when the first text is missing in the cache."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        actor = _TextActor.options(  # type: ignore[attr-defined]
            scheduling_strategy=here
        ).remote(config, corpus, model_folder, model_fingerprint, cache_folder)
        ray.get(actor.progress.remote())
        return cls(actor)

    def __call__(self, requests: Sequence[TextRequest]) -> Mapping[TextRequest, str]:
        """See `TextService.answer`."""
        if not requests:
            return {}
        try:
            answers: Mapping[TextRequest, str] = ray.get(self._actor.answer.remote(list(requests)))
            return answers
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise

    def progress(self) -> Progress:
        """Where the present request stands."""
        result: Progress = ray.get(self._actor.progress.remote())
        return result

    def summary(self) -> tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]]:
        """Counts, examples for the report, and (class, conditional text) pairs so far."""
        result: tuple[Counts, list[dict[str, Any]], list[tuple[int, str]]] = ray.get(self._actor.summary.remote())
        return result

    def close(self) -> None:
        """End engine and service."""
        ray.get(self._actor.close.remote())
        ray.kill(self._actor)
