"""The work of each command, a module for each file of `commands`; imported when the command runs."""
