"""Documents → packed sequences of tokens, in an order that is a function of the step."""
