"""Talking to a model: the engine, the terminal, the OpenAI-compatible server and its page."""
