"""The words by which the navigator's `~/state` says what it is at, for all who hear it."""
IDLE, WAITING, DECIDING, EXECUTING = 'idle', 'waiting', 'deciding', 'executing'
PAUSED, FINISHED, REFUSED, FAILED = 'paused', 'finished', 'refused', 'failed'
FOLLOWING = (WAITING, DECIDING, EXECUTING, PAUSED)
"""There is an instruction that is followed."""
UNCONFIGURED, INACTIVE, FINALIZED = 'unconfigured', 'inactive', 'finalized'
AT_REST = (UNCONFIGURED, INACTIVE, FINALIZED)
"""States of the lifecycle in which nothing can be followed."""
