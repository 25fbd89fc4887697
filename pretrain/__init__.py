"""Documents + tokenizer + base model → checkpoint. Start at `train.py`, the story of a step."""
