"""`malmoi doctor --train`: some minutes of real training on one's own devices, one table.

In: nothing but this machine: a small random Llama, a tokenizer made on the spot, the sample text of the
package. Out: `Finding`s: ZeRO 1, 2 and 3 in the type that the device takes, whether their losses agree, a
run whose rank is killed and that has to end with the same losses, packing, and the all-reduce between
the devices. What is only compared and measured runs in one start of torchrun, for most of a start is
imports (ranks.py); the run whose rank is killed is `malmoi pretrain` as everybody runs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from configs.files import read_json
from launch.clusters.local import ON_THIS_MACHINE, loopback
from launch.clusters.torchrun import rank_environment
from launch.console import duration
from launch.doctor.bandwidth import said
from launch.doctor.finding import Finding
from launch.doctor.ranks import ALL_REDUCE, PACKING

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "configs" / "sample" / "ko" / "board.jsonl.zst"
STAGES = (1, 2, 3)
STEPS = 12
SEQUENCE, EACH = 256, 2  # tokens, sequences of a rank in a step
LIMIT = 400.0  # seconds for one start of the ranks
AGREE = {"float32": 1e-3, "bfloat16": 3e-2}
"""By how much losses of ZeRO stages may differ: they add up in other orders."""
CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)

Say = Callable[[str], None]


def try_training(say: Say) -> list[Finding]:
    """Everything, one after the other; what fails is a line of the table, and the rest goes on."""
    import torch

    gpus = torch.cuda.device_count()
    ranks = gpus or 2
    begun = time.monotonic()
    findings = [
        Finding("devices", f"{gpus} × {torch.cuda.get_device_name(0)}" if gpus else "CPU, 2 ranks")
    ]
    with tempfile.TemporaryDirectory(prefix="malmoi-doctor-") as name:
        folder = Path(name)
        make_tokenizer(folder / "tokenizer")
        with (folder / "board.jsonl").open("w", encoding="utf-8") as documents:
            documents.writelines(json.dumps({"text": text}) + "\n" for text in _texts(300))
        for stage in STAGES:
            _write_config(folder / f"zero-{stage}", folder / "tokenizer", stage, ranks)
        parts = [*([ALL_REDUCE] if ranks > 1 else []), PACKING, *(f"zero-{n}" for n in STAGES)]
        problems = _together(folder, parts, ranks, say)
        losses: dict[int, list[float]] = {}
        for stage in STAGES:
            finding, losses[stage] = _trained(folder, stage, problems.get(f"zero-{stage}"))
            findings.append(finding)
        findings.append(_agreement(losses, folder))
        say("a rank is killed …")
        findings.append(_killed(folder, ranks, losses[2]))
        findings.append(_packing(folder, problems.get(PACKING)))
        findings.append(_all_reduce(folder, ranks, problems.get(ALL_REDUCE)))
    spent = time.monotonic() - begun
    return [*findings, Finding("time", duration(spent))]


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE with Llama-3's control tokens, from the sample's text; nothing is fetched."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000 - len(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(300), trainer)
    tokenizer.add_special_tokens(list(CONTROL))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[0], eos_token=CONTROL[1]
    ).save_pretrained(str(folder))


def _texts(most: int) -> list[str]:
    import zstandard

    texts = []
    with zstandard.open(SAMPLE, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                texts.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError):  # the sample has lines that are none
                continue
    return texts[:most]


# ── training ────────────────────────────────────────────────────────────────────────────────────


def _write_config(folder: Path, tokenizer: Path, stage: int, ranks: int) -> Path:
    """The config of a training in `folder`, beside it."""
    config = folder.with_suffix(".yaml")
    batch = EACH * ranks * SEQUENCE
    tokens = STEPS * batch
    config.write_text(
        json.dumps(
            {
                "name": "doctor",
                "dir": str(folder),
                "tracking": {"mlflow": False},
                "pretrain": {
                    "base": {
                        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
                        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
                        "tie_word_embeddings": True, "max_position_embeddings": 1024,
                    },
                    "documents": [str(tokenizer.parent / "board.jsonl")],
                    "tokenizer": str(tokenizer),
                    "sequence_length": SEQUENCE,
                    "global_batch_tokens": batch,
                    "micro_batch": EACH,
                    "processes": ranks,
                    "zero_stage": stage,
                    "checkpoint": {"every_steps": 4, "keep": 1},
                    "phases": [{"name": "try", "tokens": tokens, "lr": 1e-3, "mixture": {"board": 1.0}}],
                },
            },
            ensure_ascii=False,
        )
    )  # fmt: skip
    return config


def _together(folder: Path, parts: Sequence[str], ranks: int, say: Say) -> dict[str, str]:
    """All parts in one start of the ranks, and in another one what a part that failed has left.

    The parts that failed → why.
    """
    problems: dict[str, str] = {}
    left = list(parts)
    while left:
        say(f"{', '.join(left)}: {ranks} ranks …")
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
        words += [
            "--rdzv-backend",
            "c10d",
            *ON_THIS_MACHINE,
            "--nproc-per-node",
            str(ranks),
            "-m",
            "launch.doctor.ranks",
            str(folder),
            *left,
        ]
        status, last = _run(words, ranks)
        asked, left = left, [p for p in left if not (folder / f"{p}.found.json").is_file()]
        if not left:
            break
        told = folder / f"{left[0]}.problem"
        said = told.read_text(encoding="utf-8") if told.is_file() else ""
        why = (said or last or f"status {status}").strip()[:160]
        if left == asked and not said:  # no rank came as far as a part: none ever will
            return problems | dict.fromkeys(left, why)
        problems[left.pop(0)] = why
    return problems


def _run(
    command: list[str], ranks: int, while_running: Callable[[int], None] | None = None
) -> tuple[int, str]:
    """A program to its end: its status, and its last line."""
    import torch

    on_cpu = not torch.cuda.is_available()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", errors="replace", env=rank_environment("auto", ranks, on_cpu=on_cpu, more=loopback()),
    )  # fmt: skip
    deadline = time.monotonic() + LIMIT
    try:
        while True:
            try:
                told = process.communicate(timeout=0.2)[1]
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    return 124, f"did not end in {duration(LIMIT)}"
                if while_running is not None:
                    while_running(process.pid)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    lines = [line for line in told.splitlines() if line.strip(" =-")]
    return process.returncode, lines[-1].strip() if lines else ""


def _trained(place: Path, stage: int, problem: str | None) -> tuple[Finding, list[float]]:
    """What the training with a ZeRO stage has left, and its losses; none where it failed."""
    folder = place / f"zero-{stage}"
    steps = losses_of(folder)
    if problem is None and len(steps) != STEPS:
        problem = f"{len(steps)} of {STEPS} steps were taken"
    if problem is not None:
        return Finding(f"ZeRO {stage}", f"failed: {problem}", "wrong", "see the message"), []
    report = json.loads((folder / "pretrain" / "report.json").read_text())
    rates = sorted(step["tokens_per_second"] for step in steps[2:])
    losses = [float(step["loss"]) for step in steps]
    learns = losses[-1] < losses[0]
    told = (
        f"{report['world_size']} ranks, {report['dtype']}, loss {losses[0]:.3f} → {losses[-1]:.3f}, "
        f"{rates[len(rates) // 2]:,.0f} tokens/s"
    )
    fix = "" if learns else "the loss does not fall: please report this device"
    return Finding(f"ZeRO {stage}", told, "ok" if learns else "wrong", fix), losses


def losses_of(folder: Path) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl; what a kill left half-written is not one."""
    found = []
    try:
        lines = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "loss" in record:
            found.append(record)
    return found


