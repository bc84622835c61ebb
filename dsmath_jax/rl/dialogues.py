"""Rollouts in turns: the dialogues of completions with the environment `rl.environment`."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.environments.dialogues import Dialogues
from dsmath_jax.environments.protocol import Environment
from dsmath_jax.environments.replies import ReplyLog
from dsmath_jax.rl.context import Context
from dsmath_jax.workdir import UserError


def question_ids(chat: Chat, make: Callable[[], Environment] | None) -> Callable[[Record], list[int]]:
    """Returns a function from a record to the ids of its prompt; an environment asks the question, if there is one."""
    if make is None:
        return chat.prompt_ids
    environment = make()

    def encode(record: Record) -> list[int]:
        question: Any = environment.reset(record)
        if not isinstance(question, str):
            raise UserError(f"environment: `reset` returned {question!r:.100} for {record.id}; it must return a text.")
        return chat.prompt_ids(dataclasses.replace(record, question=question), environment.mode)

    return encode


@contextlib.contextmanager
def open_dialogues(
    ctx: Context, records: Sequence[Record], prompts: Sequence[Sequence[int]], log: Path | None = None
) -> Iterator[Dialogues | None]:
    """Yields the partner of completions of these prompts; None without an environment.

    Args:
      ctx: of the run.
      records: of the prompts.
      prompts: their token ids.
      log: the file of the replies, from which a resumed run repeats them; None for none.
    """
    settings = ctx.settings.environment
    if settings is None or ctx.make_environment is None:
        yield None
        return
    limits = settings.limits(ctx.settings.max_new_tokens)
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(ReplyLog(log)) if log and jax.process_index() == 0 else None
        arguments = ctx.make_environment, records, prompts, ctx.chat, limits, settings.time_limit, written
        yield stack.enter_context(Dialogues(*arguments))
