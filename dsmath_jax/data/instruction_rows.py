"""Instructions to packed rows: through the chat template, tokenised by worker processes, randomly concatenated.

Paper section 3: random examples are concatenated up to the length of a sequence; each is a segment of its own.
"""

import dataclasses
import functools
import random
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from dsmath_jax.data import chat, packing, rows, tokenizer, workers
from dsmath_jax.data.instructions import Instruction
from dsmath_jax.workdir import UserError

CHUNK = 2048  # instructions that a worker process is given at a time
IN_PROCESS = 20_000  # instructions that are not worth the start of worker processes
HELD_OUT_SHARE = 0.1  # at most; no more than the evaluation reads
FEWEST = 10


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Instructions for one worker, and the folder of the tokenizer."""

    instructions: Sequence[Instruction]
    tokenizer: Path


def example(text_tokenizer: tokenizer.Tokenizer, instruction: Instruction) -> packing.Example:
    """An instruction as tokens: the prompt is read, the solution's parts are read or learned, EOS is learned.

    Parts are tokenised one by one, as they are where a tool answers in between.
    """
    prompt = chat.prompt_ids(text_tokenizer, instruction.question)
    pieces = [(prompt, False)]
    for number, (text, learn) in enumerate(instruction.parts):
        said = text if number else chat.ASSISTANT.format(solution=text)
        pieces.append((text_tokenizer.encode(said), learn))
    pieces.append(([text_tokenizer.eos_id], True))
    tokens = np.fromiter(chain.from_iterable(ids for ids, _ in pieces), np.int32)
    learned = np.repeat([learn for _, learn in pieces], [len(ids) for ids, _ in pieces])
    return packing.Example(tokens, learned, instruction.id)


def encode(chunk: Chunk) -> list[packing.Example]:
    text_tokenizer = _tokenizer(chunk.tokenizer)
    return [example(text_tokenizer, instruction) for instruction in chunk.instructions]


def write(
    instructions: Iterable[Instruction], tokenizer_path: Path, length: int, seed: int, held_out: int,
    train_shard: Path, held_out_shard: Path,
) -> dict[str, int]:  # fmt: skip
    """Writes two shards of rows of shuffled examples; returns counts of examples. Those longer than a row are left out.

    Args:
      held_out: rows to keep apart for the evaluation, at most about so many and a tenth of the examples.

    Raises:
      UserError: there are fewer than `FEWEST` examples.
    """
    found = list(instructions)
    chunks = [Chunk(found[at : at + CHUNK], tokenizer_path) for at in range(0, len(found), CHUNK)]
    encoded = workers.run(encode, chunks, "tokenising examples", 1 if len(found) < IN_PROCESS else 0)
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


_tokenizer = functools.cache(tokenizer.load)
