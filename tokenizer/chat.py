"""Dialogues → ids, in Llama-3's format, and which of them the assistant wrote.

In: segments (role and text). Out: ids, and a mask of the same length that is 1 on the assistant's
content and its `<|eot_id|>`: what the chat phase learns, and nothing else.

The decision: roles travel as ids, never as text. Content is encoded with special tokens split, so a
user who writes `<|eot_id|>` writes seven ordinary tokens; `apply_chat_template` makes a control token
of it. On harmless text both give the same ids (a test holds them together).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BOS, HEADER, END_HEADER, END = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}"
    "{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)
"""Llama-3's format as a Jinja template, with the marks that TRL and transformers mask by."""


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of text that somebody wrote: no bos, and control tokens in it are ordinary text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def render_dialogue(
    tokenizer: Any,
    segments: Iterable[Mapping[str, str]],
    *,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """A dialogue as ids, and the mask of what the assistant wrote (1 on content and `<|eot_id|>`).

    tokenizer: a transformers tokenizer with Llama-3's control tokens. segments: mappings with `role`
    (system, user, assistant) and `text`; white space around a text is dropped, as in the official
    format. add_generation_prompt opens the assistant's next turn at the end.

    Raises ValueError where the tokenizer has none of the control tokens.
    """
    bos, header, end_header, end = (
        _control(tokenizer, name) for name in (BOS, HEADER, END_HEADER, END)
    )
    gap = plain_ids(tokenizer, "\n\n")
    ids, mask = [bos], [0]
    for segment in segments:
        opening = [header, *plain_ids(tokenizer, segment["role"]), end_header, *gap]
        content = [*plain_ids(tokenizer, segment["text"].strip()), end]
        ids += opening + content
        mask += [0] * len(opening) + [int(segment["role"] == "assistant")] * len(content)
    if add_generation_prompt:
        opening = [header, *plain_ids(tokenizer, "assistant"), end_header, *gap]
        ids += opening
        mask += [0] * len(opening)
    return ids, mask


def _control(tokenizer: Any, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or tokenizer.convert_ids_to_tokens(index) != token:
        raise ValueError(f"the tokenizer has no {token}: it does not speak Llama-3's chat format")
    return int(index)
