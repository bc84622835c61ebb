"""The stages of a run in order: the sections of the recipe that each uses, its checks and outputs."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax

from dsmath_jax import stage_inputs as inputs
from dsmath_jax.data import (
    chat,
    chat_template,
    datasets,
    documents,
    hub,
    instructions,
    overlap,
    own_data,
    tokenizer,
)
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.evaluation import evaluate
from dsmath_jax.evaluation.settings import MODELS
from dsmath_jax.extras import required_by
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.recipe import Recipe
from dsmath_jax.report import report
from dsmath_jax.rl import checks as rl_checks
from dsmath_jax.rl import findings, trainer
from dsmath_jax.rl.reward_model import stage as reward_model
from dsmath_jax.runner import Stage, folder_of, plan, select
from dsmath_jax.sampling.thinking import thinking_budget
from dsmath_jax.settings import check_choice, fingerprint
from dsmath_jax.sharding import Layout, barrier, broadcast_json, make_mesh
from dsmath_jax.stage_inputs import required
from dsmath_jax.toy import world
from dsmath_jax.training import loop, model_files, pretrain, sft
from dsmath_jax.training.model_files import check_import, read_model_config
from dsmath_jax.training.settings import hugging_face_folder, stages_of
from dsmath_jax.workdir import UserError, data_folder

# --- run ---


def run_corpus(recipe: Recipe, workdir: Path) -> dict:
    """Mines documents from WARC files; with `data_dir` "toy" it generates the web first."""
    with required_by("Stage corpus"):
        from dsmath_jax.corpus import pipeline
    if jax.process_index() == 0:
        data_dir = data_folder(recipe.data_dir, workdir)
        if recipe.data_dir == "toy":
            world.write(data_dir, recipe.seed, recipe.toy)
        return pipeline.mine(required(recipe.corpus), recipe.seed, data_dir, workdir / "corpus")
    return {}


def run_tokenizer(recipe: Recipe, workdir: Path) -> dict:
    """Trains SentencePiece on the corpus, with the paper's chat template, or copies the one at `tokenizer.path`."""
    folder, settings = workdir / "tokenizer", required(recipe.tokenizer)
    if jax.process_index() == 0:
        if location := settings.location(data_folder(recipe.data_dir, workdir)):
            tokenizer.copy(location, folder)
        else:
            texts = documents.texts(workdir / "corpus" / "documents")
            path = folder / "tokenizer.model"
            tokenizer.train_sentencepiece(texts, path, settings.vocab_size, chat.MARKERS)
            chat_template.write(folder, chat_template.DEEPSEEK_MATH)
    barrier("tokenizer")
    return {"pieces": tokenizer.load(folder).vocab_size}


def run_pretrain(recipe: Recipe, workdir: Path) -> dict:
    """Pre-trains the model on the mixture."""
    return pretrain.run(required(recipe.pretrain), recipe.model, workdir, *_environment(recipe, workdir))


def run_sft(recipe: Recipe, workdir: Path) -> dict:
    """Fine-tunes the model on instructions."""
    return sft.run(required(recipe.sft), recipe.model, recipe.chat, workdir, *_environment(recipe, workdir))


def run_reward_model(recipe: Recipe, workdir: Path) -> dict:
    """Trains the outcome reward model."""
    settings, folder = required(recipe.reward_model), workdir / "reward_model"
    return reward_model.run(folder, settings, recipe.model, recipe.chat, *_environment(recipe, workdir))


def run_process_model(recipe: Recipe, workdir: Path) -> dict:
    """Trains the process reward model."""
    settings, folder = required(recipe.process_model), workdir / "process_model"
    return reward_model.run(folder, settings, recipe.model, recipe.chat, *_environment(recipe, workdir))


def run_rl(recipe: Recipe, workdir: Path) -> dict:
    """Trains the policy by RL."""
    return trainer.run(required(recipe.rl), recipe.model, recipe.chat, workdir, *_environment(recipe, workdir))


def run_evaluate(recipe: Recipe, workdir: Path) -> dict:
    """Evaluates the models on the tasks."""
    return evaluate.run(required(recipe.evaluate), recipe.chat, workdir, *_environment(recipe, workdir))


def run_report(recipe: Recipe, workdir: Path) -> dict:
    """Writes the report of the finished stages."""
    return report.write(workdir) if jax.process_index() == 0 else {}


def _environment(recipe: Recipe, workdir: Path) -> tuple[Path, Layout, int]:
    """Returns the data folder, the layout of arrays on devices, and the seed."""
    return data_folder(recipe.data_dir, workdir), _layout(recipe), recipe.seed


# --- models of the Hub: downloaded before the checks of a run, since these read them ---


