"""The chat vector against the formula, computed on whole models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import BASE, CONTROL, make_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from configs.errors import InputError
from pretrain.weights.chat_vector import add_chat_vector

KOREAN = ["말모이", "한국어를", "봄바람"]
TOUCHED, UNTOUCHED = CONTROL[0], CONTROL[-1]


def save(
    folder: Path, weights: dict[str, Tensor], rows: int, *, tied: bool, **fields: Any
) -> LlamaForCausalLM:
    settings = {name: value for name, value in BASE.items() if name != "model_type"}
    settings |= {"tie_word_embeddings": tied, "vocab_size": rows} | fields
    model = LlamaForCausalLM(LlamaConfig(**settings))
    if weights:
        model.load_state_dict(weights, strict=False)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    return model


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def models(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Path]:
    """base; instruct, whose control tokens have other numbers; continued, with Korean rows and padding."""
    torch.manual_seed(5)
    folders = {name: tmp_path / name for name in ("base", "instruct", "continued")}
    for folder in folders.values():
        make_tokenizer(folder)
    base_tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    size = len(base_tokenizer)
    base = save(folders["base"], {}, size, tied=request.param)
    old = {name: value.detach().clone().float() for name, value in base.state_dict().items()}

    def near(share: float) -> dict[str, Tensor]:
        return {name: value + share * torch.randn_like(value) for name, value in old.items()}

    # instruct: the two last control tokens change places, and rows with them
    told = json.loads((folders["instruct"] / "tokenizer.json").read_text())
    last, before = (
        next(t for t in told["added_tokens"] if t["content"] == c) for c in CONTROL[:-3:-1]
    )
    last["id"], before["id"] = before["id"], last["id"]
    told["added_tokens"].sort(key=lambda token: token["id"])
    (folders["instruct"] / "tokenizer.json").write_text(json.dumps(told))
    settings = json.loads((folders["instruct"] / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    settings["eos_token"] = "<|eot_id|>"
    (folders["instruct"] / "tokenizer_config.json").write_text(json.dumps(settings))
    template = folders["instruct"] / "chat_template.jinja"
    template.write_text(template.read_text() + "{# tuned #}")
    stops = PreTrainedTokenizerFast.from_pretrained(folders["instruct"])
    ends = [stops.convert_tokens_to_ids(token) for token in (CONTROL[1], "<|eot_id|>")]
    tuned = save(folders["instruct"], near(0.02), size, tied=request.param)
    tuned.generation_config.eos_token_id = ends
    tuned.generation_config.save_pretrained(folders["instruct"])

    grown = PreTrainedTokenizerFast.from_pretrained(folders["continued"])
    grown.add_tokens(KOREAN)
    grown.save_pretrained(folders["continued"])
    rows = 64 * -(-len(grown) // 64)
    weights = near(0.01)
    for name in [name for name in weights if "embed_tokens" in name or "lm_head" in name]:
        for token in CONTROL[1:]:  # training has touched the first one alone
            place = base_tokenizer.convert_tokens_to_ids(token)
            weights[name][place] = old[name][place]
        weights[name] = torch.cat([weights[name], torch.randn(rows - size, BASE["hidden_size"])])
    save(folders["continued"], weights, rows, tied=request.param)
    return folders


def weights_of(folder: Path) -> dict[str, Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict())


def add(models: dict[str, Path], out: Path, ratio: float) -> Any:
    names = (str(models[name]) for name in ("continued", "instruct", "base"))
    return add_chat_vector(*names, ratio, out)


def test_every_weight_is_moved_by_the_ratio_and_rows_are_found_by_what_they_say(
    models: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = add(models, out, 0.5)
    ours, tuned, old = (weights_of(models[name]) for name in ("continued", "instruct", "base"))
    found = weights_of(out)
    ids = {
        name: PreTrainedTokenizerFast.from_pretrained(models[name]).get_vocab() for name in models
    }
    assert ids["instruct"]["<|eot_id|>"] != ids["base"]["<|eot_id|>"]
    for name, value in ours.items():
        if "embed_tokens" not in name and "lm_head" not in name:
            moved = value.float() + 0.5 * (tuned[name].float() - old[name].float())
            assert torch.equal(found[name], moved.bfloat16()), name
            continue
        for token, place in ids["continued"].items():
            if token not in ids["base"]:
                assert torch.equal(found[name][place], value[place]), token
                continue
            inst, base = tuned[name][ids["instruct"][token]], old[name][ids["base"][token]]
            if token in CONTROL and token != TOUCHED:
                assert torch.equal(found[name][place], inst), token
            else:
                moved = value[place].float() + 0.5 * (inst.float() - base.float())
                assert torch.equal(found[name][place], moved.bfloat16()), token
        padding = len(ids["continued"])
        assert torch.equal(found[name][padding:], value[padding:])
    matrices = 1 if made.rows["from instruct"] == len(CONTROL) - 1 else 2
    assert made.rows["from instruct"] == matrices * (len(CONTROL) - 1)
    assert sum(made.rows.values()) == matrices * len(ours["model.embed_tokens.weight"])


def test_ratio_0_gives_the_continued_model_byte_for_byte(
    models: dict[str, Path], tmp_path: Path
) -> None:
    add(models, tmp_path / "out", 0.0)
    files = sorted(models["continued"].glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_ratio_1_on_the_base_itself_gives_instruct(models: dict[str, Path], tmp_path: Path) -> None:
    add({**models, "continued": models["base"]}, tmp_path / "out", 1.0)
    found, tuned = weights_of(tmp_path / "out"), weights_of(models["instruct"])
    ids = {n: PreTrainedTokenizerFast.from_pretrained(models[n]).get_vocab() for n in models}
    order = torch.tensor(
        [ids["instruct"][t] for t in sorted(ids["base"], key=ids["base"].__getitem__)]
    )
    for name, value in tuned.items():
        wanted = value[order] if "embed_tokens" in name or "lm_head" in name else value
        assert torch.equal(found[name], wanted), name


def test_what_comes_out_talks_as_instruct_does(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    add(models, out, 0.7)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template.endswith("{# tuned #}") and tokenizer.eos_token == "<|eot_id|>"
    assert tokenizer.tokenize("말모이") == ["말모이"]
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (CONTROL[1], "<|eot_id|>")]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == stops == model.config.eos_token_id
    assert "0.7 × " in (out / "README.md").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.tmp"))


def change(file: str, **keys: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return write


def without_a_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def cut_short(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("which", "spoil", "words"),
    [
        ("instruct", change("config.json", rms_norm_eps=0.5), "rms_norm_eps is 0.5"),
        (
            "base",
            change("config.json", rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
            "rope_theta is 7.0",
        ),
        ("instruct", without_a_template, "has no chat template"),
        ("base", cut_short, "copy the model again"),
    ],
    ids=["norms", "positions", "template", "cut"],
)
def test_models_that_do_not_fit_are_refused_by_the_key_that_differs(
    which: str,
    spoil: Callable[[Path], None],
    words: str,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    spoil(models[which])
    with pytest.raises(InputError, match=words):
        add(models, tmp_path / "out", 1.0)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_lacks_the_templates_tokens_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = models["continued"] / "tokenizer.json"
    path.write_text(path.read_text().replace("<|eot_id|>", "<|gone_id|>"))
    with pytest.raises(InputError, match=r"its tokenizer lacks <\|eot_id\|>"):
        add(models, tmp_path / "out", 1.0)


def test_another_depth_and_a_folder_that_is_there_are_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="is there already"):
        add(models, tmp_path / "out", 1.0)
    shutil.rmtree(models["base"])
    make_tokenizer(models["base"])
    size = len(AutoTokenizer.from_pretrained(models["base"]))
    save(models["base"], {}, size, tied=False, num_hidden_layers=1)
    with pytest.raises(InputError, match="num_hidden_layers is 1") as told:
        add(models, tmp_path / "other", 1.0)
    assert any("has no tensor model.layers.1" in line for line in told.value.lines)
