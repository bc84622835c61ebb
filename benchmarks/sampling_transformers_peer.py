"""The transformers side of `benchmarks.sampling`, run by an environment of its own.

    python -m benchmarks.sampling_transformers_peer FOLDER

`constraints-peers.txt` pins that environment. Of this project only `turns` is imported, which needs nothing.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, Callable[[], dict]]:
    """`generate` of LlamaForCausalLM on as many rows at a time as ours has, warmed up."""
    task = json.loads((folder / "task.json").read_text())
    prompts = torch.tensor(json.loads((folder / "prompts.json").read_text()))
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    stop_ids = torch.tensor(task["stop_ids"], dtype=torch.long)

    def generate(ids: torch.Tensor, new_tokens: int, **how: object) -> torch.Tensor:
        settings = transformers.GenerationConfig(max_new_tokens=new_tokens, pad_token_id=0, bos_token_id=1, **how)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return out[:, ids.shape[1] :]

    rows = prompts.repeat_interleave(task["group"], dim=0)

    def turn() -> dict:
        tokens = 0
        for batch in rows.split(task["rows"]):
            eos = {"eos_token_id": task["stop_ids"]} if task["stop_ids"] else {}
            out = generate(batch, task["new_tokens"], do_sample=True, temperature=1.0, top_k=0, **eos)
            ended = torch.isin(out, stop_ids).int().cumsum(dim=1)
            tokens += int((ended - torch.isin(out, stop_ids).int() == 0).sum())
        return {"tokens": tokens}

    torch.manual_seed(0)
    generate(rows[: task["rows"]], 4, do_sample=True, top_k=0)
    greedy = generate(prompts[:4], 8, do_sample=False).flatten().tolist()
    return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}", "greedy": greedy}, turn


if __name__ == "__main__":
    turns.serve(lambda: prepare(Path(sys.argv[1])))
