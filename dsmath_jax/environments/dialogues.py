"""Dialogues of the sampler's completions with environments: texts to steps, and steps to the tokens that follow."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import inspect
import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.special_tokens import without_marks
from dsmath_jax.data.tokenizer import decode_after, encode_after
from dsmath_jax.environments.protocol import Environment, Step, TextTurn
from dsmath_jax.environments.replies import ReplyLog, TurnKey
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits
from dsmath_jax.sharding import broadcast_json

FAILED = Step(reward=math.nan)
MAX_LOGGED = 3  # errors; the rest is only counted
JOIN_SECONDS = 5.0  # before the event loop is left to its daemon thread
MAX_THREADS = 64  # steps of ordinary functions at the same time


class DialogueResult(NamedTuple):
    """The result of a dialogue.

    Attributes:
      turns: of the model.
      reward: of the environment; None for none, NaN where it failed.
      answer_text: the text that a final answer is extracted from; None for the whole dialogue.
    """

    turns: int = 1
    reward: float | None = None
    answer_text: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the environment raised or took too long, which ended the dialogue."""
        return self.reward is not None and math.isnan(self.reward)


NO_DIALOGUE = DialogueResult()  # of a completion of one turn


@dataclasses.dataclass
class _Dialogue:
    """A dialogue on process 0.

    Attributes:
      context: the last tokens before its next turn.
      environment: None before its first turn.
      known: turns whose steps are from the log, which the environment has yet to see.
    """

    context: Sequence[int]
    environment: Environment | None = None
    known: list[TextTurn] = dataclasses.field(default_factory=list)


class _Taken(NamedTuple):
    """A turn as text, the step that follows, the tokens of its observation, and whether it is not from the log."""

    turn: TextTurn
    step: Step
    tokens: list[int]
    is_new: bool


