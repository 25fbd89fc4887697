"""The chat phase as a whole: dialogues of several turns, packed, learned by the template's own marks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import BASE
from transformers import AutoConfig, AutoModelForCausalLM

from dedup.documents import read_documents
from pretrain.data.batches import Sequences
from pretrain.data.order import Order
from pretrain.data.packing import open_plan
from pretrain.data.tokens import Tokens
from pretrain.loss import SummedLoss
from tokenizer.load import load_tokenizer


def test_packed_dialogues_have_the_loss_of_each_alone_on_what_the_template_marks(
    tokens: Tokens, tiny_tokenizer: Path, tiny_documents: Path
) -> None:
    """Ids and mask come from `apply_chat_template` here, so nothing of ours is on that side."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    talks = [
        segments
        for rows in read_documents(tiny_documents, split="train", sources=["dialogue"])
        for segments in rows.column("segments").to_pylist()
    ]
    torch.manual_seed(0)
    config = AutoConfig.for_model(**BASE, vocab_size=512)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.config.use_cache = False
    loss = SummedLoss(model, "logits")
    length = 256  # no dialogue is cut
    plan = open_plan(tokens, "dialogue", length, "chat")
    order = Order(7, "0", {"dialogue": 1.0}, {"dialogue": len(plan)})
    made = Sequences(tokens, {"dialogue": plan}, order, length, "chat")
    several = packed = 0
    with torch.no_grad():
        for i in range(len(plan)):
            batch = made.batch([i])
            together = float(loss(batch.input_ids, batch.position_ids, batch.targets))
            alone, count = 0.0, 0
            pieces = plan[order(i).index].tolist()
            for document, start, _ in pieces:
                assert start == 0
                several += sum(turn["role"] == "assistant" for turn in talks[document]) > 1
                turns = [{"role": t["role"], "content": t["text"]} for t in talks[document]]
                marked = tokenizer.apply_chat_template(
                    turns, return_dict=True, return_assistant_tokens_mask=True
                )
                ids = torch.tensor(marked["input_ids"])[None]
                mask = torch.tensor(marked["assistant_masks"])[None].bool()
                labels = ids.masked_fill(~mask, -100)
                alone += float(model(input_ids=ids, labels=labels).loss) * int(mask.sum())
                count += int(mask.sum())
            assert batch.target_count == count
            assert together / count == pytest.approx(alone / count, abs=1e-5)
            packed += len(pieces) > 1
    assert packed >= len(plan) - 1  # a last one may stand alone
    assert several > 5  # dialogues in which the assistant speaks more than once
