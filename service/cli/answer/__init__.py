"""What the commands answer that read runs that are there: advise, report, scale, compare."""
