"""Hugging Face datasets → documents: a row, a record.

In: `hf://datasets/owner/name` (with `?name=…&split=…&revision=…` where the defaults will not do), or
a local folder that `datasets` knows (saved with save_to_disk, or of data files), under `format: hub`.
Out: documents and failures, streamed: nothing is downloaded as a whole. A data set's shards are what
workers share, so ids say the shard: `source/owner/name/00003#17`.

Plain files on the hub need none of this: `hf://datasets/owner/name/data/*.parquet` without a format
reads them like files in any other store.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

from configs.errors import InputError
from configs.schema import Source
from dedup.containers import Damaged, File
from dedup.paths import Found
from dedup.records import RAW_BYTES, Document, Failure, Unusable, document_of

_ON_HUB = "hf://datasets/"
_ROWS_A_SHARD = 100_000  # of a data set saved on this machine


def data_sets(source: Source, key: str) -> tuple[list[Found], list[str]]:
    """The data sets that the paths name, and the mistakes."""
    found, mistakes = [], []
    for path in source.paths:
        where = path.partition("?")[0]
        if not path.startswith(_ON_HUB) and not Path(where).is_dir():
            mistakes.append(
                f"{key}: {path} is neither a folder nor an address; write {_ON_HUB}owner/name"
            )
            continue
        try:
            rows = _load(path)
        except InputError as error:
            mistakes += [f"{key}: {line}" for line in error.lines]
            continue
        found.append(Found(path, None, str(getattr(rows, "_fingerprint", ""))))
    return found, mistakes


def shards(path: str, source: Source) -> int:
    """Into how many shares a data set falls."""
    return _count(_load(path))


def _count(rows: Any) -> int:
    if hasattr(rows, "num_rows"):
        return max(1, -(-rows.num_rows // _ROWS_A_SHARD))
    return max(1, int(rows.num_shards))


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of one shard. Raises Damaged where the stream breaks off."""
    name = file.path.removeprefix(_ON_HUB).partition("?")[0]
    name = name if file.path.startswith(_ON_HUB) else Path(name).name
    number = 0
    try:
        rows = _load(file.path)
        shard = rows.shard(num_shards=_count(rows), index=file.begin)
        for number, record in enumerate(shard, 1):
            try:
                id = f"{source.name}/{name}/{file.begin:05}#{number}"
                yield document_of(record, id, source, None)
            except Unusable as error:
                raw = orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS)
                yield Failure(file.path, str(error), number, None, raw[:RAW_BYTES], len(raw))
    except InputError as error:
        raise Damaged(str(error)) from None
    except Exception as error:  # the libraries below raise what they like; all end the stream
        raise Damaged(f"the stream broke off ({_said(error)})") from None


@lru_cache(maxsize=8)
def _load(path: str) -> Any:
    """The rows of a data set, streaming where it was not saved on this machine."""
    import datasets

    where, _, query = path.partition("?")
    options = dict(parse_qsl(query))
    unknown = sorted(set(options) - {"name", "split", "revision"})
    if unknown:
        raise InputError(
            f"{path}: {', '.join(unknown)} is no option; there are name, split, revision"
        )
    split = options.pop("split", "train")
    try:
        if any(Path(where, mark).exists() for mark in ("dataset_info.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(where)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        name = where.removeprefix(_ON_HUB)
        return datasets.load_dataset(name, split=split, streaming=True, **options)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be loaded ({_said(error)}); look at the name, the split, and whether "
            "you are online and logged in (hf auth login)"
        ) from None


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