class Dialogues:
    """The partner of the completions of some prompts (`sampling.turns.Partner`), as a context manager.

    Process 0 runs the environments, in an event loop in a thread of its own, while the devices decode other slots; all
    processes get its replies. A step that raises or takes too long ends its dialogue without a reward.
    """

    def __init__(
        self, make: Callable[[], Environment], records: Sequence[Record], prompts: Sequence[Sequence[int]], chat: Chat,
        limits: TurnLimits, seconds: float | None = None, log: ReplyLog | None = None,
    ):  # fmt: skip
        """
        Args:
          make: returns a new environment.
          records: of the prompts.
          prompts: their token ids.
          chat: of the model.
          limits: of every dialogue.
          seconds: time limit of a step; None where the environments have limits of their own.
          log: of the replies, written before they are used; of process 0.
        """
        self.stop_strings, self.limits = make().stop_strings, limits
        self.results: dict[tuple[int, int], DialogueResult] = {}  # by prompt and sample
        self._num_errors = 0
        self._make, self._records, self._prompts, self._chat = make, records, prompts, chat
        self._seconds, self._log = seconds, log
        self._dialogues: dict[tuple[int, int], _Dialogue] = {}
        self._asked: list[Turn] = []
        self._steps: concurrent.futures.Future[list[tuple[Step, list[int]]]] | None = None
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
        found = [] if self._steps is None else self._steps.result()
        replies = list[Reply | None]()
        for turn, (fields, tokens) in zip(self._asked, broadcast_json(found), strict=True):
            step, key = Step(*fields), (turn.prompt, turn.sample)
            self.results[key] = DialogueResult(turn.number + 1, step.reward, step.answer_text)
            replies.append(Reply(tokens, step.drops_eos) if tokens else None)
            if turn.is_last or not tokens:
                self._dialogues.pop(key, None)
            elif key in self._dialogues:  # on process 0
                self._dialogues[key].context = tokens
        return replies

    async def _take_steps(self, turns: Sequence[Turn]) -> list[tuple[Step, list[int]]]:
        """Returns the steps after turns, all of which are in the log, and the tokens of their observations."""
        taken = await asyncio.gather(*map(self._take_step, turns))
        if self._log is not None:
            pairs = zip(turns, taken, strict=True)
            self._log.write([(_key(turn), each.turn, each.step) for turn, each in pairs if each.is_new])
        return [(each.step, each.tokens) for each in taken]

    async def _take_step(self, turn: Turn) -> _Taken:
        dialogue = self._dialogues.setdefault((turn.prompt, turn.sample), _Dialogue(self._prompts[turn.prompt]))
        text = decode_after(self._chat.tokenizer, dialogue.context, self._chat.without_eos(turn.tokens))
        text_turn = TextTurn(text, turn.finish_reason, turn.is_last)
        if self._log is not None and (step := self._log.find(_key(turn), text_turn)) is not None:
            dialogue.known.append(text_turn)
            return _Taken(text_turn, step, self._tokens(step, turn), is_new=False)
        record = self._records[turn.prompt]
        try:
            if dialogue.environment is None:
                dialogue.environment = await self._limited(self._make)
                await self._limited(dialogue.environment.reset, record)
            for earlier in dialogue.known:
                await self._limited(dialogue.environment.step, earlier)
            dialogue.known = []
            step = _checked(await self._limited(dialogue.environment.step, text_turn))
            return _Taken(text_turn, step, self._tokens(step, turn), is_new=True)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # an environment may raise anything
            self._log_error(record.id, "took too long" if isinstance(error, TimeoutError) else repr(error))
            return _Taken(text_turn, FAILED, [], is_new=True)

    async def _limited(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function within the time limit, in a thread if it is an ordinary one."""
        if inspect.iscoroutinefunction(call):
            async with asyncio.timeout(self._seconds):
                return await call(*arguments)
        async with self._threads, asyncio.timeout(self._seconds):
            found = await _in_thread(lambda: call(*arguments))
            return await found if inspect.isawaitable(found) else found

    def _tokens(self, step: Step, turn: Turn) -> list[int]:
        """Returns the tokens of an observation; [] where there is none."""
        if not step.observation:
            return []
        if not step.is_message:
            return encode_after(self._chat.tokenizer, without_marks(step.observation))
        tokens = self._chat.encode(self._chat.next_turn(step.observation))
        # Its first token ends the assistant's turn, which the model may have done.
        return tokens[1:] if turn.finish_reason == "eos" and not step.drops_eos else tokens

    def _log_error(self, record_id: str, message: str) -> None:
        self._num_errors += 1
        if self._num_errors <= MAX_LOGGED:
            more = "; further errors are only counted" if self._num_errors == MAX_LOGGED else ""
            logging.warning("The environment of a dialogue about %s failed: %s%s.", record_id, message, more)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_SECONDS)
        if not self._thread.is_alive():  # a step that blocks the loop keeps it; it is a daemon
            self._loop.close()


def _key(turn: Turn) -> TurnKey:
    return TurnKey(turn.prompt, turn.sample, turn.number)


def _checked(step: Any) -> Step:
    """Returns a step of the user's with a reward that JSON can hold; raises where it is none."""
    if not (isinstance(step, Step) and isinstance(step.observation, str) and isinstance(step.answer_text, str | None)):
        raise TypeError(f"`step` returned {step!r:.100}; it must return a Step whose texts are strings")
    reward = None if step.reward is None else float(step.reward)
    observation = step.observation.encode("utf-8", "replace").decode()  # without lone surrogates
    return step._replace(reward=reward, observation=observation)


async def _in_thread(call: Callable[[], Any]) -> Any:
    """Calls a function in a daemon thread: if it hangs, the process can still exit."""
    loop = asyncio.get_running_loop()
    result = loop.create_future()

    def resolve(set_result: Callable[[Any], None], value: Any) -> None:
        if not result.done():  # nobody waits for it any more
            set_result(value)

    def run() -> None:
        try:
            outcome = result.set_result, call()
        except BaseException as error:  # raised where the result is awaited
            outcome = result.set_exception, RuntimeError(repr(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(resolve, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await result
