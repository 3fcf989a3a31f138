"""`python -m largebatch`: the command `largebatch`."""

from largebatch.service.cli.main import main

main()
