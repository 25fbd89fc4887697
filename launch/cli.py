"""The command line: `malmoi …`. Words, exit statuses and messages here are a contract.

Nothing heavy is imported at the top: `malmoi --help` and a mistake answer before torch would have
loaded. Exit status: 0 done; 2 the person's mistake, one `error: …` line each; 75 stopped on request
and resumable by the same command; 130 Ctrl-C, resumable too; 1 anything else.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from configs.errors import InputError, Stopped, is_no_space, no_space
from configs.hub import no_telemetry

# typer carries its own copy of click since 0.27; this is the right class either way
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="malmoi",
    help="From raw Korean web text to a Llama-3 model you can talk to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="a YAML file, or the name of a bundled recipe")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="dotted keys, e.g. dedup.near.threshold=0.7"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would run and why, and stop")]
DrySample = Annotated[
    bool,
    typer.Option("--dry-run", help="read a sample, say what would come of the whole, and stop"),
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="where to put it")] = Path(),
) -> None:
    """Write a commented config to start from."""
    from configs.explain import init_text

    path = folder / "malmoi.yaml"
    if path.exists():
        raise InputError(f"{path}: is there already; move it away, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(init_text(_run_name(folder.resolve().name)), encoding="utf-8")
    command = shlex.join(["malmoi", "run", str(path), "--dry-run"])
    print(f"wrote {path}: put your text where `paths` says, then\n  {command}")


def _run_name(folder: str) -> str:
    """A folder's name as the name of a run, which is also a folder's on every machine: ASCII."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder).strip("-_.")
    return name or "my-run"


