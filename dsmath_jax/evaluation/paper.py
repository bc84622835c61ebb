"""The paper's published figures of its models (arXiv 2402.03300).

All are of whole data sets, one answer per problem, graded by the paper's code. The raw accuracies in the authors'
repository round to the same figures, except 57.50 for the instruction-tuned model on MATH with tools.
"""

MODELS = ("Base", "Instruct", "RL")  # DeepSeekMath 7B
# (task, mode): accuracies of these models in percent. Base is asked with few-shot examples (Tables 2 to 4, HumanEval
# without), the others without (Table 5). miniF2F: proofs from informal ones, gaps filled by Sledgehammer.
ACCURACIES: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("gsm8k", "cot"): (64.2, 82.9, 88.2),
    ("math", "cot"): (36.2, 46.8, 51.7),
    ("ocw", "cot"): (15.4, None, None),
    ("sat", "cot"): (84.4, None, None),
    ("mmlu_stem", "cot"): (56.5, None, None),
    ("mgsm_zh", "cot"): (None, 73.2, 79.6),
    ("cmath", "cot"): (71.7, 84.6, 88.8),
    ("gaokao_mathcloze", "cot"): (20.3, None, None),
    ("gaokao_mathqa", "cot"): (35.3, None, None),
    ("gsm8k", "pot"): (66.9, None, None),
    ("math", "pot"): (31.4, None, None),
    ("minif2f", "cot"): (24.6, None, None),
    ("mmlu", "cot"): (54.9, None, None),
    ("bbh", "cot"): (59.5, None, None),
    ("humaneval", "cot"): (40.9, None, None),
    ("mbpp", "cot"): (52.6, None, None),
    ("gsm8k", "tir"): (None, 83.7, 86.7),
    ("math", "tir"): (None, 57.4, 58.8),
    ("mgsm_zh", "tir"): (None, 72.0, 78.4),
    ("cmath", "tir"): (None, 84.3, 87.6),
}
RL_MAJ_AT_64 = {("math", "cot"): 60.9}  # the abstract


def published(task: str, mode: str) -> tuple[float | None, ...]:
    """Returns the accuracies of the paper's `MODELS` in percent; None where the paper has none."""
    return ACCURACIES.get((task, mode), (None,) * len(MODELS))
