"""One config for each optimizer: its options, what they mean, and how it is built; none imports torch before it builds."""
