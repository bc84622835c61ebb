"""Which of our leaves is which of their tensors, and how its axes lie there."""

import math
from typing import NamedTuple


class Leaf(NamedTuple):
    """Where one of our leaves is found in their files."""

    name: str  # with {i} for the layer, where ours stacks the layers on its first axis
    inputs: int  # how many of our axes (after the layers') are a matrix's inputs; 0: the tensor is the same in both

    @property
    def stacked(self) -> bool:
        return "{i}" in self.name

    def names(self, layers: int) -> list[str]:
        """Their tensors, in the order of our first axis."""
        return [self.name.format(i=i) for i in range(layers)] if self.stacked else [self.name]

    def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each of their tensors: a matrix is flattened to `[outputs, inputs]`, ours has inputs first."""
        shape = ours[1:] if self.stacked else ours
        return (math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])) if self.inputs else shape


LEAVES: dict[str, Leaf] = {
    "embedding": Leaf("model.embed_tokens.weight", 0),
    "layers/attention_norm/scale": Leaf("model.layers.{i}.input_layernorm.weight", 0),
    "layers/q": Leaf("model.layers.{i}.self_attn.q_proj.weight", 1),
    "layers/k": Leaf("model.layers.{i}.self_attn.k_proj.weight", 1),
    "layers/v": Leaf("model.layers.{i}.self_attn.v_proj.weight", 1),
    "layers/o": Leaf("model.layers.{i}.self_attn.o_proj.weight", 2),
    "layers/feed_forward_norm/scale": Leaf("model.layers.{i}.post_attention_layernorm.weight", 0),
    "layers/gate": Leaf("model.layers.{i}.mlp.gate_proj.weight", 1),
    "layers/up": Leaf("model.layers.{i}.mlp.up_proj.weight", 1),
    "layers/down": Leaf("model.layers.{i}.mlp.down_proj.weight", 1),
    "final_norm/scale": Leaf("model.norm.weight", 0),
    "head": Leaf("lm_head.weight", 1),
}

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
