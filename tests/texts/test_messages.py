"""Prompts travel together, and each has its own answer or error."""

import asyncio

import pytest

from selftrain.texts.engines.messages import Messages


def test_what_is_asked_in_one_turn_goes_out_together_in_messages_of_a_bounded_size():
    sent = []

    async def send(asked):
        sent.append(asked)
        await asyncio.sleep(0)
        return [one * 10 for one in asked]

    async def main():
        messages = Messages(send, 3)
        first = await asyncio.gather(*map(messages.ask, range(7)))
        return first, await messages.ask(8)

    assert asyncio.run(main()) == ([0, 10, 20, 30, 40, 50, 60], 80)
    assert sent == [[0, 1, 2], [3, 4, 5], [6], [8]]


def test_messages_are_under_way_side_by_side():
    async def main():
        both = asyncio.Barrier(2)

        async def send(asked):
            await asyncio.wait_for(both.wait(), 30)
            return asked

        return await asyncio.gather(*map(Messages(send, 1).ask, "ab"))

    assert asyncio.run(main()) == ["a", "b"]


def test_an_error_is_that_of_its_prompt_and_one_of_the_message_that_of_all():
    async def send(asked):
        if "dead" in asked:
            raise ConnectionError("gone")
        return [ValueError("too long") if one == "long" else one for one in asked]

    async def main():
        messages = Messages(send, 2)
        return await asyncio.gather(*map(messages.ask, ["a", "long", "dead", "b", "c"]), return_exceptions=True)

    a, long, dead, b, c = asyncio.run(main())
    assert (a, c) == ("a", "c") and isinstance(long, ValueError) and isinstance(dead, ConnectionError) and isinstance(b, ConnectionError)


def test_who_stopped_waiting_is_left_out():
    async def main():
        ask = asyncio.Event()

        async def send(asked):
            await ask.wait()
            return asked

        messages = Messages(send, 2)
        first, second = (asyncio.ensure_future(messages.ask(one)) for one in "ab")
        await asyncio.sleep(0)
        first.cancel()
        ask.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == "b"
