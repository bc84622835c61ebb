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
from dsmath_jax.data.instructions import Conversation
from dsmath_jax.data.questions import Mode
from dsmath_jax.workdir import UserError

CHUNK = 2048  # instructions of a worker's task
IN_PROCESS = 20_000  # fewer instructions are tokenized without worker processes
MAX_HELD_OUT_SHARE = 0.1  # of the examples
MIN_EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A task of a worker: conversations, and the source of the chat template."""

    conversations: Sequence[Conversation]
    source: chats.ChatSource


def example(chat: Chat, conversation: Conversation) -> packing.Example:
    """Tokenizes a conversation, with loss on the assistant's turns and their ends.

    Raises:
      UserError: the chat template cannot be used for it.
    """
    mode: Mode = "tir" if conversation.style == "tora" else "pot" if conversation.style == "pot" else "cot"
    instruction = conversation.instruction or chat.instruction
    messages = [
        chats.user(questions.with_instruction(message.content, instruction, mode))
        if message.role == "user"
        else message
        for message in conversation.messages
    ]
    try:
        tokens = chat.tokenize(messages)
    except UserError as error:
        raise UserError(f"{conversation.id}: {error}") from None
    return packing.Example(np.array(tokens.ids, np.int32), np.array(tokens.loss_mask), conversation.id)


def encode(chunk: Chunk) -> list[packing.Example]:
    """Tokenizes a chunk of conversations."""
    chat = _chat(chunk.source)
    return [example(chat, conversation) for conversation in chunk.conversations]


def write(
    conversations: Iterable[Conversation], source: chats.ChatSource, length: int, seed: int, held_out: int,
    train_shard: Path, held_out_shard: Path,
) -> dict[str, int]:  # fmt: skip
    """Writes a training and a held-out shard of shuffled examples; returns counts. Longer ones are left out.

    Args:
      source: of the tokenizer, the chat template and the instruction.
      held_out: number of rows to hold out for the evaluation; at most a tenth of the examples.

    Raises:
      UserError: there are fewer than `MIN_EXAMPLES` examples.
    """
    records = list(conversations)
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
