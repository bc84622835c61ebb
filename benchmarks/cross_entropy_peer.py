"""The torch side of `benchmarks.cross_entropy`, run by an environment of its own.

    python -m benchmarks.cross_entropy_peer FOLDER

`constraints-peers.txt` pins that environment. Of this project only `turns` is imported, which needs nothing.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """Loss and both gradients by autograd, run once; on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hidden, targets, head = (
        torch.from_numpy(np.load(folder / f"{name}.npy")).to(device) for name in ("hidden", "targets", "head")
    )
    rows, ids = hidden.flatten(0, 1).requires_grad_(), targets.flatten().long()
    head.requires_grad_()
    before = turns.resident_bytes()

    def run() -> dict:
        loss = torch.nn.functional.cross_entropy(rows @ head, ids)
        gradients = torch.autograd.grad(loss, (rows, head))
        values = [
            float(loss.detach()),
            *(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in gradients),
        ]
        return {"values": values} | ({"peak_bytes": torch.cuda.max_memory_allocated()} if device.type == "cuda" else {})

    inputs = sum(each.numel() * each.element_size() for each in (hidden, targets, head))
    ready = {
        "inputs_bytes": inputs,
        "resident_bytes": before,
        "temporary_bytes": None,
        "version": f"torch {torch.__version__}",
    }
    return run() | ready, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
