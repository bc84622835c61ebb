"""Runs in the peers' environment: what transformers makes of tiny models, for test_huggingface_peer.py.

python hf_peer.py make FOLDER   for each NAME/asked.json in FOLDER: a random model saved as NAME/hf, its logits for
                                NAME/tokens.npy as NAME/logits.npy, its loss's gradients as NAME/gradients, and the
                                greedy continuations of the first tokens as NAME/greedy.npy
python hf_peer.py load FOLDER   the logits of each NAME/exported as NAME/exported.npy
python hf_peer.py rope FOLDER   the frequencies and attention factor of each NAME/config.json as NAME/rope.npz
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

PROMPT = 5  # tokens that are continued


def build(asked: dict) -> torch.nn.Module:
    """A random model: no bias is 0, no scale of a norm as it was initialized."""
    config = transformers.AutoConfig.for_model(**asked["config"])
    several = config.model_type == "gemma3"  # text and images
    auto = transformers.AutoModelForImageTextToText if several else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model.to(getattr(torch, asked["dtype"]))


def make(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    model = build(asked)
    model.save_pretrained(folder / "hf", max_shard_size=asked["max_shard_size"])
    model = type(model).from_pretrained(folder / "hf", dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.tensor(np.load(folder / "tokens.npy"), dtype=torch.long)
    logits = model(tokens).logits
    np.save(folder / "logits.npy", logits.detach().numpy())
    # The mean over all next tokens.
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    (folder / "gradients").mkdir()
    gradients = {name: x.grad.contiguous() for name, x in model.named_parameters() if x.grad is not None}
    save_file(gradients, folder / "gradients" / "model.safetensors")
    prompts, new = tokens[:, :PROMPT], tokens.shape[1] - PROMPT
    model.generation_config = transformers.GenerationConfig(do_sample=False, max_new_tokens=new, pad_token_id=0)
    greedy = model.generate(prompts, attention_mask=torch.ones_like(prompts))
    np.save(folder / "greedy.npy", greedy[:, PROMPT:].numpy())


def load(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "exported", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits = model(torch.tensor(np.load(folder / "tokens.npy"), dtype=torch.long)).logits
    np.save(folder / "exported.npy", logits.numpy())


def rope(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    frequencies, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")
    np.savez(folder / "rope.npz", frequencies=frequencies.numpy(), factor=factor)


if __name__ == "__main__":
    command, root = {"make": make, "load": load, "rope": rope}[sys.argv[1]], Path(sys.argv[2])
    for one in sorted(path.parent for path in root.glob("*/config.json" if command is rope else "*/asked.json")):
        command(one)
