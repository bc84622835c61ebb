"""Calls of an asynchronous function in a worker: several are in flight at a time, each with its time limit."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

TURNS = 10  # at which the event loop looks at a call, in its time limit


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """Returns the worker's event loop; there is one, to which a client that the user's module keeps open belongs."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


async def run_calls(
    call: Callable[[Any], Coroutine[Any, Any, bytes]], items: Iterable[tuple[int, Any]], seconds: float,
    in_flight: int, write: Callable[[int, bytes], None], alive: Callable[[], None], late: bytes,
) -> None:  # fmt: skip
    """Calls a function for every item, `in_flight` at a time, and writes each result when it is known.

    A call that is late is canceled. It may ignore that, so the worker must be replaced afterwards.

    Args:
      call: from an item to its result; raises nothing.
      items: (index, item) pairs.
      seconds: time limit of a call, not counting the time in which another call blocks the event loop.
      in_flight: maximum number of calls at a time.
      write: writes a result.
      alive: is called at every turn of the event loop, `TURNS` times in `seconds`.
      late: the result of a call that exceeds its time limit.
    """
    items = list(items)
    queue, left, turn = iter(items), len(items), seconds / TURNS

    async def say_alive() -> None:
        while True:
            alive()
            await asyncio.sleep(turn)

    async def work() -> None:
        nonlocal left
        for index, item in queue:
            task = asyncio.ensure_future(call(item))
            for _ in range(TURNS):
                if (await asyncio.wait({task}, timeout=turn))[0]:
                    break
            else:
                task.cancel()
            left -= 1
            if not left:
                speaker.cancel()  # the last result is the last line of these items
            write(index, task.result() if task.done() else late)

    speaker = asyncio.ensure_future(say_alive())
    await asyncio.gather(*(work() for _ in range(min(in_flight, len(items)))))
