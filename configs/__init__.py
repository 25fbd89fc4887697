"""The ground floor: every knob of every stage in one schema, and the recipes.

Nothing here imports another package of this project, and nothing heavier than pydantic.
"""
