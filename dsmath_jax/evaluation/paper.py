"""The figures that the paper publishes of its own models (arXiv 2402.03300), as they are printed there.

All are of whole benchmarks, one answer per problem, graded by the paper's own code. The raw accuracies in its authors'
repository round to the same figures, but for the instruction-tuned model on MATH with tools, which has 57.50 there.
"""

MODELS = ("Base", "Instruct", "RL")  # DeepSeekMath 7B
Figures = dict[tuple[str, str], float]  # task, mode -> percent of problems solved

BASE: Figures = {
    # Table 2: few-shot chain of thought.
    ("gsm8k", "cot"): 64.2,
    ("math", "cot"): 36.2,
    ("ocw", "cot"): 15.4,
    ("sat", "cot"): 84.4,
    ("mmlu_stem", "cot"): 56.5,
    ("cmath", "cot"): 71.7,
    ("gaokao_mathcloze", "cot"): 20.3,
    ("gaokao_mathqa", "cot"): 35.3,
    # Table 3: few-shot programs of thought; proofs from informal ones, their gaps filled by Sledgehammer (of the
    # validation problems: 25.8).
    ("gsm8k", "pot"): 66.9,
    ("math", "pot"): 31.4,
    ("minif2f", "cot"): 24.6,
    # Table 4: few-shot chain of thought; code, HumanEval without exemplars.
    ("mmlu", "cot"): 54.9,
    ("bbh", "cot"): 59.5,
    ("humaneval", "cot"): 40.9,
    ("mbpp", "cot"): 52.6,
}
# Table 5: asked without exemplars; chain of thought, and tool-integrated reasoning.
INSTRUCT: Figures = {
    ("gsm8k", "cot"): 82.9,
    ("math", "cot"): 46.8,
    ("mgsm_zh", "cot"): 73.2,
    ("cmath", "cot"): 84.6,
    ("gsm8k", "tir"): 83.7,
    ("math", "tir"): 57.4,
    ("mgsm_zh", "tir"): 72.0,
    ("cmath", "tir"): 84.3,
}
RL: Figures = {
    ("gsm8k", "cot"): 88.2,
    ("math", "cot"): 51.7,
    ("mgsm_zh", "cot"): 79.6,
    ("cmath", "cot"): 88.8,
    ("gsm8k", "tir"): 86.7,
    ("math", "tir"): 58.8,
    ("mgsm_zh", "tir"): 78.4,
    ("cmath", "tir"): 87.6,
}
RL_MAJ_AT_64: Figures = {("math", "cot"): 60.9}  # the abstract


def published(task: str, mode: str) -> tuple[float | None, ...]:
    """What the paper's `MODELS` solve, in percent; None where it does not say."""
    return tuple(figures.get((task, mode)) for figures in (BASE, INSTRUCT, RL))
