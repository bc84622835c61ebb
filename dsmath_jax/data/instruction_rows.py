"""Instructions to packed rows: through the chat template, tokenized by worker processes, randomly concatenated.

Paper section 3: random examples are concatenated up to the length of a sequence; each is a segment of its own.
"""

import dataclasses
import functools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dsmath_jax.data import chat as chats
from dsmath_jax.data import packing, questions, rows, workers
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.instructions import Instruction
from dsmath_jax.data.questions import Mode
from dsmath_jax.workdir import UserError

CHUNK = 2048  # instructions that a worker process is given at a time
IN_PROCESS = 20_000  # instructions that are not worth the start of worker processes
HELD_OUT_SHARE = 0.1  # at most; no more than the evaluation reads
FEWEST = 10


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Instructions for one worker, and where it finds the chat."""

    instructions: Sequence[Instruction]
    source: chats.Source


def example(chat: Chat, instruction: Instruction) -> packing.Example:
    """An instruction as tokens: all of it is read, the assistant's turns with their ends are learned."""
    mode: Mode = "tir" if instruction.style == "tora" else "pot" if instruction.style == "pot" else "cot"
    below = instruction.instruction or chat.instruction
    messages = [
        chats.user(questions.instructed(message.content, below, mode)) if message.role == "user" else message
        for message in instruction.messages
    ]
    tokens = chat.dialogue(messages)
    return packing.Example(np.array(tokens.ids, np.int32), np.array(tokens.learned), instruction.id)


def encode(chunk: Chunk) -> list[packing.Example]:
    chat = _chat(chunk.source)
    return [example(chat, instruction) for instruction in chunk.instructions]


def write(
    instructions: Iterable[Instruction], source: chats.Source, length: int, seed: int, held_out: int,
    train_shard: Path, held_out_shard: Path,
) -> dict[str, int]:  # fmt: skip
    """Writes two shards of rows of shuffled examples; returns counts of examples. Those longer than a row are left out.

    Args:
      source: of the tokenizer, the chat template and the instruction.
      held_out: rows to keep apart for the evaluation, at most about so many and a tenth of the examples.

    Raises:
      UserError: there are fewer than `FEWEST` examples.
    """
    found = list(instructions)
    chunks = [Chunk(found[at : at + CHUNK], source) for at in range(0, len(found), CHUNK)]
    encoded = workers.run(encode, chunks, "tokenizing examples", 1 if len(found) < IN_PROCESS else 0)
    examples = [one for part in encoded for one in part if len(one.tokens) <= length + 1]
    if len(examples) < FEWEST:
        raise UserError(
            f"sft.data gives {len(examples)} examples that fit {length} tokens; at least {FEWEST} are needed."
        )
    random.Random(f"sft {seed}").shuffle(examples)
    apart, room = 0, held_out * (length + 1)
    while apart < int(len(examples) * HELD_OUT_SHARE) and room > 0:
        room -= len(examples[apart].tokens)
        apart += 1
    if apart:
        rows.write_rows(held_out_shard, packing.fit_whole(examples[:apart], length))
    # Last: its name says that both are there.
    rows.write_rows(train_shard, packing.fit_whole(examples[apart:], length))
    return {"examples": len(examples), "too_long": len(found) - len(examples), "held_out": apart}


_chat = functools.cache(chats.read)
