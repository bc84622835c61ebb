"""From a question to token ids: the chat template of DeepSeekMath, and few-shot prompts for base models."""

from collections.abc import Sequence

from dsmath_jax.data.benchmarks import Record
from dsmath_jax.data.tokenizer import Tokenizer

USER, ASSISTANT = "User: {question}\n\nAssistant:", " {solution}"
MARKERS = ("User:", "Assistant:")  # one token each in a tokenizer that we train

# What the paper's chat models are asked for, on a line below the question, by mode (chain of thought, program of
# thought, tool-integrated reasoning) and language. The paper asks base models alone for bare programs.
INSTRUCTIONS = {
    ("cot", "en"): r"Please reason step by step, and put your final answer within \boxed{}.",
    ("cot", "zh"): r"请通过逐步推理来解答问题，并把最终答案放置于\boxed{}中。",
    ("pot", "en"): "Write a Python program with a function `solution()` that returns the answer.",
    ("pot", "zh"): "请编写一个Python程序，其中的函数`solution()`返回答案。",
    ("tir", "en"): "Please integrate natural language reasoning with programs to solve the problem above, "
    r"and put your final answer within \boxed{}.",
    ("tir", "zh"): r"请结合自然语言和Python程序语言来解答问题，并把最终答案放置于\boxed{}中。",
}


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """BOS and the question, up to where the assistant speaks."""
    return [tokenizer.bos_id, *tokenizer.encode(USER.format(question=question))]


def completion_ids(tokenizer: Tokenizer, solution: str) -> list[int]:
    """The solution and the EOS that ends it; EOS is part of the completion."""
    return [*tokenizer.encode(ASSISTANT.format(solution=solution)), tokenizer.eos_id]


def few_shot(examples: Sequence[Record], question: str) -> str:
    """Worked examples and the question in the same template, after BOS: how a model without SFT is asked."""
    shots = "".join(f"{USER.format(question=e.question)}{ASSISTANT.format(solution=e.solution)}\n\n" for e in examples)
    return shots + USER.format(question=question)
