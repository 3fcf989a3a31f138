"""What samples are: trees of tensors, a slice of an epoch's order, draws that belong to them, the numbers they hold, the data set that has them."""
