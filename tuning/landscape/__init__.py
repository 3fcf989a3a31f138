"""How optimizers move on surfaces that can be seen."""
