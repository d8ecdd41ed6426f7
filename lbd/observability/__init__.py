"""Floor 5: metrics, logs, status table, admin API. They read snapshots and touch nothing."""
