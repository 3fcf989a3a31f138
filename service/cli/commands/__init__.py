"""The commands, a file for each group; `largebatch.service.cli.main` puts them together."""
