"""Attention and its gradients in NumPy and float64 from all scores: the reference for every backend."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """Inputs of attention, float64, and the weights of its outputs in a loss. The queries begin at token `first`; the
    rest is as in `AttentionSpec`.
    """

    q: np.ndarray  # [B,T,N,H]
    k: np.ndarray  # [B,S,K,H]
    v: np.ndarray
    segments: np.ndarray  # [B,S]
    weight: np.ndarray  # [B,T,N,H]
    first: int = 0
    scale: float | None = None
    softcap: float = 0.0
    window: int = 0


def case(
    segments: np.ndarray, heads: int, kv_heads: int, size: int, length: int = 0, first: int = 0, seed: int = 0
) -> Case:
    """Random inputs; `length` queries, 0 for one of every token."""
    (batch, tokens), noise = segments.shape, np.random.default_rng(seed)
    q, weight = noise.normal(size=(2, batch, length or tokens, heads, size))
    k, v = noise.normal(size=(2, batch, tokens, kv_heads, size))
    return Case(q, k, v, segments.astype(np.int32), weight, first)


def segments_of(tokens: int, *rows: tuple[int, ...]) -> np.ndarray:
    """Segment ids from the lengths of each row's segments; what is left is padding."""
    ids = [np.repeat(np.arange(1, len(lengths) + 1), lengths) for lengths in rows]
    return np.stack([np.pad(row, (0, tokens - len(row))) for row in ids]).astype(np.int32)


def attention(case: Case) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Output, and the gradients of sum(output * weight) by q, k and v."""
    q, k, v, segments, weight, first, scale, softcap, window = case
    groups, scale = q.shape[2] // k.shape[2], scale or q.shape[3] ** -0.5
    wide_k, wide_v = (np.repeat(x, groups, axis=2) for x in (k, v))
    places = first + np.arange(q.shape[1])
    ago = places[:, None] - np.arange(k.shape[1])
    seen = (segments[:, places, None] == segments[:, None, :]) & (ago >= 0) & (ago < (window or k.shape[1]))
    scores = np.einsum("btnh,bsnh->bnts", q, wide_k) * scale
    slope = 1.0
    if softcap:
        slope = np.cosh(scores / softcap) ** -2
        scores = softcap * np.tanh(scores / softcap)
    scores = np.where(seen[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bnts,bsnh->btnh", weights, wide_v)
    by_weights = np.einsum("btnh,bsnh->bnts", weight, wide_v)
    by_scores = weights * (by_weights - np.sum(by_weights * weights, axis=-1, keepdims=True)) * scale * slope
    by_q = np.einsum("bnts,bsnh->btnh", by_scores, wide_k)
    wide = (np.einsum("bnts,btnh->bsnh", by_scores, q), np.einsum("bnts,btnh->bsnh", weights, weight))
    by_k, by_v = (x.reshape(*k.shape[:3], groups, -1).sum(axis=3) for x in wide)
    return out, (by_q, by_k, by_v)
