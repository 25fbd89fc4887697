"""The paths of a source → the files they mean, here or on a remote store, each with its size.

In: what `paths` names: files, folders, globs, and addresses (s3://, gs://, https://, hf://, anything
fsspec knows). Out: `Found` per file. A folder is listed with scandir, one stat per file, and a million
files make a list of a million small tuples.

Ids are made of paths relative to the one folder that all paths of a source share.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from configs.errors import InputError
from configs.schema import Source
from dedup.containers import bare_suffix
from dedup.forms import suffixes_of


class Found(NamedTuple):
    """A file: its absolute path or address, its bytes on disk (None: not told), and when it changed
    (nanoseconds, or the store's tag)."""

    path: str
    size: int | None
    changed: str


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


def source_root(source: Source) -> str:
    """The folder that ids are relative to: what all paths of the source have in common."""
    bases = [_base(pattern) for pattern in source.paths]
    remote = [is_remote(base) for base in bases]
    if all(remote):
        levels = zip(*(base.rstrip("/").split("/") for base in bases), strict=False)
        shared = takewhile(lambda names: len(set(names)) == 1, levels)
        return "/".join(names[0] for names in shared) + "/"
    return "" if any(remote) else os.path.commonpath(bases)


def relative(path: str, root: str) -> str:
    """Path below the root with forward slashes, as ids carry it; always valid Unicode."""
    if is_remote(path) or not root:
        return path.removeprefix(root)
    inside = path.removeprefix(root.rstrip("/") + "/")
    name = inside if len(inside) < len(path) else Path(os.path.relpath(path, root)).as_posix()
    return readable(name)


def readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are taken for CP949, or written out as \\xNN."""
    if name.isascii():
        return name
    try:
        name.encode("utf-8")
        return name
    except UnicodeEncodeError:
        raw = os.fsencode(name)
    try:
        return raw.decode("cp949")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace")


def find(pattern: str, source: Source) -> list[Found]:
    """Every file that one path of a source means. Raises InputError for a store that refuses."""
    if is_remote(pattern):
        return _remote(pattern, source)
    path = _absolute(pattern)
    if Path(path).is_file():
        return [_found(path)]
    if Path(path).is_dir():
        return list(_in_folder(path, suffixes_of(source)))
    found: list[Found] = []
    for match in glob.glob(path, recursive=True):  # noqa: PTH207 (the pattern is absolute)
        if Path(match).is_file():
            found.append(_found(match))
        elif not pattern.endswith("**"):  # `data/*` names folders too; `**` has walked them
            found += _in_folder(match, suffixes_of(source))
    return found


def _found(path: str) -> Found:
    status = os.stat(path)  # noqa: PTH116 (a Path per file would double the time)
    return Found(path, status.st_size, str(status.st_mtime_ns))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (resolve() would follow links and change ids)


def _base(pattern: str) -> str:
    """The folder before the first wildcard."""
    if is_remote(pattern):
        plain = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        known = bare_suffix(plain) or plain != pattern
        return plain[: plain.rfind("/")] if known else plain.rstrip("/")
    path = Path(_absolute(pattern))
    if glob.has_magic(pattern) and not path.exists():
        parts = path.parts
        first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        return str(Path(*parts[:first]))
    return str(path if path.is_dir() else path.parent)


def _in_folder(folder: str, wanted: frozenset[str]) -> Iterator[Found]:
    """Files below a folder whose suffix fits the format; hidden ones are left out."""
    inside = [folder]
    while inside:
        at = inside.pop()
        try:
            entries = os.scandir(at)
        except PermissionError as error:
            raise InputError(f"{at}: may not be listed ({error.strerror})") from None
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    inside.append(entry.path)
                elif bare_suffix(entry.name) in wanted and entry.is_file():
                    status = entry.stat()
                    yield Found(entry.path, status.st_size, str(status.st_mtime_ns))


def hint(pattern: str) -> str:
    """What is there instead: the nearest name beside it, or the nearest folder that exists."""
    if is_remote(pattern):
        return "the store has nothing under this address whose suffix fits the format"
    path = Path(_absolute(pattern))
    if path.is_dir():
        return "the folder holds no file of this format"
    here = path
    while not here.exists() and here != here.parent:
        missing, here = here.name, here.parent
    names = sorted(entry.name for entry in here.iterdir()) if here.is_dir() else []
    plain = re.sub(r"[*?\[\]]", "", missing)
    close = difflib.get_close_matches(plain, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(str(here / name) for name in close)}?"
    if glob.has_magic(missing) and names:
        return f"{here} holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    return f"the nearest folder that exists is {here}"


# ── remote stores ───────────────────────────────────────────────────────────────────────────────

_EXTRA = {"s3": "s3fs", "s3a": "s3fs"}


@lru_cache(maxsize=16)
def _store(protocol: str, process: int) -> Any:
    """The file system of a protocol, one per process (its event loop must not be inherited)."""
    import fsspec

    try:
        return fsspec.filesystem(protocol, skip_instance_cache=True)
    except ImportError as error:
        what = "malmoi[remote]" if protocol in _EXTRA else str(error)
        install = f"pip install '{what}'" if protocol in _EXTRA else what
        raise InputError(f"{protocol}:// needs a library; install it: {install}") from None
    except ValueError as error:
        raise InputError(f"{protocol}:// is no store that fsspec knows ({error})") from None


def _remote(pattern: str, source: Source) -> list[Found]:
    protocol = pattern.partition("://")[0]
    store = _store(protocol, os.getpid())
    wanted = suffixes_of(source)
    try:
        if glob.has_magic(pattern) and protocol not in ("http", "https"):
            details = store.glob(pattern, detail=True)
            if not details:  # nothing fits, or the bucket is not there
                store.info("/".join(pattern.split("/")[:3]))
        else:
            info = store.info(pattern)
            details = {info["name"]: info}
            if info["type"] == "directory":
                inside = store.find(pattern, detail=True)
                details = {k: v for k, v in inside.items() if bare_suffix(k) in wanted}
    except FileNotFoundError as error:
        if "bucket" in str(error).lower() or pattern.count("/") == 2:
            raise InputError(f"{pattern}: {_said(error)}; look at the bucket's name") from None
        return []
    except InputError:
        raise
    except Exception as error:  # every store has its own; all mean that it cannot be read
        raise InputError(
            f"{pattern}: the store refuses ({_said(error)}); look at the address, its credentials "
            "and its endpoint"
        ) from None
    found = []
    for name, info in details.items():
        if info["type"] != "file":
            continue
        tag = info.get("ETag") or info.get("LastModified") or info.get("mtime") or ""
        found.append(Found(store.unstrip_protocol(name), info.get("size"), str(tag)))
    return found


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def open_remote(path: str) -> BinaryIO:
    """A remote file, read ahead 4 MB at a time. Raises OSError."""
    store = _store(path.partition("://")[0], os.getpid())
    try:
        return cast(BinaryIO, store.open(path, "rb", block_size=4 << 20, cache_type="readahead"))
    except OSError:
        raise
    except Exception as error:
        raise OSError(_said(error)) from None
