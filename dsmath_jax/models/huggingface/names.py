"""Maps parameters to Hugging Face's tensors: their names and the layout of their axes."""

import math
from typing import NamedTuple


class ParamSpec(NamedTuple):
    """The tensors of one parameter."""

    name: str  # with {i} for the layer, where the parameter stacks the layers on its first axis
    inputs: int  # the number of axes (after the layers') that are a matrix's inputs; 0: the tensor has the same shape

    @property
    def stacked(self) -> bool:
        """Whether there is a tensor per layer."""
        return "{i}" in self.name

    def names(self, layers: int) -> list[str]:
        """Returns the names of the tensors, by layer where they are stacked."""
        return [self.name.format(i=i) for i in range(layers)] if self.stacked else [self.name]

    def tensor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of each tensor: a matrix is `[outputs, inputs]`, the parameter has inputs first."""
        shape = shape[1:] if self.stacked else shape
        return (math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])) if self.inputs else shape


PARAMS: dict[str, ParamSpec] = {
    "embedding": ParamSpec("model.embed_tokens.weight", 0),
    "layers/attention_norm/scale": ParamSpec("model.layers.{i}.input_layernorm.weight", 0),
    "layers/q": ParamSpec("model.layers.{i}.self_attn.q_proj.weight", 1),
    "layers/k": ParamSpec("model.layers.{i}.self_attn.k_proj.weight", 1),
    "layers/v": ParamSpec("model.layers.{i}.self_attn.v_proj.weight", 1),
    "layers/o": ParamSpec("model.layers.{i}.self_attn.o_proj.weight", 2),
    "layers/feed_forward_norm/scale": ParamSpec("model.layers.{i}.post_attention_layernorm.weight", 0),
    "layers/gate": ParamSpec("model.layers.{i}.mlp.gate_proj.weight", 1),
    "layers/up": ParamSpec("model.layers.{i}.mlp.up_proj.weight", 1),
    "layers/down": ParamSpec("model.layers.{i}.mlp.down_proj.weight", 1),
    "final_norm/scale": ParamSpec("model.norm.weight", 0),
    "head": ParamSpec("lm_head.weight", 1),
}

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
