"""The weights a training starts from, which of them learn, and how they are written."""
