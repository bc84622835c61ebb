"""Where a reasoning model's thoughts end and its answer begins."""

OPEN, CLOSE = "<think>", "</think>"


def after_thoughts(completion: str) -> str:
    """Returns what a completion says after its thoughts; a thought that is never closed says nothing.

    A completion of a prompt that ends with the opening mark lacks it: see `Chat.opens_thought`.
    """
    return completion.rpartition(CLOSE)[2].partition(OPEN)[0]
