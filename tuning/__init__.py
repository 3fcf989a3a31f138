"""What compares: runs side by side, in one table and one figure."""
