"""Machines without a network: what is carried there, what is said there, and that nothing leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_run import ROOT, write_config
from tiny_run import make_tokenizer

from launch.bundle import wheelhouse, write_sums

COMMIT = "a" * 40
BOARD = ROOT / "configs" / "sample" / "ko" / "board.jsonl.zst"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks of it: org/tiny is there, org/gated is, for some."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if "org/gated" in path:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if path.startswith("/api/models/org/tiny"):
            names = sorted(p.name for p in self.folder.iterdir())
            if "/tree/" in path:
                listed = [{"type": "file", "path": n, "size": 1, "oid": "b" * 40} for n in names]
                return self._send(200, json.dumps(listed).encode(), {})
            siblings = [{"rfilename": name} for name in names]
            found = {"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(found).encode() if body else b"", {})
        if "/org/tiny/resolve/" in path and (file := self.folder / path.split("/")[-1]).is_file():
            content = file.read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            return self._send(200, content, headers, body=body)
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        return


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    Hub.folder = make_tokenizer(tmp_path / "on-the-hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HOME")}
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment | variables,
    )  # fmt: skip


def config_of(folder: Path, base: str) -> Path:
    path = folder / "closed.yaml"
    path.write_text(
        f"name: closed\ndir: {folder / 'run'}\ntracking: {{mlflow: false}}\n"
        f"tokenizer: {{base: {base}, new_tokens: 20, documents: [{BOARD}]}}\n"
    )
    return path


def test_what_a_config_names_on_the_hub_is_carried_and_found_without_a_network(
    hub: str, tmp_path: Path
) -> None:
    config = config_of(tmp_path, "org/tiny")
    to = tmp_path / "bundle"
    done = run("bundle", str(config), "--to", str(to), "--no-packages", HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        ["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=to, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr
    moved = tmp_path / "elsewhere"
    shutil.move(to, moved)
    words = "-m launch.cli compare-tokenizers org/tiny org/tiny"
    done = subprocess.run(
        ["sh", "-c", f"cd {moved} && . ./env.sh && exec {sys.executable} {words}"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "org/tiny" in done.stdout
    assert run("compare-tokenizers", "org/tiny", "org/tiny", HF_HUB_OFFLINE="1").returncode == 2


def test_a_model_that_is_not_here_is_told_with_how_to_bring_it(hub: str, tmp_path: Path) -> None:
    config, home = str(config_of(tmp_path, "org/gated")), str(tmp_path / "home")
    done = run("tokenizer", config, HF_HUB_OFFLINE="1", HF_HOME=home)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "HF_HUB_OFFLINE says that there is no network" in done.stderr
    assert "malmoi bundle CONFIG" in done.stderr and "set tokenizer.base to it" in done.stderr
    done = run("tokenizer", config, HF_ENDPOINT=hub, HF_HOME=home)
    assert (
        done.returncode == 2
        and "accept its licence at https://huggingface.co/org/gated" in done.stderr
    )
    done = run("tokenizer", config, "tokenizer.base=org/nothing", HF_ENDPOINT=hub, HF_HOME=home)
    assert done.returncode == 2 and "no model on the hub" in done.stderr


IN_A_CLOSED_NETWORK = """\
set -e
ip link set lo up
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true
ip link add out type veth peer name nowhere
ip link set nowhere up
ip addr add 10.99.0.1/24 dev out
ip link set out up
ip route add default via 10.99.0.2
echo nameserver 10.99.0.3 > "$1"
mount --bind "$1" /etc/resolv.conf
ip addr add 169.254.169.254/32 dev lo
printf '127.0.0.1 localhost\\n::ffff:127.0.0.1 localhost\\n10.99.0.1 %s\\n' "$(hostname)" > "$1.hosts"
echo 169.254.169.254 metadata.google.internal >> "$1.hosts"
mount --bind "$1.hosts" /etc/hosts
shift
status=0
"$@" || status=$?
echo "packets that left: $(ip -s link show out | awk '/TX:/ {getline; print $2}')" >&2
exit $status
"""


def closed(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command where every packet that would leave is counted, and none arrives anywhere.

    One address is the machine's own and not counted: 169.254.169.254, which stays on the link by its
    nature, and where Ray and others ask whether they run in a cloud. /etc/hosts names 127.0.0.1 in the
    form in which an IPv6 socket sees it, too: torch's store asks for the name of everyone who connects,
    and without that line asks the site's name server what 127.0.0.1 is called (`malmoi doctor` tells).
    """
    if os.geteuid() != 0 or sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root on Linux, and iproute2")
    inside = ["sh", "-c", IN_A_CLOSED_NETWORK, "sh", str(folder / "resolv.conf"), *words]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MLFLOW_", "RAY_"))}
    kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        ["unshare", "--net", "--mount", *inside],
        cwd=ROOT, capture_output=True, text=True, timeout=400, env=kept | variables,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr and "packets that left" not in done.stderr:
        pytest.skip("namespaces are forbidden here")
    return done


@pytest.mark.thorough
@pytest.mark.slow
def test_no_packet_leaves_in_a_whole_run_with_two_ranks_and_mlflow(tmp_path: Path) -> None:
    config = write_config(tmp_path, tokens="2K")
    words = ["run", str(config), "tokenizer.new_tokens=20"]
    done = closed(tmp_path, sys.executable, "-m", "launch.cli", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "packets that left: 0" in done.stderr, done.stderr[-300:]
    run = tmp_path / "run"
    assert json.loads((run / "pretrain" / "report.json").read_text())["world_size"] == 2
    assert (run / "mlflow.db").stat().st_size > 0 and (run / "replies.json").is_file()


@pytest.mark.thorough
@pytest.mark.slow
def test_no_packet_leaves_with_ray(tmp_path: Path) -> None:
    probe = closed(tmp_path, "python3", "-c", "import socket; socket.getaddrinfo('pypi.org', 443)")
    assert "packets that left: 0" not in probe.stderr  # the counter counts
    config = tmp_path / "ray.yaml"
    config.write_text(
        f"name: ray\ndir: {tmp_path / 'run'}\ntracking: {{mlflow: false}}\n"
        f"dedup: {{sources: [{{name: board, paths: [{BOARD}]}}]}}\n"
    )
    words = ["dedup", str(config), "dedup.engine=ray", "dedup.workers=1"]
    done = closed(tmp_path, sys.executable, "-m", "launch.cli", *words)
    assert done.returncode == 0, done.stderr
    assert "packets that left: 0" in done.stderr, done.stderr[-300:]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_wheelhouse_installs_where_there_is_no_index(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    try:
        wheelhouse(wheels, ["typer>=0.12", "regex"])
    except Exception as error:
        pytest.skip(f"no package index here: {error}")
    assert write_sums(tmp_path) > 0 and list(wheels.glob("regex-*.whl"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "install", "--no-index", "-q"]
    done = closed(tmp_path, *pip, "--find-links", str(wheels), "typer", "regex")
    assert done.returncode == 0 and "packets that left: 0" in done.stderr, done.stderr
