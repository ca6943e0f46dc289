"""The method, written once: actions, history, prompt, card and metrics, in Python and numpy."""
