"""A small Llama that knows a few dialogues by heart, made in a minute: pictures need sensible replies.

In: dialogues in OpenAI's form. Out: a model folder. Everything is seeded; what it is asked that is not
in the dialogues it answers with nonsense, as so small a model must.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_run import CONTROL
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenizer.chat import CHAT_TEMPLATE, render_dialogue

Dialogue = Sequence[dict[str, str]]


def learn(folder: Path, dialogues: Sequence[Dialogue], *, until: float = 0.02) -> Path:
    """Train until the loss on the assistant's tokens is below `until` nats, and save to `folder`."""
    torch.manual_seed(11)
    tokenizer = _tokenizer(turn["content"] for dialogue in dialogues for turn in dialogue)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=320,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.05,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    samples = []
    for dialogue in dialogues:
        segments = [{"role": turn["role"], "text": turn["content"]} for turn in dialogue]
        ids, mask = render_dialogue(tokenizer, segments)
        labels = [i if wanted else -100 for i, wanted in zip(ids, mask, strict=True)]
        samples.append((torch.tensor([ids]), torch.tensor([labels])))
    for _ in range(400):
        losses = [model(input_ids=ids, labels=labels).loss for ids, labels in samples]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < until:
            break
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "system user assistant"], trainer)  # type: ignore[misc]
    tokenizer.add_special_tokens(list(CONTROL))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[0], eos_token=CONTROL[1]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