@app.command()
def run(config: ConfigArgument, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """All stages in order; what is finished and unchanged is skipped."""
    _stages(config, overrides, None, dry_run=dry_run)


@app.command()
def dedup(config: ConfigArgument, overrides: Overrides = None, dry_run: DrySample = False) -> None:
    """Raw web text → clean, unique documents."""
    _stages(config, overrides, "dedup", dry_run=dry_run)


@app.command()
def tokenizer(config: ConfigArgument, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Documents → a Llama-3 tokenizer that knows Korean."""
    _stages(config, overrides, "tokenizer", dry_run=dry_run)


@app.command()
def pretrain(config: ConfigArgument, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Documents + tokenizer + base model → checkpoint."""
    _stages(config, overrides, "pretrain", dry_run=dry_run)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder")],
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]", help="whose held-out documents; default: the model's run"
        ),
    ] = None,
    overrides: Overrides = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="lm-eval's tasks, by name: kobest,kmmlu,haerae,klue,mmlu,gsm8k"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="folder of local dataset copies (--tasks); default: the hub")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="examples before a question; default: the task's own", min=0)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="rows of a task", min=1)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="sequences at a time; default: 1, more on a GPU", min=1)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="another model, judged on the same text, and the change")
    ] = None,
    kilobytes: Annotated[
        int, typer.Option(help="held-out text judged of each source; 0 for all", min=0)
    ] = 300,
    window: Annotated[
        int | None,
        typer.Option(help="tokens of context; default: the model's, at most 2048", min=2),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="judge by held-out dialogues, and by replies to them")
    ] = False,
    dialogues: Annotated[
        list[Path] | None,
        typer.Option(help="dialogues to judge by (--chat); default: the run's held-out ones"),
    ] = None,
    replies: Annotated[int, typer.Option(help="prompts answered (--chat)", min=0)] = 32,
    max_new_tokens: Annotated[int, typer.Option(help="longest reply (--chat)", min=1)] = 128,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON list, an entry a model")
    ] = False,
) -> None:
    """Bits per byte on held-out text; with --tasks, lm-eval's scores; with --chat, dialogues."""
    changes = list(overrides or [])
    if config is not None and "=" in config and not Path(config).exists():  # CONFIG left out
        changes.insert(0, config)
        config = None
    if chat:
        if tasks is not None:
            raise InputError("--tasks, --chat: judge differently; give one of them at a time")
        from launch.dialogues import Asked, evaluate_dialogues

        asked = Asked(
            against, tuple(dialogues or ()), replies, max_new_tokens, kilobytes, window,
            batch_size, as_json=as_json,
        )  # fmt: skip
        evaluate_dialogues(model, config, changes, asked)
        return
    if dialogues:
        raise InputError("--dialogues: are judged with --chat; add it")
    from launch.evaluation import Wanted
    from launch.evaluation import evaluate as measure

    wanted = Wanted(
        tasks, data, shots, limit, batch_size, against, kilobytes, window, as_json=as_json
    )
    measure(model, config, changes, wanted)


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a model folder")],
    compare: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="another one, side by side with it")
    ] = None,
    message: Annotated[str | None, typer.Option(help="one reply on stdout, then exit")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="OpenAI-compatible server, page at /")
    ] = False,
    host: Annotated[str, typer.Option(help="address to bind (--serve)")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to bind (--serve)", min=0, max=65535)] = 8000,
    api_key: Annotated[str | None, typer.Option(help="key clients must send (--serve)")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="others may use it without a key (--serve)")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="transformers, or vllm in an environment of its own (--serve)")
    ] = "transformers",
    vllm: Annotated[
        Path | None, typer.Option(help="its python or vllm program; default: ~/.malmoi/vllm")
    ] = None,
    system: Annotated[str | None, typer.Option(help="system prompt")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="longest reply, in tokens", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token", min=0)] = 0.7,
    top_p: Annotated[float, typer.Option(help="nucleus sampling", min=0.01, max=1)] = 0.9,
    top_k: Annotated[int, typer.Option(help="likeliest tokens kept; 0 keeps all", min=0)] = 0,
    min_p: Annotated[
        float, typer.Option(help="least share of the likeliest token's probability", min=0, max=1)
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="above 1: what was said becomes less likely", min=0.1, max=10)
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="same seed, same reply")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; default: all cores", min=1)
    ] = None,
) -> None:
    """Talk to a model: in the terminal, by one message, or as a server; two with --compare."""
    from launch.chat.command import Address, answer_once, serve_models, talk_to
    from launch.chat.manner import Manner

    models = [model] if compare is None else [model, compare]
    if serve:
        address = Address(host, port, api_key, public)
        serve_models(models, address, threads=threads, engine=engine, vllm=vllm)
        return
    if engine != "transformers" or vllm is not None:
        raise InputError("--engine, --vllm: are of the server; add --serve")
    manner = Manner(
        system, max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed
    )
    if message is not None:
        answer_once(models, message, manner, threads=threads)
    else:
        talk_to(models, manner, threads=threads)


