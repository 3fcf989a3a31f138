"""The commands, a file for each group; `service.cli` puts them together."""
