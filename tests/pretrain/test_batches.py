"""Sequences as the model takes them, and how ranks share a step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_run import BASE
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.data.batches import IGNORED, Sequences, Share
from pretrain.data.order import Order
from pretrain.data.packing import make_plan, open_plan
from pretrain.data.tokens import Tokens
from pretrain.loss import SummedLoss
from tokenizer.load import load_tokenizer


def sequences(tokens: Tokens, source: str, objective: str, length: int = 128) -> Sequences:
    plan = open_plan(tokens, source, length, objective)
    order = Order(7, "0", {source: 1.0}, {source: len(plan)})
    return Sequences(tokens, {source: plan}, order, length, objective)


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (16, 2)])
def test_every_sequence_of_a_step_goes_to_one_slot_whatever_the_world_size(
    world: int, micro: int
) -> None:
    share = Share.of(10, world, micro)
    rows = [
        row
        for turn in range(share.accumulation)
        for rank in range(world)
        for row in share.rows(turn, rank)
    ]
    assert [row for row in rows if row < 10] == list(range(10))
    assert len(set(rows)) == len(rows)


def test_documents_in_one_sequence_do_not_see_each_other(tokens: Tokens) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**BASE, vocab_size=512)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    made = sequences(tokens, "ko", "pretrain")
    batch = made.batch([0, 1])
    with torch.no_grad():
        together = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
        for row in range(2):
            starts = (batch.position_ids[row] == 0).nonzero().flatten().tolist()
            assert len(starts) > 1
            for low, high in zip(starts, [*starts[1:], 128], strict=True):
                alone = model(input_ids=batch.input_ids[row : row + 1, low:high]).logits[0]
                assert float((together[row, low:high] - alone).abs().max()) <= 1e-5


def test_targets_are_the_next_tokens_and_never_cross_into_another_document(tokens: Tokens) -> None:
    batch = sequences(tokens, "ko", "pretrain").batch([0])
    ids, positions, targets = (
        t[0].tolist() for t in (batch.input_ids, batch.position_ids, batch.targets)
    )
    for at, target in enumerate(targets):
        last = at + 1 == len(ids) or positions[at + 1] == 0
        if target == IGNORED:
            assert last or ids[at] == tokens.end
        else:
            assert not last and target == ids[at + 1] and target != tokens.begin


def test_a_chat_phase_learns_what_the_assistant_says_and_where_it_ends(
    tokens: Tokens, tiny_tokenizer: Path, tiny_documents: Path
) -> None:
    from dedup.documents import read_documents

    tokenizer = load_tokenizer(tiny_tokenizer)
    plan = make_plan(tokens.sets["dialogue", "train"], 128, "chat")
    made = sequences(tokens, "dialogue", "chat")
    batch = made.batch(list(range(len(plan))))
    learned = [t for t in batch.targets.flatten().tolist() if t != IGNORED]
    said = Counter(
        turn["text"]
        for rows in read_documents(tiny_documents, split="train", sources=["dialogue"])
        for segments in rows.column("segments").to_pylist()
        for turn in segments
        if turn["role"] == "assistant"
    )
    pieces = tokenizer.decode(learned).split("<|eot_id|>")
    assert not Counter(pieces[:-1]) - said
    assert sum(said.values()) - len(pieces) < 8  # cut by the end of a long dialogue


def test_a_slot_left_over_has_no_targets(tokens: Tokens) -> None:
    assert sequences(tokens, "ko", "pretrain").batch([None, None]).target_count == 0


def test_the_loss_of_a_packed_sequence_is_that_of_its_documents_on_their_own(
    tokens: Tokens,
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**BASE, vocab_size=512)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.config.use_cache = False
    loss = SummedLoss(model, "logits")
    made = sequences(tokens, "ko", "pretrain")
    plan = open_plan(tokens, "ko", 128, "pretrain")
    documents = tokens.sets["ko", "train"]
    with torch.no_grad():
        for i in range(4):
            batch = made.batch([i])
            together = float(loss(batch.input_ids, batch.position_ids, batch.targets))
            alone, count = 0.0, 0
            pieces = plan[made.order(i).index].tolist()
            assert len(pieces) > 1
            for document, start, length in pieces:
                ids = torch.tensor(documents.ids(document, start, length).astype("int64"))[None]
                alone += float(model(input_ids=ids, labels=ids).loss) * (length - 1)
                count += length - 1
            assert batch.target_count == count
            assert together / count == pytest.approx(alone / count, abs=1e-5)


def test_positions_restart_with_every_document(tokens: Tokens) -> None:
    made = sequences(tokens, "ko", "pretrain")
    plan = open_plan(tokens, "ko", 128, "pretrain")
    for i in range(len(plan)):
        positions = made.batch([i]).position_ids[0].tolist()
        lengths = [length for _, _, length in plan[made.order(i).index].tolist()]
        padding = 128 - sum(lengths)
        wanted = [at for length in [*lengths, padding] for at in range(length)]
        assert positions == wanted
