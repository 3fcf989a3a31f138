"""Commands that read the folders of runs: advise, report, scale, compare answer questions, export writes weights."""
