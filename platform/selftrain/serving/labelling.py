"""The routes of the page that asks about documents, over one folder of questions; beside the other routes of an endpoint, or alone (`selftrain label`).

GET  /label               the page
POST /label/next          {"browser": "..."}: the question of this browser
POST /label/answer        {"browser": "...", "question": "...", "answer": "..."}: keeps an answer, or a list of classes where a document may have several; as above
POST /label/undo          {"browser": "...", "question": "..."}: takes the browser's latest answer back, and asks that question again
POST /label/leave         {"browser": "..."}: gives the browser's question back
GET  /label/answers.csv   the questions with all answers
GET  /label/training      how the training run that was started last stands
POST /label/training      {"browser": "...", "confirm": true}: starts one with the answers; of a folder of training, one at a time

A browser names itself by a random word, which is no secret: the token is what guards the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from selftrain.errors import DataError, OutputError, ResourceError
from selftrain.runs.labelling.desk import Desk, Turn
from selftrain.runs.labelling.folder import Folder, Purpose, open_folder
from selftrain.runs.labelling.retraining import Retraining, Standing
from selftrain.runs.labelling.stopping import Stopping
from selftrain.runs.questions import NONE, SKIP
from selftrain.serving.page import Page
from selftrain.serving.routes import ANYWHERE, REFUSALS, Json, bare_app
from selftrain.serving.schemas import Problem, Refused, Status

LABEL = "/label"
_KEPT: dict[int | str, dict[str, Any]] = REFUSALS | {507: {"model": Problem, "description": "the answer could not be written, and was not kept"}}
_STARTED: dict[int | str, dict[str, Any]] = _KEPT | {409: {"model": Problem, "description": "a run is going on already"}}
_Found = TypeVar("_Found")
_Name = Annotated[str, Field(max_length=1024)]


class Browser(BaseModel):
    """The body of a request that says who asks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    browser: str = Field(min_length=8, max_length=64, pattern=r"^[\w-]+$", description="a random word, the same as long as the page is open")


class Undone(Browser):
    """The body of POST /label/undo."""

    question: str = Field(max_length=256, description="id of the question")


class Answered(Undone):
    """The body of POST /label/answer."""

    answer: _Name | Annotated[list[_Name], Field(max_length=1024)] = Field(
        description='a class, "none of these" or "skip"; where a document may have several classes, a list of them in place of one'
    )


class Confirmed(Browser):
    """The body of POST /label/training."""

    confirm: Literal[True] = Field(description="that a training run is wanted")


class Asked(BaseModel):
    """A document."""

    id: str
    text: str


class Accuracy(BaseModel):
    """What the answers of an audit say so far."""

    estimate: float | None
    low: float = Field(description="of the 95 % interval")
    high: float
    anytime: bool = Field(description="whether it is valid at every number of answers at once; else, at the planned number")


class Settling(BaseModel):
    """What the answers of training say of further ones."""

    changed: float = Field(description="share of the documents that a model of all answers says something else of than one of the first `before`")
    answers: int = Field(description="that are learned from, earlier ones included")
    before: int
    left: int = Field(description="questions without an answer")
    stop: bool = Field(description="whether further answers will not help")
    says: str = Field(description="the same in a sentence")


class Share(BaseModel):
    """A figure with its 95 % interval."""

    estimate: float | None
    low: float
    high: float


class Comparison(BaseModel):
    """A successor against the bundle before, on an audit's answers."""

    answers: int
    old: Share
    new: Share
    gain: Share | None


class Training(BaseModel):
    """How a training run stands."""

    state: Literal["none", "running", "done", "failed", "killed"] = Field(description="none before the first; killed where it ended without a word")
    answers: int | None = Field(description="that it learns from")
    seconds: float | None = Field(description="since its start, or that it took")
    round: int | None
    rounds: int | None
    line: str = Field(description="the last one that it printed")
    error: str | None = Field(description="why it failed, in a sentence")
    bundle: str | None = Field(description="path of the new bundle")
    serve: str | None = Field(description="the command that serves it")
    compared: Comparison | None
    not_compared: str | None = Field(description="why there is no comparison")


class State(BaseModel):
    """What the page shows."""

    purpose: Purpose
    classes: list[str]
    several: bool = Field(
        description="whether a document may have several classes; `accuracy` is then the share of documents whose classes are all right"
    )
    question: Asked | None = Field(description="null where this browser has nothing to answer")
    before: str | list[str] | None = Field(description="the answer of this question that was taken back just now; of several classes a list")
    late: bool = Field(description="whether another browser had answered first; this answer was not kept")
    undo: str | None = Field(description="id of the question whose answer this browser may take back")
    done: int
    total: int
    elsewhere: int = Field(description="open questions that other browsers have")
    counts: dict[str, int] = Field(description="answers by kind; of several classes, those that name each")
    accuracy: Accuracy | None = Field(description="of an audit with an answer")
    settling: Settling | None = Field(description="of training, once there are answers enough")
    seconds: float = Field(description="after which a question is given to another browser, where this one is not heard of")


