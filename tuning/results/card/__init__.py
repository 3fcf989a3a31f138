"""The card: the one answer that commands, reports and pages begin with."""
