"""Two hosts on one machine: network, host name, processes, mounts and an sshd of their own.

In: a folder. Out: `TwoHosts`, node0 (10.77.0.1) and node1 (10.77.0.2) on a cable of their own. They see
the same file system, so the same Python and working tree, as two machines do that were set up alike; but
/tmp, /run, /dev/shm, ~/.ssh and ~/.cache are each host's own, and of the test's folder they share only
`shared`. Paths are the same inside and outside.

Everything lives in namespaces that hang on one process per host, and those die with the test: nothing is
left in `ip netns`, in /etc or of the cable, whatever happens.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.rank import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("node0", "node1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CARD = "cable0"

_HOST = """\
set -e
mount --make-rprivate /
mount --bind {base} /mnt
{hold}
mount -t tmpfs tmpfs /tmp
{put_back}
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p {base} /run/sshd /run/lock
mount -t tmpfs tmpfs {base}
for part in shared ssh {name}; do mkdir {base}/$part; mount --bind /mnt/$part {base}/$part; done
for own in .ssh .cache; do
  if [ -d "$HOME/$own" ]; then mount -t tmpfs tmpfs "$HOME/$own"; fi
done
mount --bind {base}/ssh/hosts /etc/hosts
umount /mnt
hostname {name}
ip link set lo up
while true; do sleep 3600 & wait $!; done
"""

_SSHD = """\
ListenAddress {address}
HostKey {base}/{name}/host_key
AuthorizedKeysFile {base}/ssh/id.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
MaxStartups 100
"""

_SSH = """\
Host {names} {addresses}
  User root
  IdentityFile {base}/ssh/id
  IdentitiesOnly yes
  UserKnownHostsFile {base}/ssh/known_hosts
  StrictHostKeyChecking yes
  LogLevel ERROR
