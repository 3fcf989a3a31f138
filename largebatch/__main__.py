"""`python -m largebatch`: the command `largebatch`."""

import sys

if not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, as in `python -m largebatch.jobs`: what is called random.py there is not Python's own

from largebatch.service.cli.main import main

main()
