"""Prompts and answers travel together, and each prompt has its own answer or error."""

import asyncio
import threading
import time

import pytest

from selftrain.texts.engines import messages
from selftrain.texts.engines.messages import Answers, Messages


async def echo(asked):
    await asyncio.sleep(0)
    yield [(place, one * 10) for place, one in enumerate(asked)]


def test_what_is_asked_within_a_moment_goes_out_together_in_messages_of_a_bounded_size(monkeypatch):
    monkeypatch.setattr(messages, "TOGETHER_SECONDS", 0.2)
    sent = []

    async def send(asked):
        sent.append(asked)
        async for portion in echo(asked):
            yield portion

    async def main():
        both = Messages(send, 3)

        async def later(one):
            await asyncio.sleep(0.01)
            return await both.ask(one)

        first = await asyncio.gather(*map(both.ask, range(7)), later(7))
        return first, await both.ask(8)

    assert asyncio.run(main()) == ([0, 10, 20, 30, 40, 50, 60, 70], 80)
    assert sent == [[0, 1, 2], [3, 4, 5], [6, 7], [8]]


def test_a_full_message_waits_for_nothing_more(monkeypatch):
    monkeypatch.setattr(messages, "TOGETHER_SECONDS", 3600)

    async def main():
        return await asyncio.wait_for(asyncio.gather(*map(Messages(echo, 2).ask, range(4))), 30)

    assert asyncio.run(main()) == [0, 10, 20, 30]


def test_messages_are_under_way_side_by_side():
    async def main():
        both = asyncio.Barrier(2)

        async def send(asked):
            await asyncio.wait_for(both.wait(), 30)
            yield list(enumerate(asked))

        return await asyncio.gather(*map(Messages(send, 1).ask, "ab"))

    assert asyncio.run(main()) == ["a", "b"]


def test_an_answer_waits_for_no_other_of_its_message():
    async def main():
        rest = asyncio.Event()

        async def send(asked):
            yield [(1, "second")]
            await rest.wait()
            yield [(2, "third"), (0, "first")]

        asked = [asyncio.ensure_future(one) for one in map(Messages(send, 3).ask, "abc")]
        second = await asyncio.wait_for(asked[1], 30)
        assert not asked[0].done() and not asked[2].done()
        rest.set()
        return second, await asked[0], await asked[2]

    assert asyncio.run(main()) == ("second", "first", "third")


def test_an_error_is_that_of_its_prompt_and_one_of_the_message_that_of_all_that_have_no_answer():
    async def send(asked):
        yield [(0, ValueError("too long") if asked[0] == "long" else asked[0])]
        if "dead" in asked:
            raise ConnectionError("gone")
        if "short" not in asked:
            yield [(1, asked[1])]

    async def main():
        all_of = Messages(send, 2)
        return await asyncio.gather(*map(all_of.ask, ["a", "dead", "long", "b", "c", "short"]), return_exceptions=True)

    a, dead, long, b, c, short = asyncio.run(main())
    assert (a, b, c) == ("a", "b", "c")
    assert isinstance(dead, ConnectionError) and isinstance(long, ValueError) and isinstance(short, RuntimeError)


def test_who_stopped_waiting_is_left_out():
    async def main():
        ask = asyncio.Event()

        async def send(asked):
            await ask.wait()
            yield list(enumerate(asked))

        two = Messages(send, 2)
        first, second = (asyncio.ensure_future(two.ask(one)) for one in "ab")
        await asyncio.sleep(0)
        first.cancel()
        ask.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == "b"


def test_answers_of_another_thread_arrive_once_each_and_many_at_a_time():
    """Ten times as fast as they can be taken one by one, and with pauses in which everything has been taken."""
    count = 20_000

    def write(answers: Answers) -> None:
        for place in range(count):
            if place % 4000 == 0:
                time.sleep(3 * messages.TOGETHER_SECONDS)
            answers.put(place, place * 2)

    async def main():
        answers = Answers()
        thread = threading.Thread(target=write, args=(answers,))
        thread.start()
        portions = [portion async for portion in answers.portions(count)]
        thread.join()
        return portions

    portions = asyncio.run(asyncio.wait_for(main(), 60))
    assert [one for portion in portions for one in portion] == [(place, place * 2) for place in range(count)]
    assert 1 < len(portions) < count / 50


def test_answers_of_one_moment_are_one_portion_and_none_are_looked_for_before_there_are_some(monkeypatch):
    monkeypatch.setattr(messages, "TOGETHER_SECONDS", 0.3)
    sleeps, sleep, thread = [], asyncio.sleep, threading.get_ident()

    async def counted(seconds):
        if threading.get_ident() == thread:  # Ray Serve's loop of an earlier test in this process sleeps, too
            sleeps.append(seconds)
        await sleep(seconds)

    async def main():
        answers, loop = Answers(), asyncio.get_running_loop()
        for seconds, place in ((0.0, 0), (0.1, 1), (1.5, 2)):
            loop.call_later(seconds, answers.put, place, "text")
        return [[place for place, _ in portion] async for portion in answers.portions(3)]

    monkeypatch.setattr(messages.asyncio, "sleep", counted)
    assert asyncio.run(main()) == [[0, 1], [2]] and sleeps == [0.3]


def test_the_last_answer_waits_for_nothing(monkeypatch):
    monkeypatch.setattr(messages, "TOGETHER_SECONDS", 3600)

    async def main():
        answers = Answers()
        answers.put(1, "b")
        answers.put(0, "a")
        return [portion async for portion in answers.portions(2)]

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [[(1, "b"), (0, "a")]]
