"""The section of the document about language models, which write texts while a classifier is trained: one, or several teachers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from selftrain.config.hardware import EngineGpus, Placement, Requests, decided
from selftrain.config.section import Section
from selftrain.passwords import KEY_VARIABLE

KEY_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"  # of an environment variable


class TeacherConfig(Section):
    """One of several language models; what it does not say stands in `augment`, for all of them."""

    model: str = Field(description="as augment.model")
    name: str | None = Field(None, min_length=1, description="what reports and data sets call it; default: its model")
    server: str | None = Field(None, description="as augment.server; none: vLLM on the cluster")
    share: float = Field(1.0, gt=0, description="of the texts that it writes, in proportion to the other teachers' shares")
    key_variable: str = Field(KEY_VARIABLE, pattern=KEY_PATTERN, description="as augment.key_variable: each provider has a key of its own")
    prompt_price: float = Field(0.0, ge=0, description="as augment.prompt_price")
    generated_price: float = Field(0.0, ge=0, description="as augment.generated_price")

    @property
    def called(self) -> str:
        """Its name, wherever it is told from the others."""
        return self.name or self.model


class AugmentConfig(Section):
    """The large language model that helps while training."""

    model: str | None = Field(
        None, description="a model folder or hub name; gemma-3-270m is assembled from the packages that hold it; none: no generated texts"
    )
    server: str | None = Field(
        None,
        description="address of an OpenAI-compatible server, with its version (http://127.0.0.1:8000/v1), that has `model`; none: vLLM on the cluster. "
        "Its key stands in SELFTRAIN_LANGUAGE_MODEL_KEY",
    )
    key_variable: str = Field(KEY_VARIABLE, pattern=KEY_PATTERN, description="the environment variable that holds the server's key")
    teachers: tuple[TeacherConfig, ...] = Field(
        (),
        description="several language models in place of `model`, e.g. [{model: gemma-3-270m}, {model: writer, server: http://127.0.0.1:8000/v1, share: 2}]: "
        "each writes its share of the texts, and where they choose classes, their votes are weighed",
    )
    server_seconds: float = Field(120.0, gt=0, description="that a request to the server may take; after that it is sent again")
    max_spent_tokens: int | None = Field(
        None, ge=1, description="tokens of prompts and texts that a command may have the server charge; none: any number"
    )
    max_cost: float | None = Field(None, gt=0, description="the same in money, by the two prices; none: any amount")
    prompt_price: float = Field(0.0, ge=0, description="what the server charges for a million tokens of prompts")
    generated_price: float = Field(0.0, ge=0, description="what the server charges for a million tokens of texts")
    style: Literal["continue", "instruct"] = Field(
        "continue", description="continue: base models; instruct: models that follow instructions (GenCo, table 4)"
    )
    frame: str | None = Field(
        None,
        description="style instruct: the whole prompt, with {instruction} and {input}, of a model without a chat template (Alpaca: "
        "'### Instruction: {instruction}\\n\\n### Input: {input}\\n\\n### Response:'); none: the model's own chat template",
    )
    input_samples: int = Field(1, ge=0, description="K of equation 9: continuations a document (the paper: 5)")
    conditional_samples: int = Field(1, ge=0, description="M of algorithm 1: texts a (document, pseudo-label) pair (the released code: 20)")
    temperature: float = Field(0.8, ge=0)
    top_p: float = Field(
        1.0, gt=0, le=1, description="of the next token's probability, which share the likeliest tokens have that are drawn from; the paper: 0.95"
    )
    min_tokens: int = Field(8, ge=0, description="the paper: 64")
    max_tokens: int = Field(32, ge=1, description="the paper: 128")
    document_words: int = Field(48, ge=1, description="words of a document that the language model reads (the released code: 100)")
    max_model_tokens: int = Field(512, ge=64, description="longest prompt and answer together")
    replicas: int = Field(1, ge=1, description="engines side by side, each with its own GPUs or memory, on as many nodes as the cluster has room on")
    most_replicas: int | None = Field(
        None,
        ge=1,
        description="engines that there may be while prompts wait: beyond `replicas` they start where the cluster has room, and end when no prompts wait; "
        "none: no more than `replicas`",
    )
    concurrent_requests: Requests = Field(
        "auto",
        description="requests that an engine, or the server, handles at once; auto: 256 on GPUs, which is vLLM's own number, 64 on a CPU, 32 of a server",
    )
    engine_memory_gb: float = Field(
        0.25,
        gt=0,
        description="memory for an engine's key-value cache on a CPU (Gemma 3 270M: 2.4 MB for every 128 tokens or part of them of a request)",
    )
    gpus: EngineGpus = Field(
        "auto", description="GPUs of an engine: a number, a part of one (0.5), or 0 for the CPU; auto: one, or a part of it, where there are GPUs"
    )
    gpu_memory: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of each of its GPUs' memory that an engine takes (vLLM's gpu_memory_utilization); none: what fits beside the training",
    )
    placement: Placement = Field(
        default_factory=dict, description="labels of the Ray nodes that engines run on, e.g. {selftrain/role: language-model}"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the hardware multiplies it, else float32"
    )
    engine_seed: int = Field(0, description="seed of the engine's sampler")
    cache: str = Field(".selftrain/texts", description="folder, or s3:// or gs:// address, of the cache of generated texts; runs share it")
    stall_seconds: float = Field(600.0, gt=0, description="a run fails when no new text comes for this long")

    @model_validator(mode="after")
    def _frame_holds_both_parts(self) -> AugmentConfig:
        if self.frame is not None:
            if self.style != "instruct":
                raise ValueError(f"augment.frame frames an instruction, and augment.style is {self.style!r}; set augment.style: instruct")
            if any(self.frame.count(part) != 1 for part in ("{instruction}", "{input}")):
                raise ValueError(f"augment.frame must hold {{instruction}} and {{input}}, each once (got {self.frame!r})")
        return self

    @model_validator(mode="after")
    def _most_are_no_fewer(self) -> AugmentConfig:
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError(f"augment.most_replicas must be at least augment.replicas, {self.replicas} (got {self.most_replicas})")
        return self

    @model_validator(mode="after")
    def _teachers_are_several(self) -> AugmentConfig:
        if not self.teachers:
            return self
        if self.model is not None or self.server is not None:
            raise ValueError(
                f"augment.{'model' if self.model is not None else 'server'} and augment.teachers cannot both be set; each teacher names its own"
            )
        if len(self.teachers) < 2:
            raise ValueError("augment.teachers must be at least two; for one language model set augment.model")
        names = [one.called for one in self.teachers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"augment.teachers must have different names, and two are called {twice!r}; set their name")
        models = [(one.model, one.server is None) for one in self.teachers]
        if same := next((model for model in models if models.count(model) > 1), None):
            # The cache knows a server's model by its name, and one model's votes are one vote.
            raise ValueError(f"augment.teachers must be different models, and two are {same[0]!r}; for more of one, raise augment.replicas")
        return self

    @property
    def writes(self) -> bool:
        """Whether there is a language model."""
        return self.model is not None or bool(self.teachers)

    @property
    def name(self) -> str | None:
        """The language model in words, or all of them; None where there is none."""
        return " + ".join(one.called for one in self.teachers) or self.model

    @property
    def language_models(self) -> tuple[AugmentConfig, ...]:
        """The section of each language model by itself; of one that has no teachers, the section as it is."""
        own = ("model", "server", "key_variable", "prompt_price", "generated_price")
        each = ({key: getattr(one, key) for key in own} for one in self.teachers)
        return tuple(self.model_copy(update={"teachers": (), **one}) for one in each) or (self,)

    @property
    def replicas_at_most(self) -> int:
        """Engines of one language model while prompts wait."""
        return self.most_replicas or self.replicas

    @property
    def engines(self) -> int:
        """Engines on the cluster that are asked for at the start, of all language models that are not a server's."""
        return self.replicas * sum(one.server is None for one in self.language_models)

    @property
    def engines_at_most(self) -> int:
        """The same while prompts wait."""
        return self.engines // self.replicas * self.replicas_at_most

    @property
    def requests_at_once(self) -> int:
        """`concurrent_requests` as a number; that of an engine, once `runtime.devices.decide` has made a number of `gpus`."""
        if self.concurrent_requests != "auto":
            return self.concurrent_requests
        if self.server is not None:
            return 32
        return 256 if decided(self.gpus, "augment.gpus") else 64

    @property
    def chats(self) -> bool:
        """Whether a prompt is a message of a chat, which the model's own template frames."""
        return self.style == "instruct" and self.frame is None
