"""One process of a small training run, for `tests/test_two_processes.py`: a tiny decoder on a mix of packed rows.

    python tests/training/resume_peer.py FOLDER '{"fsdp": 4, "tensor": 2}' PAUSE [PORT PROCESS]

PAUSE is how many seconds every batch takes longer, so that there is time to kill. With PORT it is process PROCESS of
two. It ends with 0, or as `main` does when it was preempted.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import jax
import numpy as np

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.packing import Example, concat_and_chunk
from dsmath_jax.data.rows import SUFFIX, write_rows
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.decoder import initial_params
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.model_files import build_model
from dsmath_jax.training.next_token import next_token_step
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.preemption import Preempted
from dsmath_jax.training.prefetch import Prefetch
from dsmath_jax.training.settings import PretrainSettings
from dsmath_jax.training.step import init_state

STEPS, EVERY, ROWS, LENGTH = 12, 4, 8, 32
SIZES = ModelConfig(
    vocab_size=64, num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=64, max_position_embeddings=LENGTH, compute_dtype="float32",
)  # fmt: skip
SOURCES = {"some": 0.75, "others": 0.25}  # and their weights
SETTINGS = PretrainSettings(
    steps=STEPS, checkpoint_every=EVERY, grad_accum_steps=2, peak_lr=3e-3, warmup_steps=2, batch_size=ROWS,
    sequence_length=LENGTH,
)  # fmt: skip


def write_sources(folder: Path) -> None:
    """Two sources of documents of random length and content, concatenated into rows."""
    for number, name in enumerate(SOURCES):
        noise = np.random.default_rng(number)
        documents = [noise.integers(3, SIZES.vocab_size, noise.integers(4, 60)) for _ in range(200)]
        examples = [Example(tokens, np.ones(len(tokens), bool), str(i)) for i, tokens in enumerate(documents)]
        write_rows(folder / name / f"0{SUFFIX}", concat_and_chunk(examples, LENGTH))


def main(folder: Path, sizes: dict[str, int], pause: float) -> None:
    layout, rows = Layout(make_mesh(MeshSettings(**sizes))), folder / "rows"
    if jax.process_index() == 0:
        write_sources(rows)
    barrier("rows")
    sources = [(rows / name, weight) for name, weight in SOURCES.items()]
    whole = Batches(sources, LENGTH, ROWS, seed=0)
    mine = Batches(sources, LENGTH, ROWS, seed=0, my_rows=layout.my_rows(ROWS))
    model = build_model(SIZES, layout)
    state = init_state(lambda: initial_params(model, jax.random.key(0)), make_optimizer(SETTINGS), layout)
    step = next_token_step(SETTINGS, model, layout, state)

    def make(number: int) -> dict[str, np.ndarray]:
        time.sleep(pause)
        return mine(number)

    prefetch = Prefetch(make, STEPS)
    with TrainLoop(folder, SETTINGS, layout, state, perplexity=True) as loop:
        for number in loop.steps():
            data = b"".join(array.tobytes() for _, array in sorted(whole(number).items()))
            loop.update(step, prefetch(number), {"data": float(zlib.crc32(data))})
    checkpoint.save(folder / "params", loop.state.params)


if __name__ == "__main__":
    if sys.argv[4:]:
        jax.distributed.initialize(f"127.0.0.1:{sys.argv[4]}", num_processes=2, process_id=int(sys.argv[5]))
    code = 0
    try:
        main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]))
    except Preempted as error:
        code = error.code
        print(error, file=sys.stderr, flush=True)
    if sys.argv[4:]:
        jax.distributed.shutdown()
    sys.exit(code)
