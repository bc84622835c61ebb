"""Settings of the stage `rl`: the method's algorithm takes its fields from them, and invalid ones are refused."""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood
from dsmath_jax.rl.methods import METHODS, REWARD_STAGES
from dsmath_jax.rl.reward_model.settings import RetrainSettings
from dsmath_jax.rl.settings import DEFAULT_METHOD, RLSettings
from dsmath_jax.settings import build, field_values, to_dict
from dsmath_jax.workdir import UserError

EACH_METHOD = pytest.mark.parametrize("method", METHODS)
ALGORITHMS = {method.algorithm for method in METHODS.values()}
EACH_ALGORITHM = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS, key=lambda cls: cls.__name__))


def given_for(method: str) -> dict[str, Any]:
    """The least that a recipe gives for a method."""
    return {"method": method} | ({"rounds": 2, "retrain": {}} if METHODS[method].iterative else {})


def rl_settings(given: Mapping[str, Any]) -> RLSettings:
    return build(RLSettings, given, "rl.")


def shared_fields(algorithm: type[Algorithm]) -> set[str]:
    """Names that are fields of the settings and of the algorithm."""
    return {field.name for field in dataclasses.fields(algorithm)} & {f.name for f in dataclasses.fields(RLSettings)}


# --- the algorithm's own fields ---


@EACH_METHOD
def test_every_method_is_built_with_its_algorithm(method: str) -> None:
    settings = rl_settings(given_for(method))
    assert type(settings.algorithm) is METHODS[method].algorithm
    assert settings.algorithm == METHODS[method].algorithm()


def test_without_a_method_the_default_is_built() -> None:
    assert rl_settings({}) == RLSettings()
    assert METHODS[DEFAULT_METHOD].algorithm is type(RLSettings().algorithm)


@EACH_METHOD
def test_a_recipe_of_every_method_is_built_again_and_described(method: str) -> None:
    settings = rl_settings(given_for(method) | {"temperature": 0.7})
    assert rl_settings(json.loads(json.dumps(to_dict(settings)))) == settings
    described = list(field_values(settings, "rl."))
    assert all(one.help for one in described)
    assert len({one.name for one in described}) == len(described)
    assert {f"rl.{field.name}" for field in dataclasses.fields(settings.algorithm)} <= {one.name for one in described}


