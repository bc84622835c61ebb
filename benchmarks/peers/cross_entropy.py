"""Torch's side of `benchmarks.cross_entropy`."""

from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Runs the loss with both gradients by autograd, on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = [torch.from_numpy(np.load(folder / f"{name}.npy")).to(device) for name in ("hidden", "targets", "head")]
    hidden, targets, head = inputs
    rows, ids = hidden.flatten(0, 1).requires_grad_(), targets.flatten().long()
    head.requires_grad_()
    baseline = turns.baseline_bytes(inputs)

    def run() -> dict:
        loss = torch.nn.functional.cross_entropy(rows @ head, ids)
        gradients = torch.autograd.grad(loss, (rows, head))
        norms = (float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in gradients)
        return {"values": [float(loss.detach()), *norms]}

    run()
    return {"baseline_bytes": baseline, "temporary_bytes": None, "version": f"torch {torch.__version__}"}, run
