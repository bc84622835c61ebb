"""What a run's numbers mean, in plain sentences: each is made from the numbers, none is there without its reason."""

import itertools
from typing import Any

Report = dict[str, Any]

LABELS = {"base": "Base", "sft": "SFT", "rl": "RL"}
STAGE_LABELS = {
    "corpus": "corpus",
    "tokenizer": "tokenizer",
    "pretrain": "pre-training",
    "sft": "supervised fine-tuning",
    "reward_model": "reward model",
    "process_model": "process reward model",
    "rl": "reinforcement learning",
    "evaluate": "evaluation",
}
NEAR_ZERO = 0.05  # greedy accuracy under which a model is said to solve next to nothing
RISE = 1.01  # held-out loss that ends this many times above its minimum has risen


def label(model: str) -> str:
    return LABELS.get(model, model)


def percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{100 * fraction:.1f} %"


def interval(ends: tuple[float, float], to: str = " to ") -> str:
    return f"{100 * ends[0]:.1f}{to}{100 * ends[1]:.1f} %"


def number(value: float | None) -> str:
    """Counts with thousands separators, other numbers with three significant digits."""
    if value is None:
        return "not measured"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def missing(report: Report) -> list[str]:
    if not report["missing"]:
        return []
    names = ", ".join(STAGE_LABELS[stage] for stage in report["missing"])
    return [f"Left out, because these stages have not finished in this workdir: {names}."]


def accuracy(report: Report) -> list[str]:
    models = report.get("evaluate")
    if not models:
        return []
    return [
        *_gains(models),
        *(_overlap(model, scores) for model, scores in models.items() if scores["num_overlapping"]),
    ]


def _overlap(model: str, scores: Report) -> str:
    return (
        f"{number(scores['num_overlapping'])} of the {number(scores['n'])} problems are in the data that "
        f"{label(model)} was trained on: its accuracy on them says nothing of new ones."
    )


def _gains(models: Report) -> list[str]:
    """What the models can do, and what each stage added; near zero the differences are noise and left out."""
    best = max(models, key=lambda model: models[model]["greedy"])
    scores = models[best]
    if scores["greedy"] < NEAR_ZERO:
        return [
            f"At this size the model solves next to nothing: the best greedy accuracy is {percent(scores['greedy'])} "
            f"({label(best)}, {round(scores['greedy'] * scores['n'])} of {scores['n']} problems; the 95 % interval is "
            f"{interval(scores['greedy_interval'])}). Differences between the models mean little here: the run shows "
            "that its stages work together, not that the model can do mathematics."
        ]
    sentences = [_step(old, models[old], new, models[new]) for old, new in itertools.pairwise(models)]
    sentences.append(
        f"Of {scores['k']} samples at temperature {scores['temperature']:g}, the vote of {label(best)} is right on "
        f"{percent(scores['maj_at_k'])} of the problems and at least one sample on {percent(scores['pass_at_k'])}: "
        "the distance between the two is what the model can find but does not prefer."
    )
    if "sft" in models and "rl" in models:
        votes, reach = (points(models["rl"][score] - models["sft"][score]) for score in ("maj_at_k", "pass_at_k"))
        sentences.append(
            f"From SFT to RL, maj@k moved by {votes} and pass@k by {reach} points; in the paper (section 5.2.2) the "
            "first rises and the second does not."
        )
    return sentences


def points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _step(before: str, old: Report, after: str, new: Report) -> str:
    """One sentence on the greedy accuracy of two models that follow each other."""
    apart = (
        old["greedy_interval"][1] < new["greedy_interval"][0] or new["greedy_interval"][1] < old["greedy_interval"][0]
    )
    doubt = "the 95 % intervals do not overlap" if apart else "the 95 % intervals overlap, so chance may explain it"
    return (
        f"From {label(before)} to {label(after)}, greedy accuracy went from {percent(old['greedy'])} to "
        f"{percent(new['greedy'])} ({points(new['greedy'] - old['greedy'])} points; {doubt})."
    )


