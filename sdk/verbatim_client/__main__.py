"""`python -m verbatim_client`: the `verbatim` command."""

from verbatim_client.cli.app import main

if __name__ == "__main__":
    main()
