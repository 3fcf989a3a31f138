"""What each command does, a module for each group; imported when the command runs."""
