"""How replies in the terminal are made: the options that `malmoi chat` has for it, in one value.

In: the command line's options, or keywords. Out: `Sampling`. Nothing heavy is imported before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launch.chat.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Manner:
    """How replies in the terminal are made.

    max_new_tokens: longest reply, in tokens. The others as `sampling.Sampling` has them.
    """

    system: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def sampling(self) -> Sampling:
        from launch.chat.sampling import Sampling

        return Sampling(
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )
