"""Dialogues of the sampler's completions with environments: texts to steps, and steps to the tokens that follow."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.special_tokens import without_marks
from dsmath_jax.data.tokenizer import CONTEXT_TOKENS, decode_after, encode_after
from dsmath_jax.environments.protocol import Environment, Said, Step
from dsmath_jax.environments.replies import ReplyLog, TurnKey
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits
from dsmath_jax.sharding import broadcast_json

MAX_LOGGED = 3  # errors; the rest is only counted
MAX_THREADS = 64  # steps of ordinary functions at the same time
STEP_SECONDS = 60.0  # time limit of a step


class Outcome(NamedTuple):
    """What a dialogue came to.

    Attributes:
      turns: of the model.
      reward: of the environment; None for none.
      answer_text: the text that a final answer is extracted from; None for the whole dialogue.
    """

    turns: int
    reward: float | None
    answer_text: str | None


class _Dialogue(NamedTuple):
    """A dialogue on process 0.

    Attributes:
      environment: its environment.
      context: the last tokens before its next turn.
      known: turns whose steps are from the log, which the environment has yet to see.
    """

    environment: Environment
    context: list[int]
    known: list[Said]


class Dialogues:
    """The partner of the completions of some prompts (`sampling.turns.Partner`), as a context manager.

    Process 0 runs the environments, in an event loop in a thread of its own, while the devices decode other slots; all
    processes get its replies. A step that raises or takes too long ends its dialogue without a reward.
    """

    def __init__(
        self, make: Callable[[], Environment], records: Sequence[Record], prompts: Sequence[Sequence[int]], chat: Chat,
        limits: TurnLimits, seconds: float = STEP_SECONDS, log: ReplyLog | None = None,
    ):  # fmt: skip
        """
        Args:
          make: returns a new environment.
          records: of the prompts.
          prompts: their token ids.
          chat: of the model.
          limits: of every dialogue.
          seconds: time limit of a step.
          log: of the replies, written before they are used; of process 0.
        """
        self.stop_strings, self.limits = make().stop_strings, limits
        self.outcomes: dict[tuple[int, int], Outcome] = {}  # by prompt and sample
        self.num_errors = 0
        self._make, self._records, self._prompts, self._chat = make, records, prompts, chat
        self._seconds, self._log = seconds, log
        self._dialogues: dict[tuple[int, int], _Dialogue] = {}
        self._asked: list[Turn] = []
        self._steps: concurrent.futures.Future[list[Step]] | None = None
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def ask(self, turns: Sequence[Turn]) -> None:
        """Begins to reply to turns."""
        self._asked = list(turns)
        if jax.process_index() == 0:
            self._steps = asyncio.run_coroutine_threadsafe(self._take_steps(self._asked), self._loop)

    def replies(self) -> list[Reply | None]:
        """Returns the replies to the last turns."""
        found: list[tuple[Step, list[int]]] = []
        if self._steps is not None:
            steps = self._steps.result()
            found = [(step, self._tokens(step, turn)) for step, turn in zip(steps, self._asked, strict=True)]
        replies = list[Reply | None]()
        for turn, (fields, tokens) in zip(self._asked, broadcast_json(found), strict=True):
            step = Step(*fields)
            self.outcomes[turn.prompt, turn.sample] = Outcome(turn.number + 1, step.reward, step.answer_text)
            replies.append(Reply(tokens, step.drops_eos) if tokens else None)
        return replies

    async def _take_steps(self, turns: Sequence[Turn]) -> list[Step]:
        """Returns the steps after turns, all of which are in the log."""
        taken = await asyncio.gather(*map(self._take_step, turns))
        if self._log is not None:
            pairs = zip(turns, taken, strict=True)
            self._log.write([(_key(turn), said, step) for turn, (said, step, is_new) in pairs if is_new])
        return [step for _, step, _ in taken]

    async def _take_step(self, turn: Turn) -> tuple[Said, Step, bool]:
        """Returns a turn as text, the step that follows, and whether it is not from the log."""
        record, key = self._records[turn.prompt], (turn.prompt, turn.sample)
        if key not in self._dialogues:
            self._dialogues[key] = _Dialogue(self._make(), list(self._prompts[turn.prompt][-CONTEXT_TOKENS:]), [])
            self._dialogues[key].environment.reset(record)
        environment, context, known = self._dialogues[key]
        text = decode_after(self._chat.tokenizer, context, self._chat.without_eos(turn.tokens))
        said = Said(text, turn.finish_reason, turn.is_last)
        context[:] = turn.tokens[-CONTEXT_TOKENS:]
        if self._log is not None and (step := self._log.find(_key(turn), said)) is not None:
            known.append(said)
            return said, step, False
        try:
            async with asyncio.timeout(self._seconds):
                for earlier in known:
                    await self._call(environment, earlier)
                known.clear()
                step = await self._call(environment, said)
        except Exception as error:  # an environment may raise anything
            self._log_error(record.id, "took too long" if isinstance(error, TimeoutError) else repr(error))
            step = Step()
        return said, step, True

    async def _call(self, environment: Environment, said: Said) -> Step:
        """Takes a step, in a thread if it is an ordinary function."""
        take: Callable[[Said], Any] = environment.step
        if inspect.iscoroutinefunction(take):
            found = await take(said)
        else:
            async with self._threads:
                found = await _in_thread(lambda: take(said))
        if not isinstance(found, Step):
            raise TypeError(f"`step` returned {found!r:.100}; it must return a Step")
        return found

    def _tokens(self, step: Step, turn: Turn) -> list[int]:
        """Returns the tokens of an observation; [] where there is none."""
        if not step.observation:
            return []
        if not step.is_message:
            tokens = encode_after(self._chat.tokenizer, without_marks(step.observation))
        else:
            tokens = self._chat.encode(self._chat.next_turn(step.observation))
            if turn.finish_reason == "eos" and not step.drops_eos:
                tokens = tokens[1:]  # the end of the assistant's turn, which the model has written
        self._dialogues[turn.prompt, turn.sample].context[:] = tokens[-CONTEXT_TOKENS:]
        return tokens

    def _log_error(self, record_id: str, message: str) -> None:
        self.num_errors += 1
        if self.num_errors <= MAX_LOGGED:
            more = "; further errors are only counted" if self.num_errors == MAX_LOGGED else ""
            logging.warning("The environment of a dialogue about %s failed: %s%s.", record_id, message, more)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _key(turn: Turn) -> TurnKey:
    return TurnKey(turn.prompt, turn.sample, turn.number)


async def _in_thread(call: Callable[[], Any]) -> Any:
    """Calls a function in a thread of its own, which may hang without keeping the process from its end."""
    loop = asyncio.get_running_loop()
    result = loop.create_future()

    def resolve(set_result: Callable[[Any], None], value: Any) -> None:
        if not result.done():  # nobody waits for it any more
            set_result(value)

    def run() -> None:
        try:
            outcome = result.set_result, call()
        except Exception as error:  # raised where the result is awaited
            outcome = result.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(resolve, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await result
