"""What every recipe needs at least, on TPUs and GPUs: the tables of docs/aot.md, from `dsmath aot`.

    python -m benchmarks.aot_recipes                       # the variants of the recipes by accelerator
    python -m benchmarks.aot_recipes --smallest            # the smallest topology of each kind on which a recipe fits
    python -m benchmarks.aot_recipes --recipes=sft_7b --smallest --kinds=v5e,h100

The smallest topology is that of the fewest devices on which the recipe's batch fits with `remat=full`, one row of a
device in a micro-batch and, for RL, SLOTS completions of a device decoded at a time. Topologies whose devices together
cannot hold parameters, moments and gradients are not compiled.
"""

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence

from benchmarks import comparison
from benchmarks.aot_results import cells, compile_for
from dsmath_jax.aot.__main__ import STAGES
from dsmath_jax.aot.estimate import num_rows
from dsmath_jax.aot.topology import FAMILIES
from dsmath_jax.command_line import config_path, load_recipe
from dsmath_jax.hardware import CHIPS
from dsmath_jax.recipe import Recipe
from dsmath_jax.training.flops import matmul_parameters
from dsmath_jax.workdir import exit_code

RECIPES = ("pretrain_1b3", "pretrain_7b", "sft_7b", "grpo_7b", "sft", "grpo", "grpo_tools")
PAPERS = RECIPES[:4]
KINDS = ("v5e", "v5p", "v6e", "h100")
HOSTS = {1: "1", 2: "2", 4: "4", 8: "8", 16: "2x8", 32: "4x8", 64: "8x8"}  # GPUs
SLOTS = 8
COLUMNS = "peak, GiB | at least | limit | MFU at most | whole run at least"


def variants(recipes: Sequence[str]) -> Iterator[list[str]]:
    """Yields a row for each variant of the recipes by accelerator."""
    for recipe in recipes:
        for accelerator in runpy.run_path(str(config_path(recipe)))["ACCELERATORS"]:
            found = compile_for(f"--config={recipe}:{accelerator}", f"--topology={accelerator}")
            if found:
                yield [f"`{recipe}:{accelerator}`", *cells(found)]


def smallest(recipes: Sequence[str], kinds: Sequence[str]) -> Iterator[list[str]]:
    """Yields a row for each recipe and kind of device: the smallest topology that fits."""
    for name in recipes:
        recipe = load_recipe(name)
        for kind in kinds:
            for devices, topology in topologies(kind):
                if least_bytes(recipe) > devices * CHIPS[kind].memory:
                    continue
                settings = ["mesh.replica=1", "model.remat=full", *tightest(recipe, devices)]
                options = [f"--config.{setting}" for setting in settings]
                found = compile_for(f"--config={name}", f"--topology={topology}", *options)
                if found and found["fits"]:
                    yield [f"`{name}`", f"`{topology}`", ", ".join(tightest(recipe, devices)), *cells(found)]
                    break


def topologies(kind: str) -> list[tuple[int, str]]:
    """Returns the topologies of a kind of device that are sold, with their numbers of devices, ascending."""
    shapes = FAMILIES[kind].shapes if kind in FAMILIES else HOSTS
    return [(devices, f"{kind}:{shape}") for devices, shape in shapes.items()]


def least_bytes(recipe: Recipe) -> int:
    """Returns the bytes of parameters, moments and gradients in float32, and of RL's reference."""
    assert recipe.model is not None
    parameters = matmul_parameters(recipe.model) + recipe.model.vocab_size * recipe.model.hidden_size
    return (16 + 4 * (recipe.rl is not None)) * parameters


def tightest(recipe: Recipe, devices: int) -> list[str]:
    """Returns the settings of the stage that need the least memory on a number of devices."""
    stage = next(name for name in STAGES if getattr(recipe, name) is not None)
    rows = num_rows(getattr(recipe, stage))
    slots = [f"rl.decode_slots={SLOTS * devices}"] if stage == "rl" else []
    return [f"{stage}.grad_accum_steps={max(1, rows // devices)}", *slots]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="the smallest topologies, not the variants")
    parser.add_argument("--recipes", default="", help=f"of {', '.join(RECIPES)}; by default all, or the paper's")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of devices, for --smallest")
    options = parser.parse_args(argv)
    recipes = comparison.choose(
        "recipes", options.recipes or ",".join(PAPERS if options.smallest else RECIPES), RECIPES
    )
    if options.smallest:
        kinds = comparison.choose("kinds", options.kinds, CHIPS)
        print(comparison.table(f"recipe | smallest topology | settings | {COLUMNS}", smallest(recipes, kinds), 3))
    else:
        print(comparison.table(f"variant | {COLUMNS}", variants(recipes)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
