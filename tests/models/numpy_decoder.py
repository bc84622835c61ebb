"""The decoders of all families in NumPy and float64, token by token and head by head, over the files' own tensors."""

import math
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


def random_tensors(config: dict[str, Any]) -> Tensors:
    """Random float32 tensors of a `config.json`, under the names of its family."""
    family = config["architectures"][0].removesuffix("ForCausalLM")
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    norms = {
        "Olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
        "Gemma2": (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
        ),
    }  # fmt: skip
    norms["Gemma3"] = norms["Gemma2"]
    layer = {f"{name}.weight": (width,) for name in norms.get(family, ("input_layernorm", "post_attention_layernorm"))}
    layer |= {f"mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
    layer |= {"mlp.down_proj.weight": (width, inner), "self_attn.o_proj.weight": (width, queries)}
    layer |= {f"self_attn.{name}_proj.weight": (n, width) for name, n in zip("qkv", (queries, keys, keys), strict=True)}
    if family == "Qwen2" or config.get("attention_bias"):
        layer |= {f"self_attn.{name}_proj.bias": (n,) for name, n in zip("qkv", (queries, keys, keys), strict=True)}
    if config.get("attention_bias"):
        layer["self_attn.o_proj.bias"] = (width,)
    if family in ("Qwen3", "Gemma3"):
        layer |= {f"self_attn.{name}_norm.weight": (size,) for name in "qk"}
    if family == "Olmo2":
        layer |= {"self_attn.q_norm.weight": (queries,), "self_attn.k_norm.weight": (keys,)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    noise = np.random.default_rng(7)
    mean = 0.0 if family.startswith("Gemma") else 1.0

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("norm.weight"):
            return noise.normal(mean, 0.2, shape)
        return noise.normal(size=shape, scale=1.0 if len(shape) == 1 else shape[-1] ** -0.5)

    return {name: tensor(name, shape).astype(np.float32) for name, shape in shapes.items()}


def rope(config: dict[str, Any], sliding: bool) -> tuple[np.ndarray, float]:
    """A layer's frequencies, one at a time, and the factor of rotated queries and keys."""
    size = config["head_dim"]
    fields = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = fields.get("rope_theta", config.get("rope_theta", 10_000.0))
    if "full_attention" in fields:
        fields = fields["sliding_attention" if sliding else "full_attention"]
        base = fields["rope_theta"]
    elif sliding and "rope_local_base_freq" in config:
        fields, base = {}, config["rope_local_base_freq"]
    kind, factor = fields.get("rope_type", fields.get("type", "default")), fields.get("factor", 1.0)
    context, found = fields.get("original_max_position_embeddings"), []
    for j in range(size // 2):
        frequency = 1.0 / base ** (2 * j / size)
        wavelength = 2 * math.pi / frequency
        if kind == "linear":
            frequency /= factor
        elif kind == "llama3":
            low, high = fields["low_freq_factor"], fields["high_freq_factor"]
            if wavelength > context / low:
                frequency /= factor
            elif wavelength >= context / high:
                smooth = (context / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / factor + smooth * frequency
        elif kind == "yarn":
            ends = [
                size * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(base))
                for rotations in (fields.get("beta_fast", 32), fields.get("beta_slow", 1))
            ]
            if fields.get("truncate", True):
                ends = [math.floor(ends[0]), math.ceil(ends[1])]
            first, last = max(ends[0], 0), min(ends[1], size - 1)
            ramp = min(max((j - first) / (last - first), 0), 1)
            frequency = frequency / factor * ramp + frequency * (1 - ramp)
        found.append(frequency)
    scaling = 1.0
    if kind == "yarn":
        scaling = 0.1 * math.log(factor) + 1
        if "mscale" in fields:
            scaling = (0.1 * fields["mscale"] * math.log(factor) + 1) / (
                0.1 * fields["mscale_all_dim"] * math.log(factor) + 1
            )
    return np.array(found), scaling


def windows(config: dict[str, Any]) -> list[int | None]:
    """The sliding window of each layer."""
    family, layers = config["architectures"][0].removesuffix("ForCausalLM"), range(config["num_hidden_layers"])
    window = config.get("sliding_window")
    if family in ("Qwen2", "Qwen3") and not config.get("use_sliding_window"):
        window = None
    if "layer_types" in config:
        return [window if kind == "sliding_attention" else None for kind in config["layer_types"]]
    if family in ("Qwen2", "Qwen3"):
        return [window if i >= config.get("max_window_layers", 28) else None for i in layers]
    if family in ("Gemma2", "Gemma3"):
        return [window if (i + 1) % config.get("sliding_window_pattern", 2) else None for i in layers]
    return [window for _ in layers]


def decode(config: dict[str, Any], tensors: Tensors, tokens: np.ndarray) -> np.ndarray:
    """Logits `[T,V]` of one row of tokens."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    family = config["architectures"][0].removesuffix("ForCausalLM")
    gemma = family.startswith("Gemma")
    size, group = config["head_dim"], config["num_attention_heads"] // config["num_key_value_heads"]
    scale = config.get("query_pre_attn_scalar", size) ** -0.5

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * (w[f"{name}.weight"] + gemma)

    def maybe_norm(x: np.ndarray, name: str) -> np.ndarray:
        return norm(x, name) if f"{name}.weight" in w else x

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def capped(x: np.ndarray, field: str) -> np.ndarray:
        return config[field] * np.tanh(x / config[field]) if config.get(field) else x

    def activation(x: np.ndarray) -> np.ndarray:
        if gemma:
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x / (1 + np.exp(-x))

    def heads(x: np.ndarray, name: str) -> np.ndarray:
        if family == "Olmo2":
            x = norm(x, name)
        x = x.reshape(len(x), -1, size)
        return maybe_norm(x, name) if family != "Olmo2" else x

    def rotated(x: np.ndarray, sliding: bool) -> np.ndarray:
        """Number j of a head's first half and number j of its second are a complex number, rotated by position."""
        frequencies, factor = rope(config, sliding)
        numbers = x[..., : size // 2] + 1j * x[..., size // 2 :]
        numbers = factor * numbers * np.exp(1j * np.arange(len(x))[:, None] * frequencies)[:, None]
        return np.concatenate([numbers.real, numbers.imag], axis=-1)

    x = w["model.embed_tokens.weight"][tokens]
    if gemma:
        x = x * np.sqrt(config["hidden_size"])
    for i, window in enumerate(windows(config)):
        layer = f"model.layers.{i}."
        y = maybe_norm(x, layer + "input_layernorm")
        q, k = (
            rotated(
                heads(linear(y, f"{layer}self_attn.{name}_proj"), f"{layer}self_attn.{name}_norm"), window is not None
            )
            for name in "qk"
        )
        v = linear(y, layer + "self_attn.v_proj").reshape(len(x), -1, size)
        out = np.zeros_like(q)
        for t in range(len(x)):
            seen = slice(max(0, t + 1 - window) if window else 0, t + 1)
            for n in range(q.shape[1]):
                scores = capped(k[seen, n // group] @ q[t, n] * scale, "attn_logit_softcapping")
                weights = np.exp(scores - scores.max())
                out[t, n] = weights @ v[seen, n // group] / weights.sum()
        out = linear(out.reshape(len(x), -1), layer + "self_attn.o_proj")
        after = family == "Olmo2" or gemma
        x = x + (norm(out, layer + "post_attention_layernorm") if after else out)
        y = (
            x
            if family == "Olmo2"
            else norm(x, layer + ("pre_feedforward" if gemma else "post_attention") + "_layernorm")
        )
        inner = activation(linear(y, layer + "mlp.gate_proj")) * linear(y, layer + "mlp.up_proj")
        x = x + maybe_norm(linear(inner, layer + "mlp.down_proj"), layer + "post_feedforward_layernorm")
    head = "lm_head" if "lm_head.weight" in w else "model.embed_tokens"
    return capped(linear(norm(x, "model.norm"), head), "final_logit_softcapping")
