"""Real Korean text: what the extension saves on documents it was not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import Config
from tokenizer import stage
from tokenizer.base import Base

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "ko_web"
SMALL = ("petitions", "mixed_prose", "news_comments")


@pytest.mark.thorough
@pytest.mark.slow
def test_real_korean_takes_a_quarter_fewer_tokens_with_8000_new_ones(
    tmp_path: Path, llama3: Base
) -> None:
    files = [DATA / f"{name}.jsonl.zst" for name in SMALL]
    if not all(file.is_file() for file in files):
        pytest.skip(f"{DATA} is not here: the shared data sets are not part of the repository")
    settings = {"new_tokens": 8000, "workers": 2, "documents": [str(file) for file in files]}
    config = Config.model_validate({"name": "real", "tokenizer": settings})
    report = stage.run(config, tmp_path)
    assert report.measured_on == "heldout"
    assert report.tokens_saved is not None and report.tokens_saved > 0.22
    assert report.new_tokens == 8000
