"""Lets `import habitat` succeed, and quietly, where habitat-sim is not installed.

habitat-lab guards its imports of habitat_sim and magnum, except in the four leaf modules below.
Each gets an empty stand-in; `import habitat_sim` itself keeps failing, so that habitat-lab takes
its own documented way and reports `Sim-v0` as unavailable.
"""
from __future__ import annotations

import importlib.util
import sys
import types


class _NeedsHabitatSim:
    def __init__(self, *args, **kwargs):
        raise ImportError(f'{type(self).__name__} needs habitat_sim, which is not installed')


def _timing_decorator(name=None):
    return lambda function: function


def _stand_ins():
    yield 'habitat.sims.habitat_simulator.object_state_machine', {
        'ObjectStateMachine': type('ObjectStateMachine', (_NeedsHabitatSim,), {})}
    yield 'habitat.core.batch_rendering.env_batch_renderer', {
        'EnvBatchRenderer': type('EnvBatchRenderer', (_NeedsHabitatSim,), {})}
    yield 'habitat.tasks.rearrange', {'_try_register_rearrange_task': lambda: None, '__path__': []}
    yield 'habitat.tasks.rearrange.rearrange_sim', {'add_perf_timing_func': _timing_decorator}


def install():
    """Call before the first `import habitat`. With habitat-sim installed it only quiets gym."""
    if importlib.util.find_spec('gym_notices') is not None:
        from gym_notices import notices

        notices.notices.clear()    # "gym is unmaintained": habitat-lab's choice, not the user's
    if importlib.util.find_spec('habitat_sim') is not None:
        return
    for name, content in _stand_ins():
        if name not in sys.modules:
            module = types.ModuleType(name, 'Stand-in: the real module needs habitat_sim.')
            vars(module).update(content)
            sys.modules[name] = module
