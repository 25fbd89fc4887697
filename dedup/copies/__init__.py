"""Copies of one text: found by digest and by MinHash bands, verified, and one of them kept."""
