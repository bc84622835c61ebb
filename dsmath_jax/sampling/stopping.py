"""Stopping criteria: a stop id, the token that completes a stop string, or the length limit."""

from collections.abc import Callable, Sequence

from dsmath_jax.sampling.completions import FinishReason
from dsmath_jax.workdir import UserError

TOKENS_PER_CHARACTER = 4  # at most: byte tokens


class StoppingCriteria:
    """Finds where a completion ends.

    Args:
      stop_ids: tokens that end a completion.
      stop_strings: texts that end it.
      decode: token ids to text; needed for stop strings.

    Raises:
      UserError: a stop string is empty, or there is no `decode`.
    """

    def __init__(
        self, stop_ids: Sequence[int], stop_strings: Sequence[str], decode: Callable[[Sequence[int]], str] | None
    ) -> None:
        if stop_strings and (decode is None or not all(stop_strings)):
            raise UserError("Stop strings must not be empty, and need the `decode` of a tokenizer.")
        self._stop_ids, self._stop_strings, self._decode = frozenset(stop_ids), tuple(stop_strings), decode
        self._lookback = 1 + TOKENS_PER_CHARACTER * max(map(len, stop_strings), default=0)

    def find_end(
        self, tokens: Sequence[int], start: int, limit: int, begin: int = 0
    ) -> tuple[int, FinishReason] | None:
        """Returns the number of tokens up to the end, at most `limit`, and why they end there; None without an end.

        No token before `start` may be the last, and a stop string has no token before `begin`.
        """
        end: tuple[int, FinishReason] | None = (limit, "length") if len(tokens) >= limit else None
        stop = next((i for i in range(start, min(len(tokens), limit)) if tokens[i] in self._stop_ids), None)
        if stop is not None:
            end = (stop + 1, "eos")
        last = len(tokens) if end is None else end[0]
        if self._stop_strings and self._has_stop_string(tokens, begin, start, last):
            # The EOS may be text to the tokenizer: a stop string that it completes is not the reason.
            ends = (n for n in range(start + 1, last + 1) if self._has_stop_string(tokens, begin, n - 1, n))
            first = next(ends, last)
            return end if end is not None and end[1] == "eos" and first == last else (first, "stop")
        return end

    def _has_stop_string(self, tokens: Sequence[int], begin: int, start: int, stop: int) -> bool:
        """Whether a stop string that has no token before `begin` ends in the tokens from `start` to `stop`."""
        assert self._decode is not None
        text = self._decode(tokens[max(begin, start - self._lookback) : stop])
        return any(string in text for string in self._stop_strings)
