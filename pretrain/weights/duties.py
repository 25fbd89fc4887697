"""What a base model's licence asks of a model made from it: name, notice, a copy of the licence.

In: the licence a base names, or its hub id. Out: `Duties`, or None where none of these is known. Only
what the licences say of distributing a derived model is here, with the section it stands in; it is a
reminder for a person, not advice of a lawyer, and the licence itself is what counts.

Sources: Meta Llama 3 Community License (18 April 2024), Llama 3.1, 3.2 and 3.3 Community License
Agreements, each section 1.b "Redistribution and Use".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md", "NOTICE", "Notice")
"""Names under which bases carry their licence; copied into the model as they are."""


@dataclass(frozen=True)
class Duties:
    """name_begins: how the name of a derived model must begin; built_with: to be shown prominently;
    notice: the line of a text file called Notice; title: of the agreement to be handed on."""

    licence: str
    title: str
    name_begins: str
    built_with: str
    notice: str
    section: str = "section 1.b"

    def name(self, wanted: str) -> str:
        """The model's name as the licence wants it; as it is where it already begins so."""
        plain = re.sub(r"[\s_-]+", "", wanted).lower()
        begins = re.sub(r"[\s_-]+", "", self.name_begins).lower()
        return (
            wanted if plain.startswith(begins) else f"{self.name_begins.replace(' ', '-')}-{wanted}"
        )


def _llama(version: str, begins: str, built: str, product: str) -> Duties:
    agreement = f"{product} Community License"
    notice = (
        f"{product} is licensed under the {agreement}, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved."
    )
    return Duties(f"llama{version}", f"{agreement} Agreement", begins, built, notice)


LLAMA = {
    "llama3": _llama("3", "Llama 3", "Built with Meta Llama 3", "Meta Llama 3"),
    **{
        f"llama{version}": _llama(version, "Llama", "Built with Llama", f"Llama {version}")
        for version in ("3.1", "3.2", "3.3")
    },
}


def duties(licence: str | None, base: str) -> Duties | None:
    """What the licence of a base asks; where the base names none, its own name may tell it."""
    if licence is not None and licence.lower() in LLAMA:
        return LLAMA[licence.lower()]
    if licence not in (None, "other"):
        return None
    found = re.search(r"llama[-_ ]?3(?:[._](\d))?(?!\d)", Path(base).name, re.IGNORECASE)
    if found is None:
        return None
    return LLAMA.get(f"llama3.{found[1]}" if found[1] else "llama3")


def base_licence(base: str) -> str | None:
    """The licence that a base's README.md names in its front matter; nothing is downloaded."""
    readme = base_file(base, "README.md")
    if readme is None:
        return None
    text = readme.read_text(encoding="utf-8", errors="replace")
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def base_file(base: str, name: str) -> Path | None:
    """A file of a base, of its folder or of the hub's cache; None where neither has it."""
    path: Any = Path(base) / name
    if not Path(base).exists():
        try:
            path = try_to_load_from_cache(base, name)
        except ValueError:  # no hub id
            return None
    if isinstance(path, str | Path) and Path(path).is_file():
        return Path(path)
    return None


def licence_files(base: str) -> dict[str, Path]:
    """Licence and notice of a base, by name, as far as they are on this machine."""
    found = {name: base_file(base, name) for name in LICENCE_FILES}
    return {name: path for name, path in found.items() if path is not None}
