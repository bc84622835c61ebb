"""The shared state of a run of the stage `rl`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.environments.protocol import Environment
from dsmath_jax.models.decoder import Decoder, Params
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.diagnosis import Diagnosis, Finding, logprob_dtype
from dsmath_jax.rl.findings import Findings
from dsmath_jax.rl.rollouts import Prompts
from dsmath_jax.rl.scoring import PackedForward, ReferenceModel
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.sampler import Sampler
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.loop import TrainLoop
from dsmath_jax.training.lora import Trainable, abstract_adapters
from dsmath_jax.training.model_files import LanguageModel, read_params


class FrozenModel(NamedTuple):
    """A model that only scores: its log-probabilities of completions' tokens, and how its parameters are read."""

    logprobs: PackedForward
    read_params: Callable[[], Params]

    def load(self, memory: str) -> ReferenceModel:
        """Returns the model with its parameters, in this memory between uses."""
        return ReferenceModel(self.logprobs, self.read_params(), memory)


class Context(NamedTuple):
    """The shared state of a run of the stage.

    `model` is the policy's decoder without parameters. `trainable` has its initial ones, and reads those that are
    trained again at each call, since updates donate them.
    """

    settings: RLSettings
    folder: Path  # of the stage
    workdir: Path
    seed: int
    layout: Layout
    model: Decoder
    chat: Chat
    prompts: Prompts
    shapes: RowShapes  # of the batches of updates and scoring
    retrain_records: list[Record]  # the questions that the reward model is retrained on between rounds
    sampler: Sampler
    policy_logprobs: PackedForward
    trainable: Trainable
    reference: FrozenModel  # that of the first round
    teacher: FrozenModel | None
    make_environment: Callable[[], Environment] | None
    findings_at_start: list[Finding]

    def with_params(self, params: Params) -> LanguageModel:
        """Returns the policy's model with these parameters."""
        return LanguageModel(self.model, params, self.chat, self.layout)

    def findings(self, loop: TrainLoop) -> Findings:
        """Returns the findings of the run, which observe the loop's updates."""
        dtype = logprob_dtype(self.model.config.compute_dtype, self.settings, jax.default_backend())
        diagnosis = Diagnosis(self.settings, dtype, self.findings_at_start)
        findings = Findings(self.folder, diagnosis, loop.first_step, self.settings.steps_per_rollout)
        loop.observe_updates(findings.observe)
        return findings

    def read_round(self, round_number: int) -> Params:
        """Returns the policy's parameters at the end of a round; with LoRA the frozen ones are not read again."""
        folder, config, lora = self.folder / "rounds" / str(round_number), self.model.config, self.settings.lora
        if lora is None:
            return read_params(folder, config, self.layout)
        adapters = checkpoint.restore(folder / "params", abstract_adapters(config, lora, self.layout))
        return self.trainable.frozen.combine(adapters)
