"""The chat vector against the formula, computed on whole models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import CONTROL, make_tokenizer
from tiny_three import TOUCHED, make_three, save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from configs.errors import InputError
from pretrain.weights.chat_vector import add_chat_vector


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def models(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Path]:
    return make_three(tmp_path, tied=request.param)


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
