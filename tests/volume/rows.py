"""Which test plays which fault of databases, events and jobs, and which control shows that it can fail."""

# Row of the fault table, fault, test, control.
ROWS: tuple[tuple[str, str, str, str], ...] = ()