def fetch_models(recipe: Recipe, workdir: Path, names: Sequence[str] = (), overwrite: Sequence[str] = ()) -> None:
    """Downloads the models of the Hub that the stages `names` read, () for all of the recipe, into the data folder.

    Where one is missing, the run is planned first, since a download may take hours. The plan of a stage that was
    started before does not count: it may be refused only because the files of its model are missing.

    Raises:
      UserError: the Hub has no such model, a file cannot be downloaded, or `runner.run` would refuse a stage.
    """
    data_dir = _data_dir(recipe, workdir)
    models = recipe.hugging_face_models(stage.name for stage in select(STAGES, recipe, names))
    if broadcast_json([name for name in models if hub.missing_model(name, data_dir)]):
        for step in plan(STAGES, recipe, workdir, names, overwrite):
            if step.error and not folder_of(step.stage.name, recipe, workdir).exists():
                raise step.error
        model_files.fetch(models, data_dir)


def _is_here(init: str, recipe: Recipe, workdir: Path) -> bool:
    """Whether a model is a stage's or in its folder; False if it is yet to be downloaded from the Hub."""
    name = init.removeprefix(hub.HUGGING_FACE)
    return name == init or hub.missing_model(name, _data_dir(recipe, workdir)) is None


# --- check: before the first stage of a run starts ---


@own_data.local_only()
def check_corpus(recipe: Recipe, workdir: Path) -> None:
    """Checks the input files and the decontamination data."""
    settings = required(recipe.corpus)
    with required_by("Stage corpus"):
        from dsmath_jax.corpus import engine, pipeline
    if settings.ray_address:
        engine.import_ray(settings.ray_address)
    if recipe.data_dir == "toy":
        for name in settings.benchmarks:
            _records_reader("corpus", recipe, workdir)(name, settings.columns)
    else:
        pipeline.check(settings, Path(recipe.data_dir))


def check_tokenizer(recipe: Recipe, workdir: Path) -> None:
    """Checks that the tokenizer at `tokenizer.path` loads."""
    _tokenizer(recipe, workdir)


def check_pretrain(recipe: Recipe, workdir: Path) -> None:
    """Checks the mixture, the initial model, the tokenizer and the batch."""
    config = _model_config("pretrain", recipe, workdir)
    pretrain.check(required(recipe.pretrain), config, _data_dir(recipe, workdir), _layout(recipe))


def check_sft(recipe: Recipe, workdir: Path) -> None:
    """Checks the instructions, the chat template and the batch."""
    settings, data_dir = required(recipe.sft), _data_dir(recipe, workdir)
    _chat(recipe, workdir)
    for name in settings.data:
        if not _made_in_run(name, recipe, data_dir):
            instructions.check(name, data_dir, settings.columns)
    if config := _model_config("sft", recipe, workdir):
        pretrain.check_packed("sft", settings, config, _layout(recipe))


def check_reward_model(name: str) -> Callable[[Recipe, Path], None]:
    """Returns the check of the stage `name`: its data, models and batch."""

    @own_data.local_only()
    def check(recipe: Recipe, workdir: Path) -> None:
        settings = required(getattr(recipe, name))
        policy, _ = (_initial_config(model, recipe, workdir) for model in settings.models)
        read, chat_format = _records_reader(name, recipe, workdir), _chat(recipe, workdir, *stages_of(settings.models))
        check_choice(f"{name}.kind", settings.kind, reward_model.KINDS[name])
        reward_model.check(settings, read, chat_format, policy, _layout(recipe), recipe.seed)

    return check


@own_data.local_only()
def check_rl(recipe: Recipe, workdir: Path) -> None:
    """Checks the prompts, the reward functions, the models and the batch."""
    settings = required(recipe.rl)
    initial_config, *_ = [_initial_config(model, recipe, workdir) for model in settings.models]
    own, data_dir = _tokenizer(recipe, workdir), _data_dir(recipe, workdir)
    for model in (settings.reference_model, settings.teacher):
        folder = hugging_face_folder(model, data_dir)
        if own and folder and tokenizer.find(folder):
            tokenizer.check_same_pieces(own, tokenizer.load(folder), model)
    chat_format = _chat(recipe, workdir, *settings.model_stages)
    read, trained_on = _records_reader("rl", recipe, workdir), _trained_on(["rl"], recipe, workdir)
    rl_checks.check(settings, read, chat_format, initial_config, trained_on, _layout(recipe), recipe.seed)


