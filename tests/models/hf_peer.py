"""Runs in the peers' environment: what transformers makes of LLaMA configs, for test_huggingface_peer.py.

python hf_peer.py make FOLDER   for each NAME/asked.json in FOLDER: a random model saved as NAME/hf, its logits for
                                NAME/tokens.npy as NAME/logits.npy, its loss's gradients as NAME/gradients
python hf_peer.py load FOLDER   the logits of each NAME/exported as NAME/exported.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file


def make(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**asked["config"], initializer_range=0.3)
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, asked["dtype"]))
    model.save_pretrained(folder / "hf", max_shard_size=asked["max_shard_size"])
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    tokens = torch.tensor(np.load(folder / "tokens.npy"), dtype=torch.long)
    logits = model(tokens).logits
    np.save(folder / "logits.npy", logits.detach().numpy())
    # The mean over all next tokens.
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    (folder / "gradients").mkdir()
    gradients = {name: weight.grad.contiguous() for name, weight in model.named_parameters()}
    save_file(gradients, folder / "gradients" / "model.safetensors")


def load(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "exported", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor(np.load(folder / "tokens.npy"), dtype=torch.long)).logits
    np.save(folder / "exported.npy", logits.numpy())


if __name__ == "__main__":
    command, root = {"make": make, "load": load}[sys.argv[1]], Path(sys.argv[2])
    for one in sorted(path.parent for path in root.glob("*/asked.json")):
        command(one)
