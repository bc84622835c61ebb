"""The fastText classifier: learning, reproducibility, quantization."""

import dataclasses

import pytest

from dsmath_jax.corpus import classifier
from dsmath_jax.corpus.settings import FastTextSettings

SETTINGS = FastTextSettings(dim=16, lr=0.5, word_ngrams=2, min_count=1, epochs=200, bucket=5000)


def test_the_classifier_learns_and_is_reproducible(tmp_path):
    math = ["prove that \\sum x is even", "let x be a prime number", "解 方 程 x", "the integral of x \\alpha"]
    other = ["the weather in town is fine", "buy shoes at half the price", "今 天 天 气 好", "goal in the last minute"]
    examples = [
        (is_math, text)
        for pair in zip(math, other, strict=True)
        for is_math, text in zip((True, False), pair, strict=True)
    ]
    models = [classifier.train(examples, SETTINGS, 3, tmp_path / name) for name in "ab"]
    runs = [list(classifier.scores(classifier.load(model), math + other)) for model in models]
    assert runs[0] == runs[1]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert min(runs[0][:4]) > 0.7 > 0.3 > max(runs[0][4:])
    assert max(runs[0]) <= 1.0


def test_a_seed_of_more_than_31_bits_is_reduced(tmp_path):
    examples, settings = [(True, "a prime"), (False, "a shoe")], dataclasses.replace(SETTINGS, epochs=1)
    seeds = 20_261_121 * 1_000 + 1, (20_261_121 * 1_000 + 1) % 2**31, 20_261_121
    models = [classifier.train(examples, settings, seed, tmp_path / str(seed)).read_bytes() for seed in seeds]
    assert models[0] == models[1] != models[2]


def test_a_failed_training_raises(tmp_path):
    with pytest.raises(RuntimeError, match="fastText"):
        classifier.train([], SETTINGS, 0, tmp_path)


def test_a_quantized_model_is_smaller_and_has_similar_scores(tmp_path):
    examples = [
        (number % 2 == 0, " ".join(f"w{word}" for word in range(number % 7, 300, number % 5 + 2 + number % 2)))
        for number in range(60)
    ]
    models = [
        classifier.train(
            examples, dataclasses.replace(SETTINGS, epochs=20, quantize=quantize), 0, tmp_path / str(quantize)
        )
        for quantize in (False, True)
    ]
    texts = [text for _, text in examples]
    exact, quantized = (list(classifier.scores(classifier.load(model), texts)) for model in models)
    assert models[1].stat().st_size < 0.5 * models[0].stat().st_size
    assert max(abs(one - other) for one, other in zip(exact, quantized, strict=True)) < 0.2
