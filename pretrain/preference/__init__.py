"""Preference tuning: phases that learn from pairs of answers, one chosen and one rejected."""
