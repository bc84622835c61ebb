"""Packs instructions into rows: renders the chat template, tokenizes in worker processes, concatenates.

Paper section 3: random examples are concatenated up to the length of a sequence; each is its own segment.
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

CHUNK = 2048  # instructions of a worker's task
IN_PROCESS = 20_000  # fewer instructions are tokenized without worker processes
MAX_HELD_OUT_SHARE = 0.1  # of the examples
MIN_EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A task of a worker: instructions, and the source of the chat."""

    instructions: Sequence[Instruction]
    source: chats.Source


def example(chat: Chat, instruction: Instruction) -> packing.Example:
    """Tokenizes an instruction; the assistant's turns with their ends are learned."""
    mode: Mode = "tir" if instruction.style == "tora" else "pot" if instruction.style == "pot" else "cot"
    below = instruction.instruction or chat.instruction
    messages = [
        chats.user(questions.instructed(message.content, below, mode)) if message.role == "user" else message
        for message in instruction.messages
    ]
    tokens = chat.tokenize(messages)
    return packing.Example(np.array(tokens.ids, np.int32), np.array(tokens.learned), instruction.id)


def encode(chunk: Chunk) -> list[packing.Example]:
    """Tokenizes a chunk of instructions."""
    chat = _chat(chunk.source)
    return [example(chat, instruction) for instruction in chunk.instructions]


def write(
    instructions: Iterable[Instruction], source: chats.Source, length: int, seed: int, held_out: int,
    train_shard: Path, held_out_shard: Path,
) -> dict[str, int]:  # fmt: skip
    """Writes a training and a held-out shard of shuffled examples; returns counts. Longer ones are left out.

    Args:
      source: of the tokenizer, the chat template and the instruction.
      held_out: number of rows to hold out for the evaluation; at most a tenth of the examples.

    Raises:
      UserError: there are fewer than `MIN_EXAMPLES` examples.
    """
    records = list(instructions)
    chunks = [Chunk(records[at : at + CHUNK], source) for at in range(0, len(records), CHUNK)]
    encoded = workers.run(encode, chunks, "tokenizing examples", 1 if len(records) < IN_PROCESS else 0)
    examples = [example for part in encoded for example in part if len(example.tokens) <= length + 1]
    if len(examples) < MIN_EXAMPLES:
        raise UserError(
            f"sft.data gives {len(examples)} examples that fit {length} tokens; at least {MIN_EXAMPLES} are needed."
        )
    random.Random(f"sft {seed}").shuffle(examples)
    num_held_out, room = 0, held_out * (length + 1)
    while num_held_out < int(len(examples) * MAX_HELD_OUT_SHARE) and room > 0:
        room -= len(examples[num_held_out].tokens)
        num_held_out += 1
    if num_held_out:
        rows.write_rows(held_out_shard, packing.pack_whole(examples[:num_held_out], length))
    # Last: if it exists, both are complete.
    rows.write_rows(train_shard, packing.pack_whole(examples[num_held_out:], length))
    return {"examples": len(examples), "too_long": len(records) - len(examples), "held_out": num_held_out}


_chat = functools.cache(chats.read)
