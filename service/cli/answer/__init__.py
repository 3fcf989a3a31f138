"""Commands that read the folders of runs and answer questions: advise, report, scale, compare."""
