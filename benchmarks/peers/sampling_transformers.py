"""The transformers side of `benchmarks.sampling`."""

import json
from pathlib import Path

import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]

from benchmarks import turns


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Warms up `generate` of LlamaForCausalLM, on batches of as many rows as ours decodes at a time."""
    task = json.loads((folder / "task.json").read_text())
    prompts = torch.tensor(json.loads((folder / "prompts.json").read_text()))
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    stop_ids = torch.tensor(task["stop_ids"], dtype=torch.long)

    def generate(ids: torch.Tensor, new_tokens: int, **options: object) -> torch.Tensor:
        settings = transformers.GenerationConfig(max_new_tokens=new_tokens, pad_token_id=0, bos_token_id=1, **options)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return out[:, ids.shape[1] :]

    rows = prompts.repeat_interleave(task["group"], dim=0)

    def turn() -> dict:
        tokens = 0
        for batch in rows.split(task["rows"]):
            eos = {"eos_token_id": task["stop_ids"]} if task["stop_ids"] else {}
            out = generate(batch, task["new_tokens"], do_sample=True, temperature=1.0, top_k=0, **eos)
            stops = torch.isin(out, stop_ids).int()
            tokens += int((stops.cumsum(dim=1) - stops == 0).sum())
        return {"tokens": tokens}

    torch.manual_seed(0)
    generate(rows[: task["rows"]], 4, do_sample=True, top_k=0)
    greedy = generate(prompts[:4], 8, do_sample=False).flatten().tolist()
    return {"version": f"transformers {transformers.__version__}, torch {torch.__version__}", "greedy": greedy}, turn