@own_data.local_only()
def check_evaluate(recipe: Recipe, workdir: Path) -> None:
    """Checks the tasks, and warns of problems that the models were trained on."""
    _layout(recipe)
    settings, data_dir = required(recipe.evaluate), _data_dir(recipe, workdir)
    stages = evaluate.stages_of_models(settings.models)
    few_shot = {model: is_few_shot for model, (_, is_few_shot) in MODELS.items() if model in settings.models}
    if not all(few_shot.values()) and (chat_format := _chat(recipe, workdir, *stages)):
        thinking_budget(chat_format, settings.max_thinking_tokens)
    for model in settings.models:
        if (folder := hugging_face_folder(model, data_dir)) and _is_here(model, recipe, workdir):
            few_shot[model] = evaluate.check_folder(folder, settings, recipe.chat, _layout(recipe))
    read, trained_on = _records_reader("evaluate", recipe, workdir), _trained_on(stages, recipe, workdir)
    evaluate.check(settings, any(few_shot.values()), data_dir, read, trained_on)


def _trained_on(stages: Iterable[str], recipe: Recipe, workdir: Path) -> dict[str, overlap.Questions]:
    """Returns the questions that the stages and their initial models train on, as far as the data exist already."""
    data_dir, config, questions = _data_dir(recipe, workdir), fingerprint(recipe), dict[str, overlap.Questions]()
    for name in stages:
        if getattr(recipe, name, None) is None:
            questions |= overlap.questions_of_stages([name], folder_of(name, recipe, workdir).parent)
        else:
            fields = {
                field: [data for data in config[field] if not _made_in_run(data, recipe, data_dir)]
                for field in overlap.TRAINING_FIELDS
                if field.startswith(f"{name}.") and field in config
            }
            fields |= {overlap.columns_of(field): config[overlap.columns_of(field)] for field in fields}
            (stage,) = (stage for stage in STAGES if stage.name == name)
            questions |= overlap.training_questions(fields, data_dir)
            questions |= _trained_on(stage.depends_on(recipe), recipe, workdir)
    return questions


def _layout(recipe: Recipe) -> Layout:
    return Layout(make_mesh(recipe.mesh))


def _data_dir(recipe: Recipe, workdir: Path) -> Path:
    """Returns the data folder, which may not exist yet."""
    return data_folder(recipe.data_dir, folder_of("corpus", recipe, workdir).parent)


def _records_reader(stage: str, recipe: Recipe, workdir: Path) -> datasets.ReadRecords:
    """Returns the function that reads the data sets of a stage; it returns none if this run makes or downloads them.

    The checks that use it are `own_data.local_only`: they read no data set that is yet to be downloaded.
    """
    data_dir = _data_dir(recipe, workdir)

    def read(name: str, columns: own_data.Columns) -> list[Record]:
        try:
            return [] if _made_in_run(name, recipe, data_dir) else datasets.load(name, data_dir, columns)
        except UserError as error:
            raise UserError(f"Stage {stage}: {error}") from None

    return read


def _chat(recipe: Recipe, workdir: Path, *stages: str) -> Chat | None:
    """Returns the prompt format of the stages' models; None if this run trains the tokenizer.

    Raises:
      UserError: the template cannot be used, or a finished model of the stages was trained with another format.
    """
    path = _tokenizer_path(recipe, workdir)
    if path is None:
        chat.checked(recipe.chat)
        return None
    chat_format = chat.read(chat.ChatSource(path, recipe.chat))
    chat_format.tokenize([chat.user("Question"), chat.assistant("Solution")])
    for name in stages:
        if getattr(recipe, name) is None:
            chat.check_same(chat_format, folder_of(name, recipe, workdir))
    return chat_format


def _tokenizer(recipe: Recipe, workdir: Path) -> Tokenizer | None:
    """Returns the tokenizer; None if this run trains it."""
    path = _tokenizer_path(recipe, workdir)
    return tokenizer.load(path) if path else None


def _tokenizer_path(recipe: Recipe, workdir: Path) -> Path | None:
    """Returns the tokenizer's file or folder; None where this run trains or downloads it."""
    if recipe.tokenizer is None:
        return folder_of("tokenizer", recipe, workdir)
    is_here = _is_here(recipe.tokenizer.path, recipe, workdir)
    return recipe.tokenizer.location(_data_dir(recipe, workdir)) if is_here else None


def _made_in_run(name: str, recipe: Recipe, data_dir: Path) -> bool:
    """Whether an earlier stage of this run generates or downloads a data set."""
    if recipe.sft and name in recipe.sft.data and name in instructions.FETCHED:
        return not datasets.files(name, data_dir)
    if recipe.data_dir != "toy" or recipe.corpus is None:
        return False
    path = datasets.SOURCES[name].path if name in datasets.SOURCES else name
    return path in (datasets.ALL, *(f"problems/{split}.jsonl" for split in recipe.toy.problems))


