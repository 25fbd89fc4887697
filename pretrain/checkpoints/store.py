"""Checkpoints far away: copied out while training goes on, and fetched where the local ones are gone.

In: `checkpoint.upload` (s3://…, whatever fsspec knows, or a path) and sound local folders. Out: the same
files under `<upload>/<run>-<identity>/`, so that two runs never mix. `manifest.json` goes last: without
it a folder is no checkpoint. After the copy every file is read back and compared with its digest.

The decision: training never waits for the store nor fails by it. A copy that does not succeed is tried
again, then told and counted; the next one starts afresh. Where copies are slower than saves, those
that were overtaken are left out. The cost of reading back is the checkpoint's size once more over the
network, by a thread that has nothing else to do.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sha256, write_json

TRIES = 3
PAUSE = 2.0  # seconds before the second try; twice as many before the third
BLOCK = 1 << 22


class Store:
    """A run's folder in the place that `checkpoint.upload` names."""

    def __init__(self, address: str, run: str, identity: str) -> None:
        """Raises InputError where the address needs a library that is not there, or no store knows it."""
        self.address = f"{address.rstrip('/')}/{run}-{identity[:12]}"
        protocol = address.partition("://")[0] if "://" in address else "file"
        try:
            import fsspec

            self._files, self._root = fsspec.url_to_fs(self.address)
        except ImportError as error:
            install = "malmoi[remote]" if protocol in ("s3", "s3a") else str(error)
            raise InputError(
                f"pretrain.checkpoint.upload: {protocol}:// needs a library; install it: "
                f"pip install '{install}'"
            ) from None
        except ValueError as error:
            raise InputError(
                f"pretrain.checkpoint.upload: {protocol}:// is no store that fsspec knows ({error})"
            ) from None

    def _path(self, *parts: str) -> str:
        return "/".join([self._root, *parts])

    def put(self, folder: Path, name: str) -> None:
        """Copy a sealed folder, its manifest last, and read it back.

        Raises OSError (or what the store raises) where the copy is not as the folder.
        """
        manifest = folder / "manifest.json"
        digests: dict[str, str] = read_json(manifest)
        target = self._path(name)
        self._files.invalidate_cache()
        if self._files.exists(f"{target}/manifest.json"):
            if self._files.cat_file(f"{target}/manifest.json") == manifest.read_bytes():
                return  # it was copied, and compared, before
            self._files.rm_file(f"{target}/manifest.json")
        for part in digests:
            self._put_file(folder / part, f"{target}/{part}")
        for part, digest in digests.items():
            if self._sha256(f"{target}/{part}") != digest:
                raise OSError(f"{part} came back with other bytes")
        self._put_file(manifest, f"{target}/manifest.json")

    def put_file(self, path: Path, name: str) -> None:
        """Copy one file."""
        self._put_file(path, self._path(name))

    def _put_file(self, path: Path, target: str) -> None:
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(path), target)

    def _sha256(self, target: str) -> str:
        digest = hashlib.sha256()
        with self._files.open(target, "rb") as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def names(self, prefix: str) -> list[str]:
        """Whole folders under a prefix ("checkpoints", "phases"), last name first."""
        where = self._path(prefix)
        self._files.invalidate_cache()
        if not self._files.exists(where):
            return []
        listed = [str(item).rstrip("/") for item in self._files.ls(where, detail=False)]
        names = [path.rpartition("/")[2] for path in listed]
        whole = [name for name in names if self._files.exists(f"{where}/{name}/manifest.json")]
        return sorted(whole, key=lambda name: (len(name), name), reverse=True)

    def remove(self, prefix: str, name: str) -> None:
        """Delete a folder; its manifest first, so that no half of it counts as whole."""
        where = self._path(prefix, name)
        if self._files.exists(f"{where}/manifest.json"):
            self._files.rm_file(f"{where}/manifest.json")
        self._files.rm(where, recursive=True)

    def get(self, prefix: str, name: str, folder: Path) -> None:
        """Fetch a folder to `folder`, which appears whole or not at all.

        Raises OSError where what was fetched is not what the manifest says.
        """
        partial = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        source = self._path(prefix, name)
        self._files.get_file(f"{source}/manifest.json", str(partial / "manifest.json"))
        digests: dict[str, str] = read_json(partial / "manifest.json")
        for part, digest in digests.items():
            target = partial / part
            if not target.resolve().is_relative_to(partial.resolve()):
                raise OSError(f"{part} does not lie in the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{source}/{part}", str(target))
            if sha256(target) != digest:
                raise OSError(f"{part} is not as it was written")
        partial.rename(folder)

    def get_file(self, name: str, path: Path) -> bool:
        """Fetch one file; whether it was there."""
        if not self._files.exists(self._path(name)):
            return False
        partial = path.with_name(path.name + ".tmp")
        self._files.get_file(self._path(name), str(partial))
        partial.replace(path)
        return True