@app.command()
def find(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="a run folder, or a folder of runs (runs/)")
    ],
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="what to look for; - reads standard input"),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="a file with the text")] = None,
    id: Annotated[str | None, typer.Option("--id", help="a document's id, kept or removed")] = None,
    url: Annotated[str | None, typer.Option(help="a document's address")] = None,
    at_least: Annotated[
        float | None,
        typer.Option(help="Jaccard similarity; default: the run's threshold", min=0.05, max=1.0),
    ] = None,
    most: Annotated[int, typer.Option(help="most answers", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Is this text in that corpus, and which models and checkpoints read it: status 0 if so, 1 if not."""
    from launch.find import answer

    if not answer(
        folder, text, file=file, id=id, url=url, at_least=at_least, most=most, as_json=as_json
    ):
        raise typer.Exit(1)


@app.command()
def why(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    document: Annotated[str, typer.Argument(metavar="ID", help="a document's id")],
) -> None:
    """Why a document went: step, reason, and the kept one beside it."""
    from launch.why import explain_removal

    print(explain_removal(folder, document))


@app.command()
def plan(
    config: ConfigArgument,
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLUSTER] [KEY=VALUE]…",
            help="8x80GB, 4x8x80GB or a cluster's YAML file, and overrides",
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GB of one GPU, where a file names the cluster", min=1)
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="measured TFLOP/s of one GPU, for the hours", min=0.001)
    ] = None,
    mtbf: Annotated[
        float | None, typer.Option(help="hours between two failures of one machine", min=0.1)
    ] = None,
) -> None:
    """Batch arithmetic, memory by ZeRO stage, hours, disk, and failures of a training."""
    from configs.load import load
    from launch.cluster_size import cluster_size
    from launch.plan import plan as draw

    words = list(rest or [])
    named = [words.pop(0)] if words and "=" not in words[0] else []
    settings = load(config, words)
    cluster, note = cluster_size(
        named[0] if named else None, None if gpu_memory is None else gpu_memory * 1e9
    )
    text, refused = draw(settings, cluster, tflops, mtbf)
    print(text)
    if note:
        print(f"\n{note}")
    if refused:
        raise InputError(refused)


@app.command()
def launch(
    cluster: Annotated[
        str,
        typer.Argument(metavar="CLUSTER", help="a YAML file, or local, hosts, slurm, kubernetes"),
    ],
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="dedup, tokenizer, pretrain or run")
    ],
    config: ConfigArgument,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be done or submitted, and stop")
    ] = False,
) -> None:
    """The same stage and config on other machines: over ssh, Slurm or Kubernetes."""
    from launch.clusters.command import launch_command

    launch_command(cluster, stage, config, overrides or [], dry_run=dry_run)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Running, done or failed, why, how far, and the exact command that goes on."""
    from launch.status import as_json as in_json
    from launch.status import said
    from launch.status import status as look

    found = look(folder)
    print(in_json(found) if as_json else said(found))


@app.command()
def stop(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    wait: Annotated[
        float | None, typer.Option(help="longest wait in seconds; default: what a save may take")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """End a run on any machine as Ctrl-C would: the step is finished, a checkpoint saved."""
    from launch.status import as_json as in_json
    from launch.status import said
    from launch.stop import stop as ask

    found, was_running = ask(folder, wait)
    if as_json:
        print(in_json(found))
    else:
        print(said(found) if was_running else f"nothing to stop\n{said(found)}")


@app.command()
def lineage(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="a model, run or checkpoint folder")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """What is in this model: data, tokenizer, phases, code, machines, hours, licences."""
    from launch.ingredients import answer

    answer(model, as_json=as_json)


@app.command()
def doctor(
    cluster: Annotated[
        str | None,
        typer.Argument(metavar="[CLUSTER]", help="a cluster file; default: this machine"),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="three minutes of training on this machine's devices")
    ] = False,
    folder: Annotated[
        Path, typer.Option("--dir", help="where runs will lie, on all machines")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Is this machine, or cluster, fit: a table with what to mend; exit status 1 if something is."""
    from launch.doctor.command import doctor as examine

    if not examine(cluster, folder=folder.absolute(), train=train, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def track(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
) -> None:
    """Send MLflow what a run could not: the server was down, or another one is named now."""
    from launch.tracking import send

    send(folder)


@app.command()
def bundle(
    config: ConfigArgument,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option("--to", help="folder to write")] = Path("malmoi-bundle"),
    packages: Annotated[
        bool, typer.Option(help="a wheelhouse too (--no-packages: only what the config names)")
    ] = True,
    python: Annotated[
        str | None,
        typer.Option(help="Python of the closed machine, for example 3.12; default: this"),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(help="its platform, for example manylinux_2_28_x86_64; default: this"),
    ] = None,
    extras: Annotated[str, typer.Option(help="extras to bring, separated by commas")] = "llama3",
) -> None:
    """Everything a machine without a network needs: packages, tokenizer, base, evaluation data."""
    from configs.load import load
    from launch.bundle import bundle as pack

    pack(
        load(config, overrides or []), to, packages=packages, python=python,
        platform=platform, extras=[name for name in extras.split(",") if name],
    )  # fmt: skip


@app.command("chat-vector")
def chat_vector(
    continued: Annotated[
        str, typer.Option(help="the model that went on from base: a folder or hub id")
    ],
    instruct: Annotated[str, typer.Option(help="the tuned model of the same base")],
    base: Annotated[str, typer.Option(help="the base of both")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    ratio: Annotated[
        str, typer.Option(help="how much of it to add; several (0.5,0.7,1) are tried and judged")
    ] = "1",
    dialogues: Annotated[
        list[Path] | None,
        typer.Option(help="dialogues to judge several ratios by; default: the run's held-out ones"),
    ] = None,
    kilobytes: Annotated[
        int, typer.Option(help="dialogues judged of each source; 0 for all", min=0)
    ] = 300,
) -> None:
    """Add what instruction tuning taught a base to a model that went on from that base."""
    from launch.chat_vector import chat_vector as add
    from launch.chat_vector import parse_ratios

    add(continued, instruct, base, parse_ratios(ratio), out, dialogues or [], kilobytes)


@app.command("compare-tokenizers")
def compare_tokenizers(
    a: Annotated[
        str, typer.Argument(metavar="A", help="llama3, a tokenizer's folder, or a hub id")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="the one to compare it with")],
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="default: two Korean sentences")
    ] = None,
) -> None:
    """Two tokenizers on one text: tokens per eojeol, and where each cuts."""
    from launch.compare import side_by_side

    print(side_by_side(a, b, text))


@app.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="a dotted config key")],
) -> None:
    """Meaning, unit, default and limits of a config key."""
    from configs.explain import explain as describe

    print(describe(key))


def _stages(source: str, overrides: list[str] | None, only: str | None, *, dry_run: bool) -> None:
    from configs.load import load, run_folder

    config = load(source, overrides or [])
    folder = run_folder(config)
    from launch.pipeline import run_command

    run_command(config, folder, source, overrides or [], only, dry_run=dry_run)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    raise Stopped


def main(run: Callable[[], object] | None = None) -> NoReturn:
    """Run the command line and exit with the contract's status.

    run: done in place of what the command line says, with the same signals, messages and statuses.
    """
    no_telemetry()
    for number in (signal.SIGTERM, signal.SIGUSR1):  # the second: a Slurm job's time is nearly up
        signal.signal(number, _on_sigterm)
    try:
        status: Any = run() if run else app(prog_name="malmoi", standalone_mode=False)
        status = status or 0
        if status == 130:  # typer turns Ctrl-C into this status by itself
            raise KeyboardInterrupt
    except InputError as error:
        status = _mistakes(error.lines)
    except typer.Exit as error:
        status = error.exit_code
    except ClickException as error:
        status = _usage(error)
    except Stopped as stop:
        why = f": {stop}" if str(stop) else ""
        print(f"stopped{why}; go on with: {_again()}", file=sys.stderr)
        status = 75
    except (KeyboardInterrupt, typer.Abort):
        print(f"\nstopped by Ctrl-C; go on with: {_again()}", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    except OSError as error:
        if is_no_space(error):
            status = _mistakes([no_space(error, Path.cwd())])
        elif isinstance(error, tuple(_MENDS)) and error.filename is not None:
            status = _mistakes([_file_mistake(error)])
        else:
            raise
    sys.exit(status)


_MENDS: dict[type[OSError], str] = {
    PermissionError: "give yourself the right to it, or name another path",
    FileExistsError: "a file stands where a folder is needed; move it away, or name another path",
    NotADirectoryError: "a file stands where a folder is needed; move it away, or name another path",
    IsADirectoryError: "a folder stands where a file is needed; move it away, or name another path",
    FileNotFoundError: "check the path; if malmoi made it, give the same command again",
}


def _file_mistake(error: OSError) -> str:
    mend = next(mend for kind, mend in _MENDS.items() if isinstance(error, kind))
    reason = (error.strerror or type(error).__name__).lower()
    return f"{os.fsdecode(error.filename)}: {reason}; {mend}"


def _usage(error: Any) -> int:
    """A mistake on the command line itself; a bare `malmoi` is a question and gets the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "malmoi"
    return _mistakes([f"{error.format_message()} (see {command} --help)"])


def _mistakes(lines: list[str] | tuple[str, ...]) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return 2


def _again() -> str:
    return shlex.join(["malmoi", *sys.argv[1:]])


if __name__ == "__main__":
    main()
