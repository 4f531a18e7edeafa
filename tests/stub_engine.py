"""A package in vLLM's place, which the processes of a Ray find first. What a prompt holds decides what the stub does:

deadly    the process ends, once for a model folder
refused   the prompt is refused
slow      a twentieth of a second for each, and the text says which process wrote it
lasting   twenty seconds, whatever else is written; the file `lasting` of the model folder has a line each time that one is asked
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import tiny_language_model

from selftrain.config import Experiment
from selftrain.runtime.cluster import Needs, session

STUB = """
import os
import time
from pathlib import Path
from types import SimpleNamespace

class EngineArgs:
    def __init__(self, model, **_):
        self.model = Path(model)

class SamplingParams:
    def __init__(self, temperature, max_tokens, min_tokens=0, structured_outputs=None, output_kind=None):
        self.choices = structured_outputs.choice if structured_outputs else []

class LLMEngine:
    @classmethod
    def from_engine_args(cls, args):
        engine = cls()
        engine.model, engine.waiting, engine.lasting = args.model, [], []
        return engine

    def get_tokenizer(self):
        return SimpleNamespace(bos_token=None)

    def add_request(self, id, prompt, sampling):
        if "refused" in prompt:
            raise ValueError("the prompt is too long")
        if "lasting" in prompt:
            with (self.model / "lasting").open("a") as file:
                print(os.getpid(), file=file)
            self.lasting.append((time.monotonic() + 20, (id, prompt, sampling)))
        else:
            self.waiting.append((id, prompt, sampling))

    def step(self):
        waiting, self.waiting = self.waiting, []
        if not waiting and self.lasting:
            time.sleep(0.1)
        waiting += [one for until, one in self.lasting if until < time.monotonic()]
        self.lasting = [one for one in self.lasting if one[1] not in waiting]
        for id, prompt, sampling in waiting:
            if "deadly" in prompt and not (self.model / "died").exists():
                (self.model / "died").touch()
                os._exit(1)
            if "slow" in prompt:
                time.sleep(0.05)
                prompt = f"process-{os.getpid()}"
            text = sampling.choices[-1] if sampling.choices else f"It went on after {prompt.split()[-1]}."
            yield SimpleNamespace(request_id=id, finished=True, prompt_token_ids=[1, 2], outputs=[SimpleNamespace(text=text, token_ids=[1, 2, 3])])
"""
PARAMS = (
    "class StructuredOutputsParams:\n    def __init__(self, choice):\n        self.choice = choice\n\nclass RequestOutputKind:\n    FINAL_ONLY = 2\n"
)


@contextmanager
def session_with_stub(folder: Path) -> Iterator[Path]:
    """A Ray whose processes take the stub for vLLM, and a model folder; both below `folder`."""
    (folder / "vllm").mkdir()
    (folder / "vllm" / "__init__.py").write_text(STUB)
    (folder / "vllm" / "sampling_params.py").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        with session(Experiment(), Needs(2.0, 0.0, 1.0)):
            yield tiny_language_model(folder / "model")
