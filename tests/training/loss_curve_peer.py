"""The transformers and torch side of `test_loss_curve.py`, run by the interpreter of the peers' environment.

    python loss_curve_peer.py FOLDER

FOLDER is a Hugging Face folder with the weights at the first step, and holds `optimizer.json` (numbers) and
`batches.npz` (a step on the first axis); it gets `curve.json`. Nothing of the project is imported.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM


def learning_rate(step: int, peak: float, warmup: int, total: int) -> float:
    """Paper section 2.2: linear warm-up, the peak, 31.6 % of it from 80 % of training, 10 % from 90 %."""
    if step + 1 < warmup:
        return peak * (step + 1) / warmup
    return peak if step < 0.8 * total else 0.316 * peak if step < 0.9 * total else 0.1 * peak


def packed_mask(segment_ids: torch.Tensor) -> torch.Tensor:
    """`[B,1,T,T]`, True where a token sees another: itself and the earlier ones of its own segment."""
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))[:, None]


def main(folder: Path) -> None:
    optim = json.loads((folder / "optimizer.json").read_text())
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    scales = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optim["weight_decay"]}, {"params": scales, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    with np.load(folder / "batches.npz") as file:
        batches = {name: torch.from_numpy(file[name]) for name in file.files}
    steps = len(batches["tokens"])
    losses, norms = [], []
    for step in range(steps):
        tokens, targets, segments, positions = (
            batches[name][step].long() for name in ("tokens", "targets", "segment_ids", "positions")
        )
        weights = batches["loss_weights"][step]
        logits = model(tokens, attention_mask=packed_mask(segments), position_ids=positions, use_cache=False).logits
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (each * weights.flatten()).sum() / weights.sum()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, optim["peak_lr"], optim["warmup_steps"], steps)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip_norm"])))
        optimizer.step()
        losses.append(float(loss))
    (folder / "curve.json").write_text(json.dumps({"loss": losses, "grad_norm": norms}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
