"""`malmoi chat-vector`: add what tuning taught, at one ratio or at the best of several.

In: three models, ratios, perhaps dialogues. Out: one model folder, a table where there were several
ratios, and the command that talks to it. Several are judged by bits per byte of what the assistant says in
dialogues none of them was trained on, the figure that `malmoi evaluate --chat` prints; at most two of the
candidates are on disk at a time.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from configs.errors import InputError
from launch.console import Console, table


def parse_ratios(text: str) -> list[float]:
    """`0.5,0.7,1` → numbers, none twice. Raises InputError on anything else."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--ratio {text}: write a number, or several as 0.5,0.7,1") from None
    if any(not -10 < ratio < 10 for ratio in found):
        raise InputError(f"--ratio {text}: between 0 and 1 is usual; beyond 10 nothing is left")
    return list(dict.fromkeys(found))


def chat_vector(
    continued: str,
    instruct: str,
    base: str,
    ratios: Sequence[float],
    out: Path,
    dialogues: Sequence[Path],
    kilobytes: int,
) -> None:
    """Make `out`; with several ratios, of the one that reads the dialogues best.

    Raises InputError where the models do not fit, or several ratios have no dialogues to be judged by.
    """
    if out.exists():
        raise InputError(f"{out}: is there already; name another folder, or move it away")
    judged = _dialogues(continued, dialogues) if len(ratios) > 1 else []
    with redirect_stdout(sys.stderr), Console() as console:
        from transformers.utils.logging import disable_progress_bar

        from pretrain.weights.chat_vector import add_chat_vector

        disable_progress_bar()
        if len(ratios) == 1:
            made = add_chat_vector(continued, instruct, base, ratios[0], out, log=console.log)
            bits: dict[float, float] = {}
        else:
            from pretrain.evaluation.dialogues import choose_dialogues, read_dialogues

            split = None if dialogues else "heldout"
            rows = choose_dialogues(judged, split=split, most=kilobytes * 1000 or None)
            bits = {}
            out.parent.mkdir(parents=True, exist_ok=True)
            best = out.with_name(f"{out.name}.best.tmp")
            shutil.rmtree(best, ignore_errors=True)
            for ratio in ratios:
                place = out.with_name(f"{out.name}.ratio-{ratio:g}.tmp")
                shutil.rmtree(place, ignore_errors=True)
                one = add_chat_vector(continued, instruct, base, ratio, place, log=console.log)
                bits[ratio] = read_dialogues(place, rows, log=console.log).bits_per_byte
                if bits[ratio] == min(bits.values()):
                    shutil.rmtree(best, ignore_errors=True)
                    place.rename(best)
                    made = one
                else:
                    shutil.rmtree(place)
            best.rename(out)
    if bits:
        lines = [
            [f"{ratio:g}", f"{value:.4f}", "taken" if ratio == made.ratio else ""]
            for ratio, value in bits.items()
        ]
        print(table(["ratio", "bits per byte of the assistant", ""], lines))
    rows_of = ", ".join(f"{number:,} rows {what}" for what, number in made.rows.items())
    print(f"{out}: {continued} + {made.ratio:g} × ({instruct} − {base}); {rows_of or 'unchanged'}")
    print(f"next\n  {shlex.join(['malmoi', 'chat', str(out)])}")


def _dialogues(continued: str, given: Sequence[Path]) -> list[str | Path]:
    """The files that were named, or the held-out documents of the run that the model lies in."""
    if given:
        return list(given)
    own = Path(continued).resolve().parent / "dedup" / "documents"
    if own.is_dir():
        return [own]
    raise InputError(
        "--ratio: several are judged by dialogues, and none are named; add --dialogues FILE"
    )
