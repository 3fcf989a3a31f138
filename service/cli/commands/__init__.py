"""A command or a group of commands in each module: its options, and what it does; imported when it is called."""