def _initial_config(init: str, recipe: Recipe, workdir: Path) -> ModelConfig | None:
    """Returns the config of the model that a stage starts from, `hf:DIR` or another stage's; see `_model_config`."""
    data_dir = _data_dir(recipe, workdir)
    folder = hugging_face_folder(init, data_dir)
    if folder is None:
        return _model_config(init, recipe, workdir)
    if not _is_here(init, recipe, workdir):
        return None
    config = pretrain.model_config(init, recipe.model, data_dir, _tokenizer(recipe, workdir))
    check_import(folder, config, _layout(recipe))
    return config


def _model_config(name: str, recipe: Recipe, workdir: Path) -> ModelConfig | None:
    """Returns the config of the model that a stage trains; None if it is not known before the run.

    Raises:
      UserError: the stage trains no language model, or its initial model cannot be used.
    """
    settings, file = getattr(recipe, name, None), folder_of(name, recipe, workdir) / "model.json"
    if name in ("corpus", "tokenizer", "reward_model", "process_model"):
        raise UserError(f"Stage {name} trains no language model to start from; set init to pretrain or sft.")
    if settings is None:  # an earlier run trained it
        return read_model_config(file.parent) if file.is_file() else None
    if name == "pretrain" and not settings.init:
        return pretrain.model_config("", recipe.model, _data_dir(recipe, workdir), _tokenizer(recipe, workdir))
    init, *_ = settings.models
    return _initial_config(init, recipe, workdir)


# --- why_not_extendable ---


def _why_not_extendable(name: str) -> Callable[[Recipe, Path, int], str]:
    return lambda recipe, workdir, steps: loop.why_not_extendable(workdir / name, getattr(recipe, name), steps)


def _rl_why_not_extendable(recipe: Recipe, workdir: Path, steps: int) -> str:
    return rl_checks.why_not_extendable(required(recipe.rl), workdir / "rl", steps)


PARAMS = ("params.sha256.json", "lora.json", "model.json", "chat.json")
LOGS = (*loop.LOGS, "lora.json", "model.json", "chat.json", "rows/*/files.json")
STAGES = (
    Stage(
        "corpus", run_corpus, ("data_dir", "toy", "corpus"), lambda recipe: (), ("documents/*",),
        input_files=inputs.corpus_files, check=check_corpus,
    ),
    Stage(
        "tokenizer", run_tokenizer, ("data_dir", "tokenizer"), inputs.tokenizer_stages,
        ("tokenizer*", *tokenizer.COMPANION_FILES),
        input_files=inputs.tokenizer_files, check=check_tokenizer,
    ),
    Stage(
        "pretrain", run_pretrain, ("data_dir", "mesh", "model", "pretrain"), inputs.pretrain_stages, PARAMS,
        input_files=inputs.pretrain_files, check=check_pretrain, logs=LOGS,
        why_not_extendable=_why_not_extendable("pretrain"),
    ),
    Stage(
        "sft", run_sft, ("data_dir", "mesh", "chat", "model", "sft"), inputs.sft_stages, PARAMS,
        input_files=inputs.sft_files, check=check_sft, logs=LOGS, why_not_extendable=_why_not_extendable("sft"),
    ),
    Stage(
        "reward_model", run_reward_model, ("data_dir", "mesh", "chat", "model", "reward_model"),
        inputs.reward_stages("reward_model"), (*PARAMS, reward_model.ROWS),
        input_files=inputs.record_files("reward_model", lambda settings: settings.data),
        check=check_reward_model("reward_model"), logs=LOGS, why_not_extendable=_why_not_extendable("reward_model"),
    ),
    Stage(
        "process_model", run_process_model, ("data_dir", "mesh", "chat", "model", "process_model"),
        inputs.reward_stages("process_model"), (*PARAMS, reward_model.ROWS),
        input_files=inputs.record_files("process_model", lambda settings: settings.data),
        check=check_reward_model("process_model"), logs=LOGS, why_not_extendable=_why_not_extendable("process_model"),
    ),
    Stage(
        "rl", run_rl, ("data_dir", "mesh", "chat", "model", "rl"), inputs.rl_stages, PARAMS,
        input_files=inputs.rl_files, check=check_rl, logs=(*LOGS, findings.FILE),
        why_not_extendable=_rl_why_not_extendable,
    ),
    Stage(
        "evaluate", run_evaluate, ("data_dir", "mesh", "chat", "evaluate"), inputs.evaluate_stages,
        ("summary.json", "*/*/samples.jsonl"),
        input_files=inputs.evaluate_files, check=check_evaluate,
    ),
    Stage("report", run_report, (), lambda recipe: (), ("report.json",), always_rerun=True),
)  # fmt: skip
