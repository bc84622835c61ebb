"""Stages `reward_model` and `process_model`: trained on the SFT model's own samples (paper §4.1.2-4.1.4)."""

from pathlib import Path

from dsmath_jax.data import chat as chats
from dsmath_jax.data.draw import load_evenly
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.rl.reward_model.labels import write_rows
from dsmath_jax.rl.reward_model.model import RewardModel, with_head
from dsmath_jax.rl.reward_model.settings import RewardModelSettings
from dsmath_jax.rl.reward_model.training import ROWS, train
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import LanguageModel, read_model, read_params, write_config

KINDS = {"reward_model": ("pointwise", "pairwise"), "process_model": ("process",)}  # of each stage


def run(
    folder: Path, settings: RewardModelSettings, chat_settings: ChatSettings, data_dir: Path, layout: Layout, seed: int
) -> dict:
    """Samples from `sft/` on the benchmarks of `data`, labels, and trains from the stage that `init` names.

    Writes `<stage>/{samples.jsonl,params,model.json,metrics.jsonl,summary.json}`. The folder's name is a key of KINDS.
    """
    check_choice(f"{folder.name}.kind", settings.kind, KINDS[folder.name])
    workdir, path = folder.parent, folder / ROWS
    chat = chats.read(chats.Source(workdir / "tokenizer", chat_settings))
    chats.check_same(chat, workdir / "sft")
    if not path.is_file():
        records = load_evenly(settings.data, data_dir, settings.problems, seed)
        model = read_model(workdir / "sft", layout)
        params = read_params(workdir / "sft", model.config, layout)
        policy = LanguageModel(model, params, chat, layout)
        write_rows(path, settings, policy, records, seed)
        del params, policy  # there is not always room for two models
    model = read_model(workdir / settings.init, layout)
    write_config(folder, model.config, chat)
    params = with_head(read_params(workdir / settings.init, model.config, layout), model.config.hidden_size)
    params["reward"] = layout.replicate(params["reward"])
    _, summary = train(folder, settings, RewardModel(model, params), layout, seed, [path])
    return summary
