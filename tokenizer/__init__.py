"""Documents → a Llama-3 tokenizer that knows Korean. Start at `stage.py`; the proofs are in `checks.py`."""