"""


def _tree_in_tmp() -> dict[str, str]:
    """Shell lines by which a working tree or an environment below /tmp stays visible without the rest."""
    places = {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    kept = [place for place in places if place.is_relative_to("/tmp")]
    kept = [
        place for place in kept if not any(place != k and place.is_relative_to(k) for k in kept)
    ]
    numbered = [(number, shlex.quote(str(place))) for number, place in enumerate(sorted(kept), 10)]
    return {
        "hold": "\n".join(f"exec {number}< {place}" for number, place in numbered),
        "put_back": "\n".join(
            f"mkdir -p {place}; mount -c --bind /proc/self/fd/{number} {place}; exec {number}<&-"
            for number, place in numbered
        ),
    }


class TwoHosts:
    """Two running hosts. shared: what both see. ssh_config: for `ssh -F`, on both and outside."""

    names, addresses, card = NAMES, ADDRESSES, CARD

    def __init__(self, base: Path) -> None:
        self.base = base
        self.shared = base / "shared"
        self.ssh_config = base / "ssh" / "config"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._inits: list[int] = []

    def inside(self, host: int) -> list[str]:
        """The words that run what follows them on a host."""
        kinds = ["--net", "--uts", "--mount", "--pid", "--ipc"]
        return ["nsenter", "--target", str(self._inits[host]), *kinds, f"--wd={ROOT}", "--"]

    def run(
        self, host: int, command: Sequence[str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end."""
        options = {"capture_output": True, "text": True, "timeout": 400} | options
        return subprocess.run([*self.inside(host), *command], **options)

    def popen(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; it is killed with the host at the latest."""
        return subprocess.Popen([*self.inside(host), *command], **options)

    def malmoi(self, host: int, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`malmoi …` on a host."""
        return self.run(host, [sys.executable, "-m", "launch.cli", *words], **options)

    def shell(self, host: int, script: str) -> str:
        """What a script prints on a host; a script that fails is an error of the test."""
        done = self.run(host, ["bash", "-ec", script])
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def cut(self, host: int) -> None:
        """Take the host off the cable."""
        self.shell(host, f"ip link set {CARD} down")

    def plug(self, host: int) -> None:
        """Put it back."""
        self.shell(host, f"ip link set {CARD} up")

    def replace(self, host: int, path: Path, content: str) -> None:
        """Give a host another content for a file that it shares with the machine."""
        other = self.base / NAMES[host] / f"other-{path.name}"
        other.write_text(content, encoding="utf-8")
        self.shell(host, f"mount --bind {shlex.quote(str(other))} {shlex.quote(str(path))}")

    def restore(self, host: int, path: Path) -> None:
        """Undo `replace`, or a mount of the test's own."""
        self.shell(host, f"umount {shlex.quote(str(path))}")

    # ── up and down ─────────────────────────────────────────────────────────────────────────────

    def up(self) -> None:
        """Raises RuntimeError with what the machine forbids."""
        for part in ("shared", "ssh", *NAMES):
            (self.base / part).mkdir(parents=True)
        self._keys()
        for name in NAMES:
            self._start_host(name)
        zero, one = self._inits
        script = f"ip link add {CARD} type veth peer name {CARD} netns {one}"
        _checked(["nsenter", "--target", str(zero), "--net", *shlex.split(script)])
        for host, (name, address) in enumerate(zip(NAMES, ADDRESSES, strict=True)):
            self.shell(host, f"ip addr add {address}/24 dev {CARD}; ip link set {CARD} up")
            config = self.base / name / "sshd_config"
            config.write_text(_SSHD.format(base=self.base, name=name, address=address))
            self._sshd(host, config)

    def _keys(self) -> None:
        ssh = self.base / "ssh"
        known = []
        for path in (ssh / "id", *(self.base / name / "host_key" for name in NAMES)):
            _checked(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            key = (self.base / name / "host_key.pub").read_text().strip()
            known.append(f"{name},{address} {key}\n")
        (ssh / "known_hosts").write_text("".join(known))
        lines = [f"{address} {name}\n" for name, address in zip(NAMES, ADDRESSES, strict=True)]
        (ssh / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        words = {"names": " ".join(NAMES), "addresses": " ".join(ADDRESSES)}
        self.ssh_config.write_text(_SSH.format(base=self.base, **words))

    def _start_host(self, name: str) -> None:
        kinds = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc"]
        log = (self.base / name / "host.log").open("wb")
        process = subprocess.Popen(
            ["unshare", *kinds, "--kill-child", "--", "bash", "-c", _HOST.format(base=self.base, name=name, **_tree_in_tmp())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )  # fmt: skip
        self._processes.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            inits = children.read_text().split()
            if inits:
                look = ["nsenter", "--target", inits[0], "--uts", "hostname"]
                said = subprocess.run(look, capture_output=True, text=True).stdout.strip()
                if said == name:
                    self._inits.append(int(inits[0]))
                    return
            time.sleep(0.02)
        said = (self.base / name / "host.log").read_text(errors="replace").strip()
        raise RuntimeError(f"a host in namespaces does not come up: {said or 'no answer'}")

    def _sshd(self, host: int, config: Path) -> None:
        log = (config.parent / "sshd.log").open("wb")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or "sshd"
        self._processes.append(
            self.popen(host, [sshd, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        )
        deadline = time.monotonic() + 60
        probe = ["ssh", "-F", str(self.ssh_config), NAMES[host], "hostname"]
        while True:
            done = self.run(0, probe)
            if done.stdout.strip() == NAMES[host]:
                return
            if time.monotonic() > deadline:
                told = (config.parent / "sshd.log").read_text(errors="replace")
                raise RuntimeError(f"sshd of {NAMES[host]} does not answer: {done.stderr}{told}")
            time.sleep(0.1)

    def down(self) -> None:
        """End everything that runs on the hosts, and them."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Two hosts while the context is open; skips the test, with the reason, where none can be had."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("two hosts in namespaces need root on Linux")
    install({"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client"})
    hosts = TwoHosts(folder)
    try:
        try:
            hosts.up()
        except RuntimeError as error:
            pytest.skip(str(error))
        yield hosts
    finally:
        hosts.down()


def install(needed: dict[str, str]) -> None:
    """apt-get what is missing (program → package), without starting any service."""
    place = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    with (Path(tempfile.gettempdir()) / "malmoi-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [
            package for name, package in needed.items() if not shutil.which(name, path=place)
        ]
        if not missing:
            return
        if shutil.which("apt-get") is None:
            pytest.skip(f"two hosts need {', '.join(missing)}, and there is no apt-get")
        policy = Path("/usr/sbin/policy-rc.d")
        mine = not policy.exists()
        if mine:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            for command in (install, ["apt-get", "update", "-qq"], install):
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode == 0 and command is install:
                    return
            pytest.skip(f"cannot install {', '.join(missing)}: {done.stderr.strip()[-200:]}")
        finally:
            if mine:
                policy.unlink()


def _checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")


@pytest.fixture(scope="module", name="hosts")
def both_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    """Two hosts for the tests of one file."""
    with two_hosts(tmp_path_factory.mktemp("hosts")) as both:
        yield both
