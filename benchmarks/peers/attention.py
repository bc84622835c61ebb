"""Torch's side of `benchmarks.attention`."""

from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Runs a weighted sum of the outputs and its gradients by autograd, on a GPU if there is one."""
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    with np.load(folder / "inputs.npz") as file:
        q, k, v, weight = (torch.from_numpy(file[name]).to(device, dtype) for name in ("q", "k", "v", "weight"))
        ids = torch.from_numpy(file["segment_ids"]).to(device)
    for each in (q, k, v):
        each.requires_grad_()
    mask = None if (ids == ids[0, 0]).all() else torch.tril(ids[:, None, :, None] == ids[:, None, None, :])
    baseline = turns.baseline_bytes((q, k, v, weight, ids))

    def gradient() -> tuple[torch.Tensor, ...]:
        by_head = (each.transpose(1, 2) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(*by_head, attn_mask=mask, is_causal=mask is None)
        loss = torch.sum(out.transpose(1, 2) * weight, dtype=torch.float32)
        return loss.detach(), *torch.autograd.grad(loss, (q, k, v))

    def run() -> dict:
        gradient()
        if on_gpu:
            torch.cuda.synchronize()
        return {}

    loss, *gradients = gradient()
    # In float64: torch's float32 norm is wrong in the fourth digit.
    values = [float(loss), *(float(torch.linalg.vector_norm(each.double())) for each in gradients)]
    return {"baseline_bytes": baseline, "values": values, "version": f"torch {torch.__version__}"}, run