def add_labelling(app: FastAPI, desk: Desk, retraining: Retraining) -> None:
    """Add the routes.

    Args:
        app: a `bare_app`, or one that has other routes.
        desk: hands out the questions.
        retraining: trains on the answers.
    """
    stopping = Stopping(desk.folder)

    async def asked(ask: Callable[[], _Found]) -> _Found:
        # In a thread: a disk may take its time, and other requests do not wait for it.
        try:
            return await run_in_threadpool(ask)
        except DataError as error:
            raise Refused(422, str(error)) from None
        except ResourceError as error:
            raise Refused(409, str(error)) from None
        except OutputError as error:
            raise Refused(507, str(error)) from None

    async def turn(ask: Callable[[], Turn]) -> Response:
        return Json(await asked(lambda: _state(desk, stopping, ask()).model_dump()))

    @app.post(f"{LABEL}/next", response_model=State, responses=_KEPT)
    async def next_question(body: Browser) -> Response:
        """A question for this browser, which nobody else is asked meanwhile."""
        return await turn(lambda: desk.next(body.browser))

    @app.post(f"{LABEL}/answer", response_model=State, responses=_KEPT)
    async def answer(body: Answered) -> Response:
        """Keep an answer; when this is answered, the disk has it."""
        return await turn(lambda: desk.answer(body.browser, body.question, body.answer))

    @app.post(f"{LABEL}/undo", response_model=State, responses=_KEPT)
    async def undo(body: Undone) -> Response:
        """Take the latest answer of this browser back, and ask that question again."""
        return await turn(lambda: desk.undo(body.browser, body.question))

    @app.post(f"{LABEL}/leave", response_model=Status, responses=_KEPT)
    async def leave(body: Browser) -> Response:
        """Give the question of this browser back."""
        await asked(lambda: desk.leave(body.browser))
        return Json({"status": "ok"})

    @app.get(f"{LABEL}/answers.csv", response_class=Response, responses=ANYWHERE | {200: {"content": {"text/csv": {}}}, 401: REFUSALS[401]})
    async def answers() -> Response:
        """The questions with all answers, as a file."""
        written = await asked(lambda: desk.folder.csv(desk.answers()))
        return Response(written, headers={"content-type": "text/csv; charset=utf-8"})

    @app.get(f"{LABEL}/training", response_model=Training, responses=ANYWHERE | {401: REFUSALS[401]})
    async def training() -> Response:
        """How the training run that was started last stands."""
        return Json(_training(await asked(retraining.standing)).model_dump())

    @app.post(f"{LABEL}/training", response_model=Training, responses=_STARTED)
    async def train(body: Confirmed) -> Response:
        """Start a training run with the answers."""
        await asked(lambda: retraining.start(desk.answers()))
        return Json(_training(await asked(retraining.standing)).model_dump())

    app.add_api_route(LABEL, Page.of_questions().show, include_in_schema=False)


def label_routes(folder: str | None) -> Callable[[FastAPI], None] | None:
    """What adds the routes over a folder of questions to an application; None where there is none.

    Raises:
        DataError: it holds no questions, or they are damaged.
        OutputError: it cannot be written.
    """
    if folder is None:
        return None
    desk = Desk(open_folder(Path(folder)))
    retraining = Retraining(desk.folder, desk.folder.path)  # the working directory of a replica is not the user's
    return lambda app: add_labelling(app, desk, retraining)


def labelling_app(desk: Desk, retraining: Retraining) -> FastAPI:
    """An application that asks about documents, and trains on the answers.

    Args:
        desk: hands out the questions.
        retraining: trains.
    """
    app = bare_app()
    add_labelling(app, desk, retraining)

    @app.get("/healthz", response_model=Status, responses=ANYWHERE)
    async def healthz() -> Response:
        """The process runs."""
        return Json({"status": "ok"})

    async def home() -> Response:
        return RedirectResponse(LABEL)

    app.add_api_route("/", home, include_in_schema=False)
    app.add_api_route("/docs", Page.of_routes(app.openapi()).show, include_in_schema=False)
    return app


def _training(standing: Standing) -> Training:
    record = standing.record
    kept = record.model_dump(include={"answers", "error", "bundle", "serve", "compared", "not_compared"}) if record is not None else {}
    return Training(
        state=standing.state,
        seconds=standing.seconds,
        round=standing.round,
        rounds=standing.rounds,
        line=standing.line,
        **dict.fromkeys(("answers", "error", "bundle", "serve", "compared", "not_compared")) | kept,
    )


def _before(folder: Folder, answer: str | None) -> str | list[str] | None:
    """An answer as the page gave it."""
    return answer if answer is None or not folder.separator or answer in (NONE, SKIP) else folder.parts(answer)


def _state(desk: Desk, stopping: Stopping, turn: Turn) -> State:
    folder = desk.folder
    answers = {one.key: turn.answers[one.key] for one in folder.questions if one.key in turn.answers}
    counts = Counter(part for answer in answers.values() for part in folder.parts(answer))
    found = folder.accuracy(answers)
    settled = stopping.look(turn.answers)
    accuracy = Accuracy(estimate=found[0].estimate, low=found[0].low, high=found[0].high, anytime=found[1]) if found is not None else None
    return State(
        purpose=folder.purpose,
        classes=list(folder.classes),
        several=bool(folder.separator),
        question=Asked(id=turn.question.key, text=turn.question.text) if turn.question is not None else None,
        before=_before(folder, turn.before),
        late=turn.late,
        undo=turn.undo,
        done=len(answers),
        total=len(folder.questions),
        elsewhere=turn.elsewhere,
        counts={name: counts[name] for name in folder.answers},
        accuracy=accuracy,
        settling=Settling(**asdict(settled), says=settled.says) if settled is not None else None,
        seconds=desk.lease_seconds,
    )
