"""Where a run stands: saved, verified, copied away, converted, forked."""
