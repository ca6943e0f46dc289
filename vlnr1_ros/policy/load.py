"""A policy by its name, its checkpoint folder or its server's URL."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.base import Policy
from vlnr1_ros.policy.baselines import ForwardPolicy, RandomPolicy, StopPolicy

SCHEMES = ('http://', 'https://')
BASELINES = {'random': RandomPolicy, 'forward': ForwardPolicy, 'stop': StopPolicy}


def is_url(policy: str | Path) -> bool:
    """Whether a policy is named by the URL of a server."""
    return str(policy).startswith(SCHEMES)


def load_policy(name_or_folder: str | Path, plain: bool = False, **options) -> Policy:
    """Load 'random', 'forward', 'stop', the checkpoint in a folder or the model behind a URL.

    plain: decide with a checkpoint in the plain way, the slow reference of the usual one.
    options: keyword arguments of the baseline's class, or of `fast.FastPolicy` (device, dtype,
    compiled, rows; the plain way knows only the first two).
    Raises UserError if there is neither such a baseline nor such a folder nor such a server.
    """
    baseline = BASELINES.get(str(name_or_folder))
    if baseline is not None:
        return baseline(**options)
    if is_url(name_or_folder):
        from vlnr1_ros.policy.remote import RemotePolicy

        return RemotePolicy(str(name_or_folder), **options)
    if not Path(name_or_folder).is_dir():
        raise UserError(
            f'no policy {str(name_or_folder)!r}: give {", ".join(BASELINES)}, '
            'the folder of a checkpoint or the URL of a server'
        )
    # Baselines and remote models must not wait for torch, nor need it.
    if plain:
        from vlnr1_ros.policy.lvlm import LvlmPolicy

        return LvlmPolicy(name_or_folder, **options)
    from vlnr1_ros.policy.fast import FastPolicy

    return FastPolicy(name_or_folder, **options)


def free_memory() -> None:
    """Give the memory of policies that nobody refers to any more back to machine and GPU."""
    gc.collect()
    torch = sys.modules.get('torch')  # not imported where there was no model
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
