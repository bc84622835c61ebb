"""Maps parameters to Hugging Face's tensors: their names and the layout of their axes."""

import math
import re
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


# Of all families, in the order of export; a family may have other names for some (families.py).
PARAMS: dict[str, ParamSpec] = {
    "embedding": ParamSpec("model.embed_tokens.weight", 0),
    "layers/attention_norm/scale": ParamSpec("model.layers.{i}.input_layernorm.weight", 0),
    "layers/attention_post_norm/scale": ParamSpec("model.layers.{i}.post_attention_layernorm.weight", 0),
    "layers/q": ParamSpec("model.layers.{i}.self_attn.q_proj.weight", 1),
    "layers/k": ParamSpec("model.layers.{i}.self_attn.k_proj.weight", 1),
    "layers/v": ParamSpec("model.layers.{i}.self_attn.v_proj.weight", 1),
    "layers/o": ParamSpec("model.layers.{i}.self_attn.o_proj.weight", 2),
    "layers/q_bias": ParamSpec("model.layers.{i}.self_attn.q_proj.bias", 0),
    "layers/k_bias": ParamSpec("model.layers.{i}.self_attn.k_proj.bias", 0),
    "layers/v_bias": ParamSpec("model.layers.{i}.self_attn.v_proj.bias", 0),
    "layers/o_bias": ParamSpec("model.layers.{i}.self_attn.o_proj.bias", 0),
    "layers/q_norm/scale": ParamSpec("model.layers.{i}.self_attn.q_norm.weight", 0),
    "layers/k_norm/scale": ParamSpec("model.layers.{i}.self_attn.k_norm.weight", 0),
    "layers/feed_forward_norm/scale": ParamSpec("model.layers.{i}.post_attention_layernorm.weight", 0),
    "layers/feed_forward_post_norm/scale": ParamSpec("model.layers.{i}.post_feedforward_layernorm.weight", 0),
    "layers/gate": ParamSpec("model.layers.{i}.mlp.gate_proj.weight", 1),
    "layers/up": ParamSpec("model.layers.{i}.mlp.up_proj.weight", 1),
    "layers/down": ParamSpec("model.layers.{i}.mlp.down_proj.weight", 1),
    "final_norm/scale": ParamSpec("model.norm.weight", 0),
    "head": ParamSpec("lm_head.weight", 1),
}

# The decoder's tensors in a model of text and images, in the files of its authors and of transformers.
TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
# What is not read: the rotary frequencies of every layer in old files, and the other parts of such a model.
IGNORED = re.compile(r"rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\.")


def text_name(name: str) -> str:
    """Returns the name of a tensor as it is in a model of text alone."""
    for prefix, replacement in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
