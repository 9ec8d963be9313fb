"""Which test plays which fault of databases, events and jobs, and which control shows that it can fail."""

# Row of the fault table, fault, tests (files of `make test` unless said), control.
ROWS: tuple[tuple[str, str, str, str], ...] = (
    (
        "1",
        "database connection lost",
        "`chassis/tests/test_postgres.py` (lost before COMMIT, each time), `test_pool.py` (died or froze in the pool); "
        "`make chaos ROWS=1`",
        "chaos: a consumer that does not repeat batches",
    ),
    (
        "2",
        "pool exhausted",
        "`test_pool.py::test_an_exhausted_pool_refuses_calls_soon_and_takes_them_again_at_once`",
        "the patient caller beside it, who is not refused",
    ),
    (
        "3",
        "slow statements, locks",
        "`test_pool.py` (statement, lock, limits at the server, log without values)",
        "a pool with a longer limit, where the statement goes on",
    ),
    (
        "16",
        "memory short",
        "`chassis/tests/test_resources.py`, `services/gateway/tests/test_load.py`",
        "room again: taken again",
    ),
    (
        "17",
        "leak",
        "`make chaos ROWS=17`: ten thousand sessions; the slope (`test_resources.py`)",
        "chaos: a transcriber that keeps sessions which are over",
    ),
    (
        "18",
        "disks full",
        "`services/janitor/tests/test_disk.py`, `tests/e2e/test_disk_full.py`; `make chaos ROWS=18` (the broker's)",
        "chaos: an ack that does not wait for the broker",
    ),
    (
        "20",
        "jobs that fail, workers that die",
        "`chassis/tests/test_jobs.py`, `test_jobs_machine.py`; this page",
        "this page: effects outside of the fenced commit",
    ),
    (
        "22",
        "fifty editors",
        "`services/meetings/tests/test_editors.py`, `test_edits_store.py`, `tests/e2e/test_library.py`",
        "`test_control_without_a_version_edits_are_lost`",
    ),
    (
        "28",
        "broker killed, frozen, deaf",
        "`chassis/tests/test_outbox.py`, `test_bus.py`; `make chaos ROWS=28,28b,28c`; this page",
        "chaos: appends that are not repeated, no message id",
    ),
    (
        "29",
        "streams, consumers deleted",
        "`test_outbox.py`, `test_outbox_machine.py`, `test_jobs.py`; `make chaos ROWS=29`",
        "`test_control_without_an_inbox_a_refill_doubles`; the machine without an inbox; chaos: no snapshot",
    ),
    (
        "30",
        "crash during COMMIT, answer lost",
        "`test_postgres.py` (answer lost before and after, writers through crashes); `make chaos ROWS=30`; this page",
        "`test_control_whoever_repeats_such_a_commit_blindly_has_it_twice`",
    ),
    (
        "–",
        "deadlock, serialization failure",
        "`test_postgres.py::test_a_deadlock_is_run_again`, `…serialization…`",
        "the counter of retries: had it not been run again, one of the two would be missing",
    ),
    (
        "31",
        "standby promoted, primary dead or frozen; PgBouncer",
        "`chassis/tests/test_failover.py`",
        "a client that knows the old primary only finds nobody",
    ),
    (
        "32",
        "clocks differ",
        "`services/meetings/tests/test_clocks.py`, `services/gateway/tests/test_tickets.py`; `make chaos ROWS=32`",
        "chaos: clocks ten minutes apart; a ticket from more than a minute ahead",
    ),
    (
        "37",
        "idempotency keys",
        "`services/meetings/tests/test_idempotency.py`",
        "without a key each creates; a key kept apart from its effect fails in a crash",
    ),
    (
        "39",
        "event loop blocked",
        "`test_resources.py::test_a_blocked_event_loop_is_seen`, `tests/alerts`",
        "none: what is seen is the fault itself",
    ),
    (
        "40",
        "descriptors, threads, processes exhausted",
        "`services/gateway/tests/test_descriptors.py`, `tests/e2e/test_no_threads.py`",
        "`chassis/tests/test_threads.py`; with the fork handlers of gRPC the same test fails",
    ),
    (
        "43",
        "stored bytes damaged",
        "`test_outbox.py::test_events_whose_stored_bytes_were_damaged_…`, `recovery/tests/test_recovery.py`",
        "`test_control_without_reconciling_damaged_events_are_lost` (long)",
    ),
)
