"""The typed settings of a whole recipe, built by `settings.build(Recipe, get_config().to_dict())`."""

import dataclasses
from collections.abc import Iterable

from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.settings import ChatSettings, TokenizerSettings
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rl.reward_model.settings import ProcessModelSettings, RewardModelSettings
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.settings import INT32, Settings, setting
from dsmath_jax.sharding import MeshSettings
from dsmath_jax.toy.settings import ToySettings
from dsmath_jax.training.settings import PretrainSettings, SFTSettings

TRAINING_STAGES = ("pretrain", "sft", "reward_model", "process_model", "rl")
MODEL_STAGES = ("tokenizer", *TRAINING_STAGES, "evaluate")  # their sections have `models`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """All settings of a run. A stage whose section is None does not run unless `--stages` names it."""

    seed: int = setting(0, "seed of all random draws", ge=0, le=INT32)
    data_dir: str = setting("data", "the folder of your data; toy: generated in the workdir", local=True)
    start: str = setting(
        "", "another run's workdir, whose finished stages this one builds on", local=True, changes_result=False
    )
    compilation_cache: str = setting(
        "",
        "folder of compiled programs; '': in the workdir on TPU and GPU, none on CPU; off: none",
        local=True,
        changes_result=False,
    )
    mesh: MeshSettings = setting(MeshSettings(), "how devices are arranged", changes_result=False)
    toy: ToySettings = setting(ToySettings(), "the generated web and problems of data_dir=toy")
    corpus: CorpusSettings | None = setting(None, "stage corpus: mining (paper §2.1)")
    tokenizer: TokenizerSettings | None = setting(None, "stage tokenizer (§2.2)")
    chat: ChatSettings = setting(ChatSettings(), "prompt format of all stages")
    model: ModelConfig | None = setting(None, "config of a model trained from scratch")
    pretrain: PretrainSettings | None = setting(None, "stage pretrain (§2.2, §2.3)")
    sft: SFTSettings | None = setting(None, "stage sft (§3)")
    reward_model: RewardModelSettings | None = setting(None, "stage reward_model: outcomes (§4.1.2)")
    process_model: ProcessModelSettings | None = setting(None, "stage process_model: steps (§4.1.3)")
    rl: RLSettings | None = setting(None, "stage rl (§4, §5.2)")
    evaluate: EvaluateSettings | None = setting(None, "stage evaluate (§5.2.2)")

    def __post_init__(self) -> None:
        """Gives a tokenizer without a path, and without a corpus to train it on, that of the model to start from.

        Where the recipe trains no model, that is the first one that it evaluates.
        """
        super().__post_init__()
        is_training = any(getattr(self, stage) is not None for stage in TRAINING_STAGES)
        models = self.hugging_face_models(TRAINING_STAGES if is_training else ["evaluate"])
        if models and self.tokenizer and not self.tokenizer.path and self.corpus is None:
            path = f"{HUGGING_FACE}{models[0]}"
            object.__setattr__(self, "tokenizer", dataclasses.replace(self.tokenizer, path=path))

    def hugging_face_models(self, stages: Iterable[str]) -> tuple[str, ...]:
        """Returns the folders, or names of the Hub, of the models `hf:DIR` that these stages read, in their order."""
        sections = [getattr(self, stage) for stage in stages if stage in MODEL_STAGES]
        models = [model for section in sections if section for model in section.models]
        return tuple(name.removeprefix(HUGGING_FACE) for name in models if name.startswith(HUGGING_FACE))
