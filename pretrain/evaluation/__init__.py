"""How good the model is: bits per byte, tasks, and the alarm for forgetting."""
