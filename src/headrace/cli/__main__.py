"""`python -m headrace.cli`: the command line without the installed script, as worker processes start it."""

from headrace.cli.main import main

main()
