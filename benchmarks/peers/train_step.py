"""The transformers and torch side of `benchmarks.train_step`."""

import json
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path, kind: str) -> tuple[dict, turns.Work]:
    """Runs a step of LlamaForCausalLM with fused AdamW and clipping, on a GPU if there is one.

    Args:
      kind: "eager" or "compiled".
    """
    task = json.loads((folder / "task.json").read_text())
    settings = task["settings"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("highest")
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, attn_implementation="sdpa"
    ).to(device)
    model.train()
    with np.load(folder / "batch.npz") as file:
        tokens, targets = (torch.from_numpy(file[name]).long().to(device) for name in ("tokens", "targets"))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings["weight_decay"]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=settings["peak_lr"],
        betas=(0.9, 0.95),
        fused=True,
    )
    forward = torch.compile(model) if kind == "compiled" else model
    half = task["model"]["compute_dtype"] == "bfloat16"

    def run(steps: int) -> dict:
        losses = []
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                # The labels are already shifted. Rows are one sequence each, so the causal kernel applies.
                loss = forward(input_ids=tokens, labels=targets, shift_labels=targets, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
            losses.append(loss.detach())
        return {"losses": [float(loss) for loss in losses]}

    version = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return run(1) | {"version": version}, lambda: run(task["steps"])
