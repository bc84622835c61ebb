"""Small tokenizer folders of the kinds that public models have; `KINDS[name](folder)` writes one."""

import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from dsmath_jax.workdir import write_json

FRAGMENTS = (
    "12", "3.14", "1,234,567", "-0.5e-3", "½", "٣", "१२", "2^{10}", "\\frac{1}{2}", "$x_1 + y^2 = z$",
    "\\boxed{42}", "\\begin{align*}", "\\mathbb{R}", "∑_{i=1}^n", "≤", "π≈3", "What is", "the answer", "It's",
    "we'll", "naïve", "Ünï", "cafe\u0301", "请通过逐步推理", "语言。", "１＋１", "한국어", "日本語テキスト",
    "العربية", "עברית", "def f(x):\n    return x", "for i in range(3):\n\tprint(i)\r\n",
    "```python\nprint(6*7)\n```", "// a -> b; #!/bin/sh", '{"a": [1, null]}', "🙂", "👩\u200d👩\u200d👧",
    "🇩🇪", "\u200b", "\xa0", "\x00", "\x07", "\x1b[0m", "\ufeff", "\u2028", "▁", "▁▁a", "ﬁ", "Å", " ", "  ",
    "   a", "\n", "\n\n", "\n\n\n", "\t", " \n ", "a b  c", ".", "...", "?!", "<", "<s", "s>", "�", "𐍈",
    "zzzzzzzz",
)  # fmt: skip
# Spellings of special tokens, which are text in a text.
SPELLINGS = (
    "<s>", "</s>", "<unk>", "<bos>", "<eos>", "<|im_end|>", "<|im_start|>user", "<|begin_of_text|>", "<|eot_id|>",
    "[INST]", "[/INST] a", "<start_of_turn>user", "<end_of_turn>", "<|endoftext|>", "a</s>b", "<pad>", "<0x0A>",
)  # fmt: skip


def texts(count: int) -> list[str]:
    """Fragments, spellings, and random sequences of them."""
    draw = random.Random(0)
    made = ["".join(draw.choices((*FRAGMENTS, *SPELLINGS, " "), k=draw.randint(2, 9))) for _ in range(count)]
    return ["", *FRAGMENTS, *SPELLINGS, *made]


TRAINING = [
    "What is 6 * 7? The answer is 42. We'll see: it is so, and that is all there is to it.",
    "def f(x):\n    return x + 1\n\n\nprint(f(41))", "请通过逐步推理来解答问题，并把最终答案放置于最后。",
    "\\frac{1}{2} + \\frac{1}{3} = \\boxed{}",
] * 9  # fmt: skip


def byte_level(
    split: str, specials: Iterable[str], added: Iterable[str] = (), normalizer: Any = None, post: Any = None
) -> dict[str, Any]:
    """A byte-level BPE `tokenizer.json`; `post` makes its post-processor from the ids of special tokens."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizer
    last = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre.Sequence([pre.Split(Regex(split), "isolated"), last])
    made.decoder = decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    made.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(list(specials))
    made.add_tokens(list(added))
    made.post_processor = post(made) if post else processors.ByteLevel(trim_offsets=False)
    return json.loads(made.to_str())


def pieces(
    first: Iterable[str], normalizer: Any, pre_tokenizer: Any, decoder: list[Any], specials: Iterable[str],
    added: Iterable[str] = (), front: str = "<s>",
) -> dict[str, Any]:  # fmt: skip
    """A `tokenizer.json` as made from a SentencePiece BPE model: byte fallback, spaces as U+2581."""
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = normalizer, pre_tokenizer
    trained.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *added]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys([*names, *model["vocab"], "▁"]))}
    made = Tokenizer(
        models.BPE(
            vocabulary, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.Sequence(decoder)
    made.add_special_tokens([*first, *specials])
    made.add_tokens(list(added))
    made.post_processor = processors.TemplateProcessing(
        single=f"{front} $A", special_tokens=[(front, made.token_to_id(front))]
    )
    return json.loads(made.to_str())


def write(folder: Path, stored: dict[str, Any], config: dict[str, Any], eos: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", stored)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | config)
    ids = {token["content"]: token["id"] for token in stored["added_tokens"]}
    write_json(folder / "generation_config.json", {"eos_token_id": [ids[name] for name in eos]})


DIGITS = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"""
)


def qwen(folder: Path) -> None:
    """No BOS; one digit a token; tokens that the model writes (<think>) are added but not special."""
    stored = byte_level(
        DIGITS % 1, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<tool_call>", "<think>", "</think>"),
        normalizers.NFC(),
    )  # fmt: skip
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    write(folder, stored, config, ["<|im_end|>", "<|endoftext|>"])


def llama3(folder: Path) -> None:
    """BOS from the post-processor; up to three digits a token; another EOS ends a turn."""

    def post(made: Tokenizer) -> Any:
        bos = "<|begin_of_text|>"
        template = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
        return processors.Sequence([processors.ByteLevel(trim_offsets=False), template])

    turns = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    stored = byte_level(DIGITS % 3, ("<|begin_of_text|>", "<|end_of_text|>", *turns), post=post)
    stored["model"]["ignore_merges"] = True
    write(
        folder, stored, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, ["<|end_of_text|>", "<|eot_id|>"]
    )


SPACES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
FLAGS = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
LLAMA: dict[str, Any] = {
    role: FLAGS | {"content": name}
    for role, name in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
}


def llama2(folder: Path) -> None:
    """A blank before every text between special tokens."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    stored = pieces(("<unk>", "<s>", "</s>"), normalizer, None, [*SPACES, decoders.Strip(" ", 1, 0)], ())
    write(folder, stored, LLAMA | {"add_bos_token": True, "add_eos_token": False}, ["</s>"])


def mistral(folder: Path) -> None:
    """A blank before a text, but not after special tokens; turns are marked by [INST]."""
    space = pre.Metaspace(prepend_scheme="first", split=False)
    turns = ("[INST]", "[/INST]")
    decoder = [*SPACES, decoders.Strip(" ", 1, 0)]
    stored = pieces(("<unk>", "<s>", "</s>", *turns), None, space, decoder, ())
    write(folder, stored, LLAMA | {"add_bos_token": True}, ["</s>"])


def gemma(folder: Path) -> None:
    """No blank before a text; runs of newlines are pieces; the image token has no row in the text model."""
    first = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    stored = pieces(
        first, normalizers.Replace(" ", "▁"), pre.Split(" ", "merged_with_previous"), SPACES, ("<image_soft_token>",),
        ("\n\n", "\n\n\n"), "<bos>",
    )  # fmt: skip
    for token in stored["added_tokens"]:
        token["special"] = token["special"] and "_of_turn" not in token["content"]
    config = {name: f"<{name[:3]}>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    write(folder, stored, config | {"add_bos_token": True}, ["<eos>", "<end_of_turn>"])


def sentencepiece_model(folder: Path, legacy: bool = True) -> None:
    """A `tokenizer.model` alone, with a dummy prefix before every text or, not `legacy`, only at the start."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = itertools.chain.from_iterable(text.splitlines() for text in TRAINING)
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=400, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, num_threads=1,
            allow_whitespace_only_pieces=True, minloglevel=2,
        )  # fmt: skip
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": legacy}
    write_json(folder / "tokenizer_config.json", LLAMA | config)


KINDS: dict[str, Callable[[Path], None]] = {
    "qwen": qwen, "llama3": llama3, "llama2": llama2, "mistral": mistral, "gemma": gemma,
    "sentencepiece": sentencepiece_model,
    "sentencepiece, new": lambda folder: sentencepiece_model(folder, legacy=False),
}  # fmt: skip
