"""`python -m keepstate` is the command `keepstate`."""

from keepstate.cli import main

if __name__ == "__main__":
    main()