def _agreement(losses: dict[int, list[float]], folder: Path) -> Finding:
    if not all(losses.values()):
        return Finding("ZeRO 1 = 2 = 3", "not all of them trained", "wrong", "see above")
    dtype = json.loads((folder / "zero-2" / "pretrain" / "report.json").read_text())["dtype"]
    apart = max(abs(a - b) for one in (1, 3) for a, b in zip(losses[one], losses[2], strict=True))
    fine = apart < AGREE.get(dtype, 1e-3)
    fix = "" if fine else "gradients are lost or counted twice: please report this device"
    return Finding(
        "ZeRO 1 = 2 = 3", f"losses differ by at most {apart:.1e}", "ok" if fine else "wrong", fix
    )


def _killed(folder: Path, ranks: int, whole: list[float]) -> Finding:
    """Kill the last rank with SIGKILL after some steps: torchrun starts it again, the losses stay."""
    run = folder / "killed"
    killed: list[float] = []

    def kill(launcher: int) -> None:
        if killed or len(losses_of(run)) < 6:
            return
        for process in reversed(_ranks(launcher)):
            process.kill()
            killed.append(time.monotonic())
            return

    config = _write_config(run, folder / "tokenizer", 2, ranks)
    words = [sys.executable, "-m", "launch.cli", "pretrain", str(config)]
    status, last = _run(words, ranks, kill)
    what = "a rank killed"
    if not whole:
        return Finding(what, "nothing to compare with", "note")
    if not killed:
        return Finding(what, "it was over before it could be killed", "note")
    steps = losses_of(run)
    if status or len(steps) != STEPS:
        return Finding(what, f"did not go on: {last[:160]}", "wrong", "see the message")
    resumed = json.loads((run / "pretrain" / "report.json").read_text())["resumed"]
    apart = max(abs(step["loss"] - loss) for step, loss in zip(steps, whole, strict=True))
    fine = apart < 1e-2 and resumed >= 1
    told = f"restarted, resumed {resumed} time{'s' * (resumed != 1)}, losses differ by at most {apart:.1e}"
    return Finding(
        what, told, "ok" if fine else "wrong", "" if fine else "please report this device"
    )


def _ranks(launcher: int) -> list[psutil.Process]:
    found = []
    try:
        for process in psutil.Process(launcher).children(recursive=True):
            words = process.cmdline()
            if "launch.rank" in words and "torch.distributed.run" not in words:
                found.append(process)
    except psutil.Error:
        return []
    return found


# ── packing, all-reduce ─────────────────────────────────────────────────────────────────────────


def _packing(folder: Path, problem: str | None) -> Finding:
    if problem is not None:
        return Finding("packing", f"could not be asked: {problem}", "wrong", "see the message")
    found = read_json(folder / f"{PACKING}.found.json")
    told = (
        f"{found['attention']}, {found['dtype']}: documents apart to {found['difference']:.1e} "
        f"({found['leak']:.1e} if they saw each other)"
    )
    fix = "" if found["apart"] else "do not train packed sequences here: please report this device"
    return Finding("packing", told, "ok" if found["apart"] else "wrong", fix)


def _all_reduce(folder: Path, ranks: int, problem: str | None) -> Finding:
    if problem is not None:
        return Finding("all-reduce", f"failed: {problem}", "wrong", "see the message")
    if ranks < 2:
        return Finding("all-reduce", "one device: there is nothing to exchange")
    found = read_json(folder / f"{ALL_REDUCE}.found.json")
    return Finding(
        "all-reduce",
        f"{said(found['bits_per_second'])} among {ranks} ({found['backend']}), "
        f"{1e6 * found['latency_seconds']:,.0f} µs",
    )
