"""Figures, charts and the report page."""
