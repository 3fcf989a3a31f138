"""The REST interface: what comes in, what goes out, what is refused, who asks."""
