"""Runs in the peers' environment, for test_lora_peer.py: the logits of models with adapters, as peft loads them.

python peft_peer.py FOLDER   the logits of each NAME/base with NAME/adapters for NAME/tokens.npy as NAME/logits.npy, and
                             those of the model that peft merges as NAME/merged.npy
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel


def main(root: Path) -> None:
    for folder in sorted(root.iterdir()):
        base = transformers.AutoModelForCausalLM.from_pretrained(
            folder / "base", dtype=torch.float32, attn_implementation="eager"
        )
        model = PeftModel.from_pretrained(base, folder / "adapters").eval()
        tokens = torch.tensor(np.load(folder / "tokens.npy"), dtype=torch.long)
        with torch.no_grad():
            np.save(folder / "logits.npy", model(tokens).logits.numpy())
            np.save(folder / "merged.npy", model.merge_and_unload()(tokens).logits.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
