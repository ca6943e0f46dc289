"""A policy by its name or its checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.base import Policy
from vlnr1_ros.policy.baselines import ForwardPolicy, RandomPolicy, StopPolicy

BASELINES = {'random': RandomPolicy, 'forward': ForwardPolicy, 'stop': StopPolicy}


def load_policy(name_or_folder: str | Path, **options) -> Policy:
    """Load 'random', 'forward', 'stop' or the checkpoint in a folder.

    options: keyword arguments of the baseline's class, or of `lvlm.LvlmPolicy` (device, dtype).
    Raises UserError if there is neither such a baseline nor such a folder.
    """
    baseline = BASELINES.get(str(name_or_folder))
    if baseline is not None:
        return baseline(**options)
    if not Path(name_or_folder).is_dir():
        raise UserError(
            f'no policy {str(name_or_folder)!r}: give {", ".join(BASELINES)} '
            'or the folder of a checkpoint'
        )
    # Baselines must not wait for torch, nor need it.
    from vlnr1_ros.policy.lvlm import LvlmPolicy

    return LvlmPolicy(name_or_folder, **options)
