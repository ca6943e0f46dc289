"""How far two runs of the same episodes agree, episode by episode."""
from __future__ import annotations

from typing import Sequence


def agreement(files: Sequence[tuple[str, dict, list[dict]]], metrics: Sequence[str]) -> list[list]:
    """Rows (first file, other file, episodes in both, same actions, same actions and metrics).

    files: (name, settings, lines) as `results.read` gives them; metrics: keys that are compared,
    exactly. Every file is compared with the first; episodes that ended in an error do not count.
    """
    by_id = [{line['episode_id']: line for line in lines if 'error' not in line}
             for _, _, lines in files]
    rows = []
    for (name, _, _), others in list(zip(files, by_id))[1:]:
        both = [(by_id[0][key], line) for key, line in others.items() if key in by_id[0]]
        same = [(a, b) for a, b in both if a['actions'] == b['actions']]
        equal = [1 for a, b in same if all(a.get(key) == b.get(key) for key in metrics)]
        rows.append([files[0][0], name, len(both), len(same), len(equal)])
    return rows
