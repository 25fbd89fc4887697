"""A writer of compound files (OLE 2, [MS-CFB] version 3), for what no library here can write."""

from __future__ import annotations

import itertools
import struct

_SECTOR, _MINI, _CUTOFF = 512, 64, 4096
_END, _FREE, _FAT = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD


def compound_file(streams: dict[str, bytes]) -> bytes:
    """The bytes of a compound file with these streams; "a/b" is stream b in storage a."""
    sectors: list[bytes] = []
    fat: list[int] = []
    mini: list[bytes] = []
    mini_fat: list[int] = []

    def add(data: bytes, size: int, to: list[bytes], table: list[int]) -> int:
        if not data:
            return _END
        first = len(to)
        pieces = [data[at : at + size].ljust(size, b"\0") for at in range(0, len(data), size)]
        to += pieces
        table += [*range(first + 1, first + len(pieces)), _END]
        return first

    names = ["Root Entry"]
    children: dict[int, list[int]] = {0: []}
    content: dict[int, tuple[int, int]] = {}
    for path, data in streams.items():
        parent = 0
        *folders, leaf = path.split("/")
        for folder in folders:
            known = [child for child in children[parent] if names[child] == folder]
            if not known:
                names.append(folder)
                known = [len(names) - 1]
                children[known[0]] = []
                children[parent].append(known[0])
            parent = known[0]
        names.append(leaf)
        children[parent].append(len(names) - 1)
        small = len(data) < _CUTOFF
        start = add(data, *((_MINI, mini, mini_fat) if small else (_SECTOR, sectors, fat)))
        content[len(names) - 1] = (start, len(data))
    content[0] = (add(b"".join(mini), _SECTOR, sectors, fat), len(mini) * _MINI)

    right: dict[int, int] = {}
    first_child: dict[int, int] = {}
    for parent, entries in children.items():
        entries.sort(key=lambda entry: (len(names[entry]), names[entry].upper()))
        right |= dict(itertools.pairwise(entries))
        if entries:
            first_child[parent] = entries[0]
    directory = b""
    for entry, name in enumerate(names):
        kind = 5 if entry == 0 else 1 if entry in children else 2
        start, size = content.get(entry, (0, 0))
        encoded = name.encode("utf-16-le")
        directory += encoded.ljust(64, b"\0") + struct.pack(
            "<HBBIII16xI16xIQ",
            len(encoded) + 2, kind, 1, _FREE, right.get(entry, _FREE),
            first_child.get(entry, _FREE), 0, start, size,
        )  # fmt: skip
    directory += (b"\0" * 68 + struct.pack("<III", _FREE, _FREE, _FREE) + b"\0" * 48) * (
        -len(names) % 4
    )
    first_directory = add(directory, _SECTOR, sectors, fat)
    mini_table = b"".join(struct.pack("<I", link) for link in mini_fat)
    mini_table += b"\xff" * (-len(mini_table) % _SECTOR)
    first_mini = add(mini_table, _SECTOR, sectors, fat)
    needed = 1
    while needed * 128 < len(fat) + needed:
        needed += 1
    assert needed <= 109
    places = range(len(sectors), len(sectors) + needed)
    fat += [_FAT] * needed
    table = b"".join(struct.pack("<I", link) for link in fat).ljust(needed * _SECTOR, b"\xff")
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16)
    header += struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<IIIIIIIII", 0, needed, first_directory, 0, _CUTOFF,
                          first_mini, len(mini_table) // _SECTOR, _END, 0)  # fmt: skip
    header += b"".join(struct.pack("<I", place) for place in places).ljust(436, b"\xff")
    return header + b"".join(sectors) + table
