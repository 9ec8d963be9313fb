"""The `verbatim` command: data on stdout, everything else on stderr."""
