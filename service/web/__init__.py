"""The page: templates, one script, one style sheet, and nothing from another host."""
