"""What the first machine of an allocation tells the others: one small file in the run folder.

In: the run folder, which all machines see, and the allocation's own name (a Slurm job and its restart, a
Kubernetes Job's uid). Out: `.orders.json`, written by rename, so that a reader never sees half of it;
every change has a higher number. A machine that comes later, or again, reads what holds now.

The decision: a file, and no connection. It outlives the machine that wrote it, needs no port, and the
run folder has to be shared in any case; the cost is a look twice a second by each machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from configs.files import read_json, write_json

ORDERS = ".orders.json"
LOOK = 0.5  # seconds between two looks


@dataclass(frozen=True)
class Order:
    """What every machine but the first has to do now.

    do: "train" (hold ranks; `address` is the rendezvous, host:port), "ray" (join the Ray cluster at
    `address`), "wait", or "over". same_as: digest of the software that ranks must have. allocation: whose order it is; those of others are not obeyed.
    """

    allocation: str
    number: int
    do: Literal["train", "ray", "wait", "over"]
    address: str = ""
    same_as: str = ""


def give(folder: Path, allocation: str, do: str, address: str = "", same_as: str = "") -> Order:
    """Write the order that holds from now on."""
    last = _read(folder)
    number = 1 if last is None or last.allocation != allocation else last.number + 1
    told = {"do": do, "address": address, "same_as": same_as}
    order = _order({"allocation": allocation, "number": number, **told})
    assert order is not None, do
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ORDERS, asdict(order))
    return order


def order_for(folder: Path, allocation: str) -> Order | None:
    """The order that holds in this allocation; None while there is none."""
    order = _read(folder)
    return order if order is not None and order.allocation == allocation else None


def _read(folder: Path) -> Order | None:
    try:
        return _order(read_json(folder / ORDERS))
    except (OSError, ValueError):
        return None


def _order(values: Any) -> Order | None:
    known = {"train", "ray", "wait", "over"}
    if not isinstance(values, dict) or values.get("do") not in known:
        return None
    try:
        return Order(
            str(values["allocation"]),
            int(values["number"]),
            values["do"],
            str(values["address"]),
            str(values["same_as"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
