"""What ranks do together: sum gradients, agree, and combine batch-norm statistics."""
