"""What stops a run or a step: signals, values that are no numbers, jumps."""
