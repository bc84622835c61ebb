"""The fields that the command line sets, and what --help and --print_config print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax import main
from dsmath_jax.command_line import from_text, load_recipe, parse
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.settings import build, field_specs, to_dict
from dsmath_jax.training.settings import PretrainSettings
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]
EMPTY = "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n"
TINY = f"--config={ROOT / 'configs' / 'tiny.py'}"


def given(*arguments: str, config: str = TINY) -> Recipe:
    return parse(["main.py", config, *arguments])[1]


def rl_of(*arguments: str) -> RLSettings:
    rl = given(*arguments).rl
    assert rl is not None
    return rl


def pretrain_of(*arguments: str) -> PretrainSettings:
    pretrain = given(*arguments).pretrain
    assert pretrain is not None
    return pretrain


# --- values ---


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "3", 3), (int, "-1", -1), (int, "1_000", 1000), (int, "1.5", 1.5), (int, "three", "three"),
        (float, "1e-3", 1e-3), (float, "2", 2), (bool, "True", True), (bool, "false", False), (bool, "2", "2"),
        (str, "3", "3"), (str, "('a',)", "('a',)"), (str, "None", "None"),
        (str | tuple[str, ...], "2024", "2024"), (str | tuple[str, ...], "('a', 'b')", ("a", "b")),
        (str | tuple[str, ...], "(a", "(a"),
        (bool | int | float | str, "False", False), (bool | int | float | str, "1", 1),
        (bool | int | float | str, "0.5", 0.5), (bool | int | float | str, "1 Jan 2020", "1 Jan 2020"),
        (tuple[str, ...], "a.jsonl", ("a.jsonl",)), (tuple[str, ...], "3", ("3",)), (tuple[str, ...], "", ()),
        (tuple[str, ...], '("a","b")', ("a", "b")), (tuple[str, ...], "['a']", ["a"]),
        (tuple[int, ...], "5", (5,)), (tuple[int, ...], "(5, 6)", (5, 6)), (tuple[int, ...], "()", ()),
        (tuple[tuple[str, float], ...], "my:fn", ("my:fn",)),
        (tuple[tuple[str, float], ...], "(('my:fn', 0.5), 'format')", (("my:fn", 0.5), "format")),
        (dict[str, float], "{'a': 1}", {"a": 1}), (RLSettings | None, "None", None),
        (RLSettings | None, "{'steps': 3}", {"steps": 3}), (dict[str, float], "{'a': 1", "{'a': 1"),
    ],
)  # fmt: skip
def test_a_text_becomes_the_value_that_the_field_takes(hint: Any, text: str, value: Any) -> None:
    found = from_text(hint, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.rl.top_k=5", "--config.rl.allow_overlap=true", "--config.mesh.fsdp=-1"],
        ["--config.rl.top_k", "5", "--config.rl.allow_overlap", "true", "--config.mesh.fsdp", "-1"],
        ["-config.rl.top_k", "5", "--config.rl.allow_overlap", "--config.mesh.fsdp", "-1"],
        ["--config.rl.top_k=3", "--noconfig.rl.allow_overlap", "--config.rl.top_k=5", "--config.rl.allow_overlap"],
    ],
)
def test_fields_are_set_in_every_way_that_flags_are(arguments: list[str]) -> None:
    assert (rl_of(*arguments).top_k, rl_of(*arguments).allow_overlap) == (5, True)
    assert not rl_of(*arguments, "--noconfig.rl.allow_overlap").allow_overlap
    assert given(*arguments).mesh.fsdp == -1


def test_a_text_stands_for_a_tuple_of_one() -> None:
    assert rl_of("--config.rl.data=my.jsonl").data == ("my.jsonl",)
    assert build(RLSettings, {"data": "my.jsonl"}).data == ("my.jsonl",)
    assert RLSettings(eval_data="my.jsonl").eval_data == ("my.jsonl",)  # type: ignore[arg-type]


# --- dicts and parts ---


def test_a_dict_grows_on_the_command_line() -> None:
    tiny = {"corpus/en": 0.9, "corpus/zh": 0.1}
    assert pretrain_of("--config.pretrain.mixture.mine=1.0").mixture == {**tiny, "mine": 1.0}
    assert pretrain_of("--config.pretrain.mixture.corpus/en=0.5").mixture == {**tiny, "corpus/en": 0.5}
    assert pretrain_of("--config.pretrain.mixture.my.texts", "2").mixture == {**tiny, "my.texts": 2.0}
    assert given("--config.toy.problems.rl=7").toy.problems == {"train": 600, "rl": 7, "test": 300}


def test_a_dict_that_the_config_does_not_state_grows_from_its_default(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(EMPTY.replace("()\n", "({'pretrain': {}})\n"))
    for _ in range(2):  # the default itself does not grow
        recipe = given("--config.pretrain.mixture.mine=0.5", config=f"--config={path}")
        assert recipe.pretrain is not None
        assert recipe.pretrain.mixture == {"corpus": 1.0, "mine": 0.5}


def test_a_dict_is_set_as_a_whole_and_then_grows() -> None:
    whole = "--config.pretrain.mixture={'mine': 1.0}"
    assert pretrain_of(whole).mixture == {"mine": 1.0}
    assert pretrain_of(whole, "--config.pretrain.mixture.other=2").mixture == {"mine": 1.0, "other": 2.0}
    assert pretrain_of("--config.pretrain.mixture.other=2", whole).mixture == {"mine": 1.0}


def test_a_part_is_switched_off() -> None:
    assert given("--config.reward_model=None").reward_model is None
    assert given("--config.rl=None", "--config.evaluate", "None").rl is None


def test_a_part_that_is_off_is_switched_on_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    retrain = rl_of(
        "--config.rl.retrain.problems=10", "--config.rl.method=grpo_iterative", "--config.rl.rounds=2"
    ).retrain
    assert retrain is not None
    assert retrain.problems == 10
    assert caplog.messages == [f"{TINY[9:]} has no section rl.retrain; --config.rl.retrain.problems switches it on."]
    process = given("--config.process_model.kind=process").process_model
    assert process is not None
    assert process.kind == "process"
    whole = given("--config.process_model={'samples': 2}").process_model
    assert whole is not None
    assert whole.samples == 2


def test_the_method_switches_rl_on_and_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    config = f"--config={ROOT / 'configs' / 'sft_7b.py'}"
    rl = given("--config.rl.lam=0.5", "--config.rl.method=ppo", config=config).rl
    assert rl is not None
    assert to_dict(rl)["lam"] == 0.5
    assert caplog.messages == [f"{config[9:]} has no section rl; --config.rl.method switches it on."]


def test_a_part_set_as_a_whole_brings_its_method() -> None:
    algorithm = rl_of("--config.rl={'method': 'ppo'}", "--config.rl.lam=0.5").algorithm
    assert dict(to_dict(algorithm))["lam"] == 0.5


# --- reward functions ---


@pytest.mark.parametrize(
    ("reward_fns", "pairs"),
    [
        ("my:fn", (("my:fn", 1.0),)),
        (("my:fn",), (("my:fn", 1.0),)),
        (["correct", "my:fn"], (("correct", 1.0), ("my:fn", 1.0))),
        (("correct", ("my:fn", 2)), (("correct", 1.0), ("my:fn", 2.0))),
        ([["my:fn", -0.5]], (("my:fn", -0.5),)),
    ],
)
def test_reward_functions_are_pairs_however_they_are_given(reward_fns: Any, pairs: Any) -> None:
    assert build(RLSettings, {"reward_fns": reward_fns}).reward_fns == pairs
    assert RLSettings(reward_fns=reward_fns).reward_fns == pairs
    assert rl_of(f"--config.rl.reward_fns={reward_fns}").reward_fns == pairs


@pytest.mark.parametrize(
    ("reward_fns", "sentence"),
    [
        ((), "rl.reward_fns is empty; give it at least one value."),
        ("", "rl.reward_fns[0][0] is empty; give it a string."),
        (3, "rl.reward_fns is 3; it must be of the type tuple[tuple[str, float], ...]."),
        (("my:fn", 2.0), "rl.reward_fns[1] is 2.0; it must be of the type tuple[str, float]."),
        (("my:fn", "my:fn"), "rl.reward_fns names my:fn twice; give each function one weight."),
        ((("my:fn", float("nan")),), "rl.reward_fns[0][1] is nan; it must be a finite number."),
    ],
)
def test_reward_functions_that_are_none_are_refused(reward_fns: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build(RLSettings, {"reward_fns": reward_fns}, "rl.")
    assert str(caught.value) == sentence


# --- --help and --print_config ---


@pytest.fixture
def printed(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the program prints in an empty folder, in which it leaves nothing."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> str:
        main.main(["main.py", *arguments])
        assert list(Path().iterdir()) == []
        return capsys.readouterr().out

    return run


def test_help_has_a_line_for_every_field(printed: Callable[..., str]) -> None:
    out = printed(TINY, "--help", "--config.rl.kl_coef=0.1", "--config.reward_model=None", "--workdir=W")
    lines = dict(line.split(" = ", 1) for line in out.splitlines() if line.startswith("config."))
    fields = {f"config.{one.name}" for one in field_specs(Recipe, to_dict(load_recipe(TINY[9:]))) if not one.is_section}
    assert lines.keys() == fields
    assert len(fields) > 200
    assert lines["config.rl.kl_coef"].startswith("0.1  # coefficient beta of the KL to the reference model")
    assert lines["config.rl.kl_coef"].endswith(" (at least 0)")
    assert lines["config.pretrain.mixture"].startswith("{'corpus/en': 0.9, 'corpus/zh': 0.1}  # weight of each")
    assert lines["config.reward_model.samples"] == "8  # reward_model is off: completions of each question (at least 1)"
    assert "config.rl.lam" not in lines  # of another method
    assert "config.rl.lam = 0.95" in printed(TINY, "--help", "--config.rl.method=ppo")


def test_help_without_a_config_has_the_flags(printed: Callable[..., str]) -> None:
    assert "--help with" in printed("--help")
    assert "config.rl" not in printed("-h").replace("--config.rl.steps=20", "")


def test_help_of_a_part_that_cannot_do_without_a_field(printed: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(EMPTY)
    assert "config.evaluate.tasks = REQUIRED  # evaluate is off: tasks (gsm8k)" in printed(f"--config={path}", "-h")


def test_help_of_an_invalid_config_is_one_sentence(printed: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"^The config has no field 'rl\.kl_ceof' \(the nearest is 'rl\.kl_coef'\)"):
        printed(TINY, "--help", "--config.rl.kl_ceof=1")


@pytest.mark.parametrize("config", ["tiny.py", "tiny.py:sft_continued", "grpo_7b.py:ppo", "pretrain_7b.py"])
def test_print_config_prints_a_config_file_of_the_recipe_in_effect(
    config: str, printed: Callable[..., str], tmp_path: Path
) -> None:
    arguments = [f"--config={ROOT / 'configs' / config}", "--config.seed=3", "--config.corpus.fasttext.dim=8"]
    if config == "tiny.py":
        arguments += ["--config.reward_model=None", "--config.evaluate=None", "--config.toy.problems.more=1"]
    out = printed(*arguments, "--print_config", "--workdir=W")
    assert "    config.corpus.fasttext.dim = 8\n" in out
    (tmp_path / "again.py").write_text(out)
    assert load_recipe(str(tmp_path / "again.py")) == parse(["main.py", *arguments])[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--config.chat={1: {}}"], r"^chat\.1 is not a setting"),
        (
            ["--config.corpus=()", "--config.corpus.min_score=1"],
            r"^corpus is \(\), so corpus\.min_score",
        ),
        (["--config.sft.peak_lr", "-.5"], r"^sft\.peak_lr is -0\.5; it must be at least 0"),
        (["--config.pretrain.mixture={'a': 1, 1: 'x'}"], r"^pretrain\.mixture\.1 is 'x'; it must be of the type float"),
    ],
)
def test_odd_values_are_refused_in_a_sentence(changes: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(["main", TINY, *changes])
