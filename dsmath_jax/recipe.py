"""The typed settings of a whole recipe, built by `settings.build(Recipe, get_config().to_dict())`."""

import dataclasses

from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.data.settings import ChatSettings, TokenizerSettings
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.rl.reward_model.settings import ProcessModelSettings, RewardModelSettings
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.settings import INT32, Settings, setting
from dsmath_jax.sharding import MeshSettings
from dsmath_jax.toy.settings import ToySettings
from dsmath_jax.training.settings import HUGGING_FACE, PretrainSettings, SFTSettings


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
        """Gives a tokenizer without a path, and without a corpus to train it on, that of the model to start from."""
        super().__post_init__()
        inits = [section.init for section in (self.pretrain, self.sft, self.rl) if section]
        folder = next((init.removeprefix(HUGGING_FACE) for init in inits if init.startswith(HUGGING_FACE)), "")
        if folder and self.tokenizer and not self.tokenizer.path and self.corpus is None:
            object.__setattr__(self, "tokenizer", dataclasses.replace(self.tokenizer, path=folder))
