"""`malmoi bundle CONFIG`: all that a machine without a network needs to run a config.

In: a config, on a machine with a network. Out: a folder to be carried over: `wheels/` (malmoi and every
package it needs), `hf/` (what the config names on the hub, as the hub's own cache), `models/` (folders it
names on this disk), `SHA256SUMS`, and two scripts: `install.sh` makes a .venv from the wheels alone,
`env.sh` says that there is no network. A name that the config has on the hub means the same there, so the
config need not change. Data are not brought: they lie where they are to be trained on.

The decision: pip's own wheelhouse and the hub's own cache, so that nothing of ours has to be trusted to
unpack them. The cost is size: torch with CUDA is 3 GB, an 8B model 16 GB.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from configs.errors import InputError
from configs.files import sha256, write_text
from configs.hub import NO_TELEMETRY, OFFLINE, cannot_be_had, is_hub_id
from configs.schema import Config
from launch.console import quantity

ROOT = Path(__file__).resolve().parent.parent
SUMS = "SHA256SUMS"

_INSTALL = """\
#!/bin/sh
# Makes .venv beside this script from the wheels here; nothing is fetched. PYTHON=python3.12 sh install.sh
set -e
cd "$(dirname "$0")"
sha256sum --quiet --check {sums}
${{PYTHON:-python3}} -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index \\
  --find-links wheels {packages}
echo "installed; now: . $(pwd)/env.sh && malmoi run CONFIG"
"""

_ENV = """\
# . env.sh   there is no network: names on the hub mean the copies here, and nothing reports home
bundle="$(cd "$(dirname "${{BASH_SOURCE:-$0}}")" && pwd)"
{exports}
if [ ! -f "$bundle/SHA256SUMS" ]; then
  echo "env.sh: this shell does not tell where it lies; cd into the bundle, then: . ./env.sh" >&2
fi
export HF_HOME="$bundle/hf"
if [ -d "$bundle/.venv" ]; then export PATH="$bundle/.venv/bin:$PATH"; fi
"""

_PULLED = [
    "*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "NOTICE*",
    "USE_POLICY*", "*.tiktoken",
]  # fmt: skip
"""Files of a model: no second copy of the weights in another format (.bin, .pth, .gguf)."""


def bundle(
    config: Config,
    to: Path,
    *,
    packages: bool = True,
    python: str | None = None,
    platform: str | None = None,
    extras: Sequence[str] = ("llama3",),
) -> None:
    """Write the bundle to `to`, which may hold an earlier one: what is there is not fetched again.

    python, platform: of the machine it is for (3.12, manylinux_2_28_x86_64); None: as this one's.
    Raises InputError where pip or the hub do not give what is asked.
    """
    to.mkdir(parents=True, exist_ok=True)
    if packages:
        _say(f"wheels of malmoi[{','.join(extras)}]")
        wheelhouse(to / "wheels", _malmoi(to / "wheels", extras), python=python, platform=platform)
    for key, name in named(config).items():
        if is_hub_id(name):
            _say(f"{key}: {name} from the hub")
            _from_hub(key, name, to / "hf" / "hub", weights=key == "pretrain.base")
        elif Path(name).is_dir():
            _say(f"{key}: the folder {name}")
            shutil.copytree(name, to / "models" / Path(name).name, dirs_exist_ok=True)
    exports = "\n".join(
        f"export {name}={value}" for name, value in {**OFFLINE, **NO_TELEMETRY}.items()
    )
    write_text(to / "env.sh", _ENV.format(exports=exports))
    wanted = shlex.quote(f"malmoi[{','.join(extras)}]" if extras else "malmoi")
    write_text(to / "install.sh", _INSTALL.format(sums=SUMS, packages=wanted))
    write_text(to / "README.txt", _readme(config, to))
    total = write_sums(to)
    print(f"{to}: {quantity(total, 'B')}; carry it over, then there: sh install.sh && . ./env.sh")


def named(config: Config) -> dict[str, str]:
    """The models and tokenizers a config names, by key; llama3 is in its own package."""
    found: dict[str, object] = {}
    if config.tokenizer is not None:
        found["tokenizer.base"] = config.tokenizer.base
    if config.pretrain is not None:
        found["pretrain.base"] = config.pretrain.base
        found["pretrain.tokenizer"] = config.pretrain.tokenizer
    return {key: name for key, name in found.items() if isinstance(name, str) and name != "llama3"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ── packages ────────────────────────────────────────────────────────────────────────────────────


def _malmoi(wheels: Path, extras: Sequence[str]) -> list[str]:
    """What pip is to bring: this very malmoi, as a wheel where it runs from a checkout."""
    marks = f"[{','.join(extras)}]" if extras else ""
    if not (ROOT / "pyproject.toml").is_file():
        return [f"malmoi{marks}=={version('malmoi')}"]
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("malmoi-*.whl"):
        old.unlink()
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("malmoi-*.whl")
    return [f"malmoi{marks} @ {wheel.resolve().as_uri()}"]


def wheelhouse(
    folder: Path,
    requirements: Sequence[str],
    *,
    python: str | None = None,
    platform: str | None = None,
) -> None:
    """Download wheels of the requirements and all that they need, in the versions that are tested."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["download", "--dest", str(folder), "--find-links", str(folder)]
    if python or platform:
        words += ["--only-binary", ":all:"]
        words += ["--python-version", python] if python else []
        words += ["--platform", platform] if platform else []
    else:
        words += ["--prefer-binary"]
    if (ROOT / "constraints.txt").is_file():
        words += ["--constraint", str(ROOT / "constraints.txt")]
    _pip(*words, *requirements)
    for archive in sorted(folder.glob("*.tar.gz")):  # a closed machine may have no compiler
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(archive))
        archive.unlink()


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        last = (lines or done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(
            f"pip {words[0]}: {last.removeprefix('ERROR:').strip()}; is there a network, and a wheel "
            "for that Python and platform?"
        )


# ── models ──────────────────────────────────────────────────────────────────────────────────────


def _from_hub(key: str, name: str, cache: Path, *, weights: bool) -> None:
    from huggingface_hub import snapshot_download

    pulled = [pattern for pattern in _PULLED if weights or pattern != "*.safetensors"]
    try:
        snapshot_download(name, cache_dir=cache, allow_patterns=pulled)
    except Exception as error:  # the hub's client raises whatever it likes
        raise InputError(cannot_be_had(key, name, error)) from None


def _readme(config: Config, to: Path) -> str:
    lines = [
        "Carried to a machine without a network:",
        "  sh install.sh                 makes .venv from wheels/ (sha256 is checked first)",
        "  . ./env.sh                    names on the hub mean the copies in hf/; nothing reports home",
        "  malmoi doctor                 says what is missing",
        "  malmoi run CONFIG             with your own data",
        "",
    ]
    for key, name in named(config).items():
        if is_hub_id(name):
            lines.append(f"{key}: {name} is in hf/; leave the config as it is")
        elif (to / "models" / Path(name).name).is_dir():
            lines.append(f"{key}: {name} is in models/; add {key}=PATH/models/{Path(name).name}")
    return "\n".join(lines) + "\n"


def write_sums(folder: Path) -> int:
    """SHA256SUMS of every file; their bytes."""
    lines, total = [], 0
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.parts[0] == ".venv" or path.name == SUMS:
            continue
        if path.name.endswith((".lock", ".incomplete")):
            continue
        total += 0 if path.is_symlink() else path.stat().st_size
        lines.append(f"{sha256(path)}  {inside.as_posix()}\n")
    write_text(folder / SUMS, "".join(lines))
    return total
