"""Evaluation: the scores of a part of the data, by passes that leave no trace."""
