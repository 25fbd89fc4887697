"""A run folder after its last stage, with a random model: what is evaluated in tests."""

from __future__ import annotations

from pathlib import Path

from tiny_model import make_model
from tiny_run import make_config, make_documents

from configs.files import write_json
from configs.load import dump
from launch.lineage import Lineage

CARD = "---\nlanguage: [ko, en]\n---\n\n# tiny\n\n## Lineage\n\n- pretrain: `ab`\n"


def finished_run(folder: Path) -> Path:
    """A run folder after its last stage."""
    make_model(folder / "model", positions=256)
    (folder / "model" / "README.md").write_text(CARD, encoding="utf-8")
    make_documents(folder / "dedup" / "documents")
    (folder / "config.yaml").write_text(dump(make_config()), encoding="utf-8")
    (folder / "pretrain").mkdir()
    write_json(folder / "pretrain" / "report.json", {"identity": "ab" * 32})
    lineage = Lineage(folder)
    lineage.begin("pretrain", {}, {})
    lineage.finish("pretrain", [folder / "model" / "README.md"])
    (folder / "mlflow.db").touch()  # tracked before
    return folder
