"""Raw web text → clean, unique documents. Start at `stage.py`; the contract is in `documents.py`."""
