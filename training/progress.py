"""The progress bar of work on episodes."""
from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(title: str, total: int | None, done: int) -> tqdm:
    """On stderr; now and then where that is no terminal, so that logs stay readable."""
    return tqdm(desc=title, total=total, initial=done, unit='episode', miniters=1,
                mininterval=0.2 if sys.stderr.isatty() else 30)
