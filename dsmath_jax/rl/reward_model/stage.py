"""Stages `reward_model` and `process_model`: training on labeled samples of a policy (paper §4.1.2-4.1.4)."""

from pathlib import Path

from dsmath_jax.data import chat as chats
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import ReadRecords, check_answers
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.subsample import load_subsample, subsample
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rl.reward_model.labels import fitting_prompts, write_rows
from dsmath_jax.rl.reward_model.model import RewardModel, with_reward_head
from dsmath_jax.rl.reward_model.settings import RewardModelSettings, RewardTrainingSettings
from dsmath_jax.rl.reward_model.training import ROWS, train
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout
from dsmath_jax.training import loop
from dsmath_jax.training.lora import Adapters, write_adapters
from dsmath_jax.training.model_files import LanguageModel, write_config
from dsmath_jax.training.pretrain import initial_model, model_location
from dsmath_jax.training.settings import stages_of

KINDS = {"reward_model": ("pointwise", "pairwise"), "process_model": ("process",)}  # of each stage


def check(
    settings: RewardTrainingSettings, read: ReadRecords, chat: Chat | None, policy_config: ModelConfig | None,
    layout: Layout, seed: int,
) -> None:  # fmt: skip
    """Raises a `UserError` where training a reward model would, as far as that is known before the run.

    Args:
      settings: of a stage, or `rl.retrain`.
      read: see `datasets.ReadRecords`; returns none where the run has yet to make them.
      chat: None where the tokenizer has yet to be trained.
      policy_config: config of the policy, None where it is not known yet.
      layout: of the model and the batches.
      seed: of the sampled questions.
    """
    if chat:
        thinking_budget(chat, settings.max_thinking_tokens)
    loop.check(settings, settings.batch_size, layout)
    records = subsample([read(source, settings.columns) for source in settings.data], settings.problems, seed)
    check_answers(records)
    if records and chat and policy_config:
        fitting_prompts(settings, chat, policy_config.max_position_embeddings, records)


def run(
    folder: Path,
    settings: RewardModelSettings,
    model_section: ModelConfig | None,
    chat_settings: ChatSettings,
    data_dir: Path,
    layout: Layout,
    seed: int,
) -> dict:
    """Runs the stage: samples from the model `policy` on `data`, labels the samples, and trains the model `init`.

    Writes `<stage>/{samples.jsonl,params,model.json,metrics.jsonl,summary.json}`. The folder's name is a key of KINDS.
    """
    check_choice(f"{folder.name}.kind", settings.kind, KINDS[folder.name])
    workdir, path = folder.parent, folder / ROWS
    chat = chats.read(chats.ChatSource(workdir / "tokenizer", chat_settings))
    for stage in stages_of(settings.models):
        chats.check_same(chat, workdir / stage)
    if not path.is_file():
        records = load_subsample(settings.data, data_dir, settings.problems, seed, settings.columns)
        model, read_params = initial_model(settings.policy, model_section, workdir, data_dir, chat.tokenizer, layout)
        params = read_params(frozen=True)
        write_rows(path, settings, LanguageModel(model, params, chat, layout), records, seed)
        del params  # two models may not fit into memory
    model, read_params = initial_model(settings.init, model_section, workdir, data_dir, chat.tokenizer, layout)
    write_config(folder, model.config, chat)
    if settings.lora:
        write_adapters(folder, Adapters(settings.lora, model_location(settings.init, workdir, data_dir)))
    params = with_reward_head(read_params(frozen=settings.lora is not None), model.config.hidden_size)
    params["reward"] = layout.replicate(params["reward"])
    _, summary = train(folder, settings, RewardModel(model, params), layout, seed, [path])
    return summary