class Uploader:
    """The thread that copies; `put` returns at once. What it has to tell waits in `told`."""

    def __init__(self, store: Store, stage: Path) -> None:
        self._store, self._stage = store, stage
        self._wanted: dict[str, Path] = {}  # "checkpoints/step-…" → folder, oldest first
        self._changed = threading.Condition()
        self._busy: str | None = None
        self._closed = False
        self.failures = 0
        self.told: deque[dict[str, Any]] = deque()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def put(self, folder: Path) -> None:
        """Copy a sealed folder of the stage, sooner or later."""
        with self._changed:
            self._wanted[folder.relative_to(self._stage).as_posix()] = folder
            self._changed.notify_all()

    def held(self) -> list[str]:
        """Names of the folders that must not be deleted yet: the one that is being read."""
        with self._changed:
            return [self._busy.rpartition("/")[2]] if self._busy else []

    def wait(self, seconds: float) -> bool:
        """Wait until all is copied, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._wanted and not self._busy, seconds)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> tuple[str, Path] | None:
        with self._changed:
            while True:
                # what was pruned in the meantime was overtaken
                for name in [n for n, path in self._wanted.items() if not path.is_dir()]:
                    del self._wanted[name]
                if self._wanted:
                    name = next(iter(self._wanted))
                    self._busy = name
                    return name, self._wanted.pop(name)
                self._changed.notify_all()
                if self._closed:
                    return None
                self._changed.wait()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            name, folder = job
            begun = time.monotonic()
            problem = self._try(name, folder)
            note: dict[str, Any] = {
                "name": name,
                "address": self._store.address,
                "seconds": round(time.monotonic() - begun, 3),
            }
            overtaken = problem is not None and not folder.is_dir()
            if problem is not None and not overtaken:
                self.failures += 1
                note |= {"problem": problem, "failures": self.failures}
            if not overtaken:
                self.told.append(note)
            with self._changed:
                self._busy = None
                self._changed.notify_all()

    def _try(self, name: str, folder: Path) -> str | None:
        """Try it some times; what went wrong the last time, None where it succeeded."""
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                self._copy(name, folder)
                return None
            except Exception as error:  # every store has its own; none of them stops training
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
        return problem

    def _copy(self, name: str, folder: Path) -> None:
        self._store.put(folder, name)
        metrics = self._stage / "metrics.jsonl"
        if metrics.is_file():
            self._store.put_file(metrics, "metrics.jsonl")
        record = self._stage / "left_out.json"
        if record.is_file():
            self._store.put_file(record, "left_out.json")
        prefix = name.partition("/")[0]
        here = {path.name for path in (self._stage / prefix).iterdir() if path.is_dir()}
        for other in self._store.names(prefix):
            if other not in here:
                self._store.remove(prefix, other)


def restore(store: Store, stage: Path, warn: Callable[[str], Any]) -> bool:
    """Fetch the newest phase, checkpoint and metrics of a run whose own are gone; whether any was there.

    A folder that cannot be fetched, or is not as its manifest says, is named through `warn` and the one
    before it is taken. Raises InputError where the store cannot be read at all: starting anew then would
    be a mistake.
    """
    fetched = False
    try:
        for prefix in ("phases", "checkpoints"):
            for name in store.names(prefix):
                folder = stage / prefix / name
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    store.get(prefix, name, folder)
                except (OSError, ValueError) as error:
                    warn(f"{store.address}/{prefix}/{name}: {error}; an older one is taken")
                    continue
                fetched = True
                break
        if fetched:
            for name in ("metrics.jsonl", "left_out.json"):
                store.get_file(name, stage / name)
    except Exception as error:
        raise InputError(
            f"pretrain.checkpoint.upload: {store.address} cannot be read ({error}), and this run has no "
            "checkpoint of its own; mend the access, or take the key out to start anew"
        ) from error
    return fetched


def write_manifest(folder: Path) -> None:
    """Digests of a folder's files, as a checkpoint has them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in files
        if path.name != "manifest.json"
    }
    write_json(folder / "manifest.json", digests)
