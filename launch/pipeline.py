"""`malmoi run` and its single stages as a person meets them: what will run, the bars, the table at
the end, one reply by a new process, the page, and the commands to try next.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, write_json
from configs.schema import Config
from launch.console import Console, amount, duration, table
from launch.machines import Machines
from launch.run import configured, reports, run_stages
from launch.run import dry_run as plan
from launch.section_training import TOY
from launch.tokenizer_summary import summary as tokenizer_summary

Reply = dict[str, str]


def run_command(
    config: Config,
    folder: Path,
    source: str,
    overrides: Sequence[str],
    only: str | None,
    *,
    dry_run: bool,
    machines: Machines | None = None,
) -> None:
    """Run a config's stages, or `only` one, and print what was made, where, and what to do next.

    source and overrides: as the person gave them, for the commands that are printed. machines: where
    stages run; None: on this machine.
    """
    stages = configured(config)
    if not stages:
        raise InputError(f"{source}: has no stage; give it dedup, tokenizer or pretrain")
    if only is not None and only not in stages:
        raise InputError(f"{source}: has no {only} section; `malmoi explain {only}` tells its keys")
    chosen = [only] if only else stages
    if dry_run:
        print(f"{config.name} → {folder} (dry run: nothing is written)")
        lines = plan(config, folder, chosen)
        for line in lines:
            print(f"  {line}")
        if only == "dedup" and "skipped" not in lines[0].partition("\n")[0]:
            from dedup.preview import predict
            from launch.prediction import said

            print(f"\n{said(predict(config, folder))}")
        return
    replies: list[Reply] = []

    def finish() -> None:
        from launch.report import write

        if not config.chat.prompts:
            (folder / "replies.json").unlink(missing_ok=True)
        elif only is None and (folder / "model" / "config.json").exists():
            replies.extend(_reply(config, folder, console))
            write_json(folder / "replies.json", replies)
        write(folder)

    with Console() as console:
        run_stages(config, folder, chosen, console, machines=machines, at_end=finish)
    print(_summary(folder))
    if only == "tokenizer" and (told := tokenizer_summary(folder)):
        print(f"{told}\n")
    for line in _conversation(replies, folder):
        print(line)
    print(f"report   {folder / 'report.html'}")
    print("next")
    for command in _next(config, folder, [source, *overrides], only):
        print(f"  {command}")


def _reply(config: Config, folder: Path, console: Console) -> list[Reply]:
    """Answer the config's prompts with a process that knows nothing but the model folder."""
    answers = []
    for prompt in config.chat.prompts:
        command = [
            sys.executable, "-m", "launch.cli", "chat", str(folder / "model"),
            "--message", prompt,
            "--max-new-tokens", str(config.chat.max_new_tokens),
            "--temperature", str(config.chat.temperature),
            "--top-p", str(config.chat.top_p),
            "--seed", str(config.seed),
        ]  # fmt: skip
        if config.chat.system:
            command += ["--system", config.chat.system]
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path},
        )
        if done.returncode != 0:
            console.say(f"    the model did not answer: {done.stderr.strip()[-400:]}")
            continue
        answers.append({"prompt": prompt, "reply": done.stdout.strip()})
    return answers


def _conversation(replies: Sequence[Reply], folder: Path) -> list[str]:
    if not replies:
        return []
    parameters = (reports(folder).get("pretrain") or {}).get("parameters", 0)
    lines = []
    if parameters < TOY:
        lines.append(
            f"a toy model of {parameters / 1e6:.1f} M parameters answers (it has seen little):"
        )
    for answer in replies:
        lines += [f"  you    {answer['prompt']}", f"  model  {answer['reply']}"]
    return [*lines, ""]


def _summary(folder: Path) -> str:
    """The table of the stages."""
    done = reports(folder)
    seconds: dict[str, Any] = read_json(folder / "lineage.json")["stages"]
    rows = []

    def row(stage: str, *cells: str) -> None:
        rows.append([stage, *cells, duration(seconds.get(stage, {}).get("seconds", 0))])

    if report := done.get("dedup"):
        gone = ", ".join(f"{step} {n:,}" for step, n in report["removed"].items() if n)
        failed = report["documents_failed"]
        row(
            "dedup",
            f"{report['documents_in']:,} documents",
            f"{report['documents_out']:,} documents",
            f"removed: {gone or 'none'}" + (f"; unreadable {failed:,}" if failed else ""),
        )
    if report := done.get("tokenizer"):
        row(
            "tokenizer",
            f"{report['base_vocab_size']:,} tokens",
            f"{report['vocab_size']:,} tokens",
            saved(report),
        )
    if report := done.get("pretrain"):
        tuned = report.get("preference", [])  # their loss is another's
        phases = report["phases"][: len(report["phases"]) - len(tuned)] or report["phases"]
        first, last = phases[0]["loss_first"], phases[-1]["loss_last"]
        before, after = (report["bits_per_byte"].get(when, {}) for when in ("before", "after"))
        bits = "; ".join(
            f"{name} {before[name]:.2f} → {after[name]:.2f}"
            for name in ("ko", "en")
            if name in before and name in after
        )
        row(
            "pretrain",
            f"loss {first:.2f}",
            f"loss {last:.2f}",
            f"{amount(report['tokens'])} tokens; bits per byte {bits or '–'}",
        )
        for one in tuned:
            was, now = (one[when] or {} for when in ("before", "after"))
            judged = "no pair held out"
            if was and now:
                judged = f"{now['pairs']} held-out pairs, margin {now['margin']:+.3f}"
            right = [f"{100 * x['ranking_accuracy']:.0f} % right" if x else "–" for x in (was, now)]
            rows.append([f"  {one['name']}", *right, judged, duration(one["seconds"])])
    if not rows:
        return ""
    return "\n" + table(["stage", "before", "after", "what happened", "time"], rows) + "\n"


def saved(report: dict[str, Any]) -> str:
    """What the extension saved; tokens_saved is null where no source is Korean."""
    share, on = report["tokens_saved"], report["measured_on"]
    if share is None:
        return "no Korean text to measure on"
    held = "held-out" if on == "heldout" else "its own training text's"
    return f"{100 * share:.1f} % fewer tokens on {held} Korean words"


def _next(config: Config, folder: Path, given: Sequence[str], only: str | None) -> list[str]:
    """Commands to try, ready to be pasted; `given` is CONFIG and the overrides of this one."""
    model = str(folder / "model")
    if (folder / "model" / "config.json").exists():
        return [
            shlex.join(["malmoi", "chat", model]),
            f"{shlex.join(['malmoi', 'chat', model, '--serve'])}          # http://127.0.0.1:8000",
            _why(folder) or shlex.join(["malmoi", "evaluate", model]),
        ]
    stages = configured(config)
    following = stages[stages.index(only) + 1 :] if only in stages else []
    if following:
        return [shlex.join(["malmoi", following[0], *given])]
    return [_why(folder) or "malmoi init my-run"]


def _why(folder: Path) -> str | None:
    """A `malmoi why` command for a document that really went."""
    files = sorted((folder / "dedup" / "removed").glob("*.parquet"))
    if not files:
        return None
    import pyarrow.parquet as parquet

    rows = [
        row
        for path in files
        for row in parquet.read_table(path, columns=["id", "step"]).to_pylist()
    ]
    rows.sort(key=lambda row: row["step"] != "near")
    return shlex.join(["malmoi", "why", str(folder), rows[0]["id"]]) if rows else None
