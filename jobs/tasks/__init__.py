"""What a run optimises and is judged by: its loss and its metrics, as sums over samples."""