def corpus(report: Report) -> list[str]:
    numbers = report.get("corpus")
    if not numbers:
        return []
    read, kept = numbers["pages_read"], numbers["documents_kept"]
    sentences = [f"Of {number(read)} pages read, {number(kept)} ({percent(kept / max(read, 1))}) became documents."]
    if numbers["precision"] is not None and numbers["recall"] is not None:
        sentences.append(
            f"Against the page labels, {percent(numbers['precision'])} of what was kept is mathematics (precision), "
            f"and {percent(numbers['recall'])} of the mathematics was kept (recall)."
        )
    else:
        sentences.append("Precision and recall were not measured: the page labels are missing or too few.")
    removed, planted = numbers["contaminated_removed"], numbers["contaminated_planted"]
    sentences.append(f"{number(removed)} pages were removed because they contain benchmark problems.")
    if planted is not None:
        sentences.append(
            f"The labels name {number(planted)} such pages."
            if removed >= planted
            else f"The labels name {number(planted)}: the other {number(planted - removed)} were missed, or were never "
            "collected in the first place."
        )
    return sentences


def pretrain(report: Report) -> list[str]:
    return _losses(report.get("pretrain", {}), "Training loss")


def sft(report: Report) -> list[str]:
    return _losses(report.get("sft", {}), "Loss on the solutions")


def _losses(numbers: Report, what: str) -> list[str]:
    sentences = []
    if "loss_first" in numbers:
        sentences.append(_change(what, numbers, "loss") + f" over {number(numbers['steps'])} steps.")
    if "eval_loss_first" in numbers:
        sentences.append(_change("Held-out loss", numbers, "eval_loss") + ".")
        if numbers["eval_loss_last"] > RISE * numbers["eval_loss_min"]:
            sentences.append(
                f"Its lowest value was {number(numbers['eval_loss_min'])}: from there on, the model learned its "
                "training examples by heart more than it learned the task."
            )
    return sentences


def _change(what: str, numbers: Report, metric: str) -> str:
    first, last = numbers[f"{metric}_first"], numbers[f"{metric}_last"]
    verb = "fell" if last < first else "rose" if last > first else "stayed"
    return f"{what} {verb} from {number(first)} to {number(last)}"


def reward_model(report: Report) -> list[str]:
    return _held_out_scores(report.get("reward_model"), "completions")


def process_model(report: Report) -> list[str]:
    return _held_out_scores(report.get("process_model"), "steps of completions")


def _held_out_scores(numbers: Report | None, what: str) -> list[str]:
    if not numbers:
        return []
    commoner = numbers["majority_class"]
    same = "" if commoner is None else f" (always saying the commoner label: {percent(commoner)})"
    return [
        f"On {number(numbers['n'])} held-out {what} the model is right on {percent(numbers['accuracy'])}{same}; "
        f"its area under the ROC curve is {number(numbers['auc'])}, where 0.5 is guessing."
    ]


def rl(report: Report) -> list[str]:
    numbers = report.get("rl", {})
    sentences = []
    if "reward_first" in numbers:
        sentences.append(
            _change("Mean reward", numbers, "reward") + f" over {number(numbers['steps'])} steps "
            "(means of the first and the last tenth of the steps)."
        )
    if "kl_last" in numbers:
        sentences.append(
            f"At the end the policy was {number(numbers['kl_last'])} nats a token from its reference (KL)."
        )
    if "completion_length_first" in numbers:
        sentences.append(_change("The mean length of a completion", numbers, "completion_length") + " tokens.")
    if numbers.get("frac_truncated_max"):
        sentences.append(f"At the end {percent(numbers['frac_truncated_last'])} were cut at the length limit.")
    if numbers.get("frac_reward_zero_std_max"):
        sentences.append(
            f"In {percent(numbers['frac_reward_zero_std_last'])} of the last groups all rewards were equal "
            f"({percent(numbers['frac_reward_zero_std_first'])} of the first): such a group teaches nothing."
        )
    if numbers.get("reward_errors_max"):
        most = number(int(numbers["reward_errors_max"]))
        sentences.append(f"A rule failed on up to {most} completions of a step; the log names the first.")
    if numbers.get("step_skipped_max"):
        sentences.append("Steps without any completion to learn from were skipped.")
    if "seconds" in numbers:
        whole = sum(numbers["seconds"].values()) or 1.0
        shares = ", ".join(f"{percent(spent / whole)} {phase}" for phase, spent in numbers["seconds"].items())
        sentences.append(f"Where the time of its steps went: {shares}.")
    return sentences


SECTIONS = {
    "accuracy": accuracy,
    "corpus": corpus,
    "pretrain": pretrain,
    "sft": sft,
    "reward_model": reward_model,
    "process_model": process_model,
    "rl": rl,
}


def sentences(report: Report) -> dict[str, list[str]]:
    """Section of the page -> its sentences; an empty list where the stage has nothing to tell."""
    return {section: tell(report) for section, tell in SECTIONS.items()}
