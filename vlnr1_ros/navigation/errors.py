"""The one exception that is meant for people."""


class UserError(ValueError):
    """Bad input. The message names the value and the remedy; programs print it on one line."""
