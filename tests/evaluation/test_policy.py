"""Tests of loading a policy and of the text of its completions."""

import shutil
from pathlib import Path

import pytest

from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.grading.code import cut_at_stop
from dsmath_jax.models.huggingface.__main__ import import_model
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import load_model
from dsmath_jax.workdir import UserError, read_json, write_json


@pytest.fixture
def checkpoint(real_data: Path) -> Path:
    return real_data / "checkpoints" / "stories260k_hf"


def test_a_text_ends_before_the_first_stop_string() -> None:
    assert cut_at_stop("a\n\nQ: b\nQ: c", ("\n\nQ:", "\nQ:")) == "a"
    assert cut_at_stop("abc", ()) == cut_at_stop("abc", ("d",)) == "abc"


@pytest.mark.slow
def test_a_trained_checkpoint_generates_its_golden_story_in_both_formats(
    layout: Layout, tmp_path: Path, checkpoint: Path
) -> None:
    golden = read_json(checkpoint / "golden_greedy.json")
    import_model(checkpoint, tmp_path / "stage", "float32")
    completions = {}
    for name in (f"hf:{checkpoint}", str(tmp_path / "stage")):
        policy = Policy.of(load_model(name, layout, dtype="float32"), 16, 2)
        assert policy.context == 512
        completions[name] = next(
            policy.complete([policy.chat.plain("")], SamplingParams(samples=2, temperature=1.0, stop_strings=("Lily",)))
        )
    first, second = completions.values()
    assert first == second
    assert first[0] != first[1]
    ((greedy,),) = policy.complete([policy.chat.plain("")])
    assert greedy.finish == "length"
    ids = golden["greedy_tokens"][1:17]  # without BOS
    assert policy.chat.tokenizer.decode(ids).strip() == greedy.text.strip()


def test_a_prompt_that_fills_the_context_is_cut_at_once(layout: Layout, checkpoint: Path) -> None:
    """The other prompts keep their random numbers."""
    policy = Policy.of(load_model(f"hf:{checkpoint}", layout), 4, 2)
    sampling = SamplingParams(samples=2, seed=3)
    plain = list(policy.complete([policy.chat.plain(text) for text in ("One", "day", "Lily")], sampling))
    mixed = list(policy.complete([policy.chat.plain(text) for text in ("One", "a " * 600, "Lily")], sampling))
    assert mixed == [plain[0], [("", "length")] * 2, plain[2]]


def test_a_completion_keeps_the_white_space_it_begins_with(layout: Layout, checkpoint: Path) -> None:
    policy = Policy.of(load_model(f"hf:{checkpoint}", layout), 4, 2)
    prompt = policy.encode(policy.chat.plain("Once upon a time"))
    for text in ("    return there", "\n\tone", " there"):
        tokens = policy.encode(policy.chat.plain(f"Once upon a time{text}"))[len(prompt) :]
        assert policy._text(prompt, tokens) == text


def test_a_completion_is_without_the_text_of_its_stop_token(layout: Layout, tmp_path: Path, checkpoint: Path) -> None:
    """A token that ends a completion may be an ordinary piece."""
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    tokens = load_model(f"hf:{checkpoint}", layout).tokenizer.encode("day.")
    write_json(folder / "generation_config.json", {"eos_token_id": [2, tokens[-1]]})
    policy = Policy.of(load_model(f"hf:{folder}", layout), 4, 2)
    assert policy._text(policy.encode(policy.chat.plain("One")), tokens) == " day"
    sampling = SamplingParams(samples=8, temperature=1.0, seed=1)
    [group] = policy.complete([policy.chat.plain("Lily and Tom went to the park")], sampling)
    assert {each.finish for each in group} == {"eos", "length"}
    assert not any(each.text.endswith(".") for each in group)


def test_bad_checkpoints_are_one_sentence(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no tokenizer in .* or next to it; give its \.model or"):
        load_model(str(tmp_path), layout)


def test_a_folder_without_a_model_is_refused(layout: Layout, tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"has no model\.json; give the folder of a finished stage"):
        load_model(str(tmp_path), layout, tokenizer_path=str(checkpoint))
    with pytest.raises(UserError, match=r"There is no folder .*none; give that of a stage, hf:DIR, or hf:OWNER"):
        load_model(f"hf:{tmp_path}/none", layout, tokenizer_path=str(checkpoint))
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_model(f"hf:{tmp_path}", layout, tokenizer_path=str(checkpoint))
