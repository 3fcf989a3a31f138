"""The engine: one optimizer step, the loop around it, evaluation, the clock and the state. Needs torch alone."""