@pytest.mark.parametrize(
    ("given", "algorithm"),
    [
        ({"method": "ppo", "lam": 0.9, "kl_coef": 0.1}, PPO(lam=0.9, kl_coef=0.1)),
        ({"method": "dpo", "beta": 0.3, "length_normalized": False}, DPO(beta=0.3, length_normalized=False)),
        ({"method": "rft", "normalize_by_correct": True}, Likelihood(normalize_by_correct=True)),
        ({"clip_eps": 0.1, "clip_eps_high": 0.28, "kl": "k2"}, GRPO(clip_eps=0.1, clip_eps_high=0.28, kl="k2")),
    ],
)
def test_an_algorithms_fields_stand_flat_in_the_recipe(given: dict, algorithm: Algorithm) -> None:
    assert rl_settings(given).algorithm == algorithm


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("dpo", "clip_eps", 0.1),
        ("dpo", "normalize_by_correct", True),
        ("grpo_rule", "lam", 0.9),
        ("grpo_rule", "beta", 0.1),
        ("ppo", "ddof", 1),
        ("ppo", "normalize", "token"),
        ("sft", "kl_coef", 0.1),
        ("online_rft", "length_normalized", True),
    ],
)
def test_a_recipe_takes_no_field_of_another_algorithm(method: str, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^rl\.{field} is not a setting.*; remove it or correct its name\.$"):
        rl_settings({"method": method, field: value})


# --- fields that the settings share with the algorithm ---


def test_these_fields_are_shared() -> None:
    assert shared_fields(GRPO) == {"temperature", "max_new_tokens"}
    assert [shared_fields(cls) for cls in (PPO, DPO, Likelihood)] == [{"temperature"}] * 3


@EACH_ALGORITHM
def test_defaults_of_shared_fields_agree(algorithm: type[Algorithm]) -> None:
    settings = RLSettings()
    for name in shared_fields(algorithm):
        assert getattr(algorithm(), name) == getattr(settings, name)


@EACH_METHOD
def test_the_algorithm_samples_at_the_temperature_of_the_settings(method: str) -> None:
    settings = rl_settings(given_for(method) | {"temperature": 0.25})
    assert settings.algorithm.temperature == settings.temperature == 0.25
    described = {one.name: one.value for one in field_values(settings)}
    assert described["temperature"] == to_dict(settings)["temperature"] == 0.25


def test_the_settings_win_over_an_algorithm_that_was_given_other_values() -> None:
    settings = RLSettings(
        temperature=0.5, max_new_tokens=12, algorithm=GRPO(temperature=0.9, max_new_tokens=99, kl_coef=0.7)
    )
    assert settings.algorithm == GRPO(temperature=0.5, max_new_tokens=12, kl_coef=0.7)
    later = dataclasses.replace(settings, temperature=0.25)
    assert later.algorithm == GRPO(temperature=0.25, max_new_tokens=12, kl_coef=0.7)
    assert rl_settings({"max_new_tokens": 12}).algorithm == GRPO(max_new_tokens=12)


def test_equal_settings_have_one_algorithm_whose_loss_is_compiled_once() -> None:
    one, same, other = (rl_settings({"kl_coef": kl_coef}).algorithm for kl_coef in (0.1, 0.1, 0.2))
    assert one is same
    assert one != other


# --- refusals ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"method": "grpo"},
            f"rl.method must be one of {', '.join(map(repr, METHODS))}, or package.module:NAME; got 'grpo'.",
        ),
        ({"reward": "rules"}, "rl.reward must be one of '', 'rule', 'outcome', 'process'; got 'rules'."),
        ({"old_logprobs": "policy"}, "rl.old_logprobs must be one of 'trainer', 'sampler'; got 'policy'."),
        ({"reference_memory": "disk"}, "rl.reference_memory must be one of 'device', 'host'; got 'disk'."),
        ({"group_size": 1}, "rl.group_size is 1; it must be at least 2."),
        ({"temperature": 0}, "rl.temperature is 0.0; it must be above 0."),
        ({"temperature": -0.5}, "rl.temperature is -0.5; it must be above 0."),
        ({"prompts_per_step": 0}, "rl.prompts_per_step is 0; it must be at least 1."),
        ({"num_updates": 0}, "rl.num_updates is 0; it must be at least 1."),
        ({"rounds": 0}, "rl.rounds is 0; it must be at least 1."),
        ({"max_new_tokens": 0}, "rl.max_new_tokens is 0; it must be at least 1."),
        ({"method": "dpo", "max_new_tokens": 0}, "rl.max_new_tokens is 0; it must be at least 1."),
        ({"method": "rft", "reward": "outcome"}, "rl.reward is outcome, which method=rft cannot take; leave it empty."),
        ({"method": "dpo", "reward": "process"}, "rl.reward is process, which method=dpo cannot take; leave it empty."),
        ({"method": "sft", "reward": "rule"}, "rl.reward is rule, which method=sft cannot take; leave it empty."),
        (
            {"method": "rft", "reward_fns": (("format", 1.0),)},
            "rl.reward_fns is (('format', 1.0),), but method=rft has no rollouts of the policy and ignores it; leave "
            "it out.",
        ),
        *(
            (
                {"method": method, name: value},
                f"rl.{name} is {value!r}, but method={method} has no rollouts of the policy and ignores it; leave it "
                "out.",
            )
            for method, name, value in (
                ("dpo", "top_p", 0.9),
                ("rft", "top_k", 5),
                ("dpo", "num_updates", 2),
                ("rft", "log_samples", "all"),
                ("sft", "old_logprobs", "sampler"),
                ("sft", "filtered_in_baseline", False),
                ("rft", "rollout_filter", ("zero_std",)),
            )
        ),
        ({"rounds": 2}, "rl.rounds is 2; method=grpo_rule takes 1."),
        ({"method": "grpo_iterative", "retrain": {}}, "rl.rounds is 1; method=grpo_iterative takes at least 2."),
        (
            {"method": "grpo_iterative", "rounds": 2, "reward": "rule", "retrain": {}},
            "rl.reward is rule, but method=grpo_iterative trains a reward model; give outcome or process.",
        ),
        (
            {"method": "grpo_iterative", "rounds": 2},
            "rl.retrain is missing; method=grpo_iterative trains the reward model further with it.",
        ),
        (
            {"steps": 10, "num_updates": 3},
            "rl.steps is 10, which is not divisible into rounds=1 of whole rollouts of num_updates=3 x minibatches=1 "
            "steps; change one of them.",
        ),
        (
            {"method": "grpo_iterative", "rounds": 3, "steps": 10, "retrain": {}},
            "rl.steps is 10, which is not divisible into rounds=3 of whole rollouts of num_updates=1 x "
            "minibatches=1 steps; change one of them.",
        ),
        (
            {"method": "grpo_iterative", "rounds": 2, "steps": 6, "num_updates": 2, "retrain": {}},
            "rl.steps is 6, which is not divisible into rounds=2 of whole rollouts of num_updates=2 x "
            "minibatches=1 steps; change one of them.",
        ),
        ({"kl": "k4"}, "rl.kl must be one of 'k1', 'k2', 'k3'; got 'k4'."),
        ({"normalize": "mean"}, "rl.normalize must be one of 'completion', 'token', 'constant', 'sum'; got 'mean'."),
        ({"schedule": "cosine"}, "rl.schedule must be one of 'multi_step', 'constant'; got 'cosine'."),
        ({"keep_checkpoints": 0}, "rl.keep_checkpoints is 0; it must be at least 1."),
        (
            {"method": "grpo_iterative", "rounds": 2, "retrain": {"kind": "listwise"}},
            "rl.retrain.kind must be one of 'pointwise', 'pairwise', 'process'; got 'listwise'.",
        ),
        ({"algorithm": {}}, "rl.algorithm is not a setting; remove it or correct its name."),
        (
            {"loss": "clap"},
            "rl.loss must be one of 'clip', 'sequence_clip', 'cispo', or package.module:NAME; got 'clap'.",
        ),
        ({"loss": "math:pi"}, "rl.loss: 'math:pi' is of the type float; it must be a function."),
        (
            {"advantage": "nowhere:f"},
            "rl.advantage: 'nowhere:f' cannot be used (ModuleNotFoundError: No module named 'nowhere'); name an object "
            "that can be imported from where the run starts, as package.module:NAME.",
        ),
        (
            {"rollout_filter": "zero"},
            "rl.rollout_filter must be one of 'truncated', 'zero_std', 'incorrect', or package.module:NAME; got "
            "'zero'.",
        ),
        (
            {"method": "math:pi"},
            "rl.method: 'math:pi' is of the type float; it must be a Method or a class of Algorithm.",
        ),
        (
            {"prompts_per_step": 3, "minibatches": 2},
            "rl.prompts_per_step is 3, which is not divisible by minibatches=2; a minibatch has whole groups.",
        ),
        (
            {"process_credit": "min"},
            "rl.process_credit is min, but the reward of method=grpo_rule has no steps; set reward=process.",
        ),
        (
            {"method": "rloo", "process_credit": "min"},
            "rl.process_credit is min, which nothing uses with these settings; leave it out.",
        ),
        ({"kl_coef": 0.0, "kl_clip": 9.0}, "rl.kl_clip is 9.0, which nothing uses with these settings; leave it out."),
        (
            {"max_gen_batches": 2},
            "rl.max_gen_batches is 2, but without rollout_filter every group has loss; set it.",
        ),
        (
            {"oversample": 2, "environment": {"name": "calculator"}},
            "rl.oversample is 2, but dialogues with an environment cannot be dropped; leave one out.",
        ),
        (
            {"method": "rft", "rollouts_ahead": 1},
            "rl.rollouts_ahead is 1, but method=rft has no rollouts of the policy and ignores it; leave it out.",
        ),
        ({"rollouts_ahead": 2}, "rl.rollouts_ahead is 2; it must be at most 1."),
        (
            {"kl_in": "reward"},
            "rl.kl_in is reward, but advantage=group is not made of rewards with a KL; choose another advantage, or "
            "kl_in=loss.",
        ),
        ({"teacher": "sft"}, "rl.teacher is 'sft', which method=grpo_rule does not use; leave it out."),
        (
            {"reference_model": "sft", "kl_coef": 0.0},
            "rl.reference_model is 'sft', which method=grpo_rule does not use; leave it out.",
        ),
        (
            {"old_logprobs": "sampler", "sampler_correction": "mask"},
            "rl.sampler_correction needs the trainer's log-probabilities; set old_logprobs=trainer.",
        ),
        (
            {"min_pass_rate": 0.8, "max_pass_rate": 0.2},
            "rl.min_pass_rate is 0.8, above max_pass_rate=0.2; swap them.",
        ),
        (
            {"step_rewards": "monte_carlo"},
            "rl.step_rewards is 'monte_carlo', which method=grpo_rule with reward=rule does not use; leave it out.",
        ),
    ],
)
def test_invalid_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        rl_settings(given)
    assert re.sub(r" \(the nearest is '\w+'\)", "", str(refused.value)) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "dpo", "algorithm": PPO()}, "algorithm is PPO; method=dpo needs DPO."),
        ({"method": "grpo_os", "algorithm": PPO()}, "algorithm is PPO; method=grpo_os needs GRPO."),
        ({"temperature": float("nan")}, "temperature is nan; it must be a finite number."),
    ],
)
def test_invalid_settings_are_refused_without_a_recipe(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        RLSettings(**given)
    assert str(refused.value) == message


def test_an_unknown_method_is_refused_without_a_recipe() -> None:
    with pytest.raises(UserError, match=r"^rl.method must be one of 'sft', .*; got 'grpo'"):
        RLSettings(method="grpo")


def test_valid_neighbors_of_what_is_refused() -> None:
    rl_settings({"method": "rft", "reward": "rule"})  # its own
    rl_settings({"method": "rft", "reward_fns": [["correct", 1.0]], "top_k": 0})  # what it does
    rl_settings({"steps": 9, "num_updates": 3})
    assert rl_settings({"group_size": 2, "prompts_per_step": 3}).samples_per_step == 6
    iterative = rl_settings(
        {"method": "grpo_iterative", "rounds": 2, "steps": 8, "num_updates": 2, "reward": "process", "retrain": {}}
    )
    assert iterative.retrain == RetrainSettings()
    assert not {"init", "policy"} & {field.name for field in dataclasses.fields(RetrainSettings)}  # nothing reads them
    assert iterative.retrain_data == iterative.data == ("toy/rl",)


# --- what follows from the settings ---


@EACH_METHOD
def test_the_reward_is_the_methods_own_unless_one_is_given(method: str) -> None:
    settings = rl_settings(given_for(method))
    assert settings.reward_source == METHODS[method].reward
    assert settings.reward_stage == REWARD_STAGES.get(METHODS[method].reward)


def test_a_given_reward_replaces_the_methods_own() -> None:
    assert rl_settings({"method": "ppo", "reward": "rule"}).reward_stage is None
    assert rl_settings({"method": "grpo_rule", "reward": "process"}).reward_stage == "process_model"
    assert rl_settings({"method": "online_rft", "reward": "outcome"}).reward_stage == "reward_model"


def test_decode_slots_default_to_all_completions_of_a_rollout() -> None:
    sizes = {"prompts_per_step": 3, "group_size": 4}
    assert rl_settings(sizes).num_decode_slots == 12
    assert rl_settings(sizes | {"decode_slots": 5}).num_decode_slots == 5
