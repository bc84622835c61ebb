"""The torch side of `benchmarks.attention`, run by an environment of its own.

    python -m benchmarks.attention_peer FOLDER

`constraints-peers.txt` pins that environment. Of this project only `turns` is imported, which needs nothing.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """A weighted sum of the outputs and its gradients by autograd, run once; on a GPU if there is one."""
    on_gpu = torch.cuda.is_available()
    device, dtype = (torch.device("cuda"), torch.bfloat16) if on_gpu else (torch.device("cpu"), torch.float32)
    with np.load(folder / "inputs.npz") as file:
        q, k, v, weight = (torch.from_numpy(file[name]).to(device, dtype) for name in ("q", "k", "v", "weight"))
        ids = torch.from_numpy(file["segment_ids"]).to(device)
    for each in (q, k, v):
        each.requires_grad_()
    mask = None if (ids == ids[0, 0]).all() else torch.tril(ids[:, None, :, None] == ids[:, None, None, :])
    held = sum(each.numel() * each.element_size() for each in (q, k, v, weight)) if on_gpu else turns.resident_bytes()

    def gradient() -> tuple[torch.Tensor, ...]:
        by_head = (each.transpose(1, 2) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(*by_head, attn_mask=mask, is_causal=mask is None)
        loss = torch.sum(out.transpose(1, 2) * weight, dtype=torch.float32)
        return loss.detach(), *torch.autograd.grad(loss, (q, k, v))

    def run() -> dict:
        gradient()
        if on_gpu:
            torch.cuda.synchronize()
        return {"peak_bytes": torch.cuda.max_memory_allocated()} if on_gpu else {}

    loss, *gradients = gradient()
    # In float64: torch's float32 norm is wrong in the fourth digit.
    values = [float(loss), *(float(torch.linalg.vector_norm(each.double())) for each in gradients)]
    return {"held_bytes": held, "values": values, "version": f"torch {torch.__version__}"}, run


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
