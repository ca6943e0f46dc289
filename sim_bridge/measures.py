"""The measures VLN-CE reports and habitat-lab lacks, as habitat-lab measures.

Numbers come from `navigation.metrics`. Import through `sim_bridge.config`, which makes
habitat-lab importable first. Distances are geodesic, in metres.
"""
from __future__ import annotations

import functools
import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import List

import numpy as np
from habitat.config.default_structured_configs import MeasurementConfig
from habitat.core.embodied_task import Measure
from habitat.core.registry import registry
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vlnr1_ros.navigation import metrics
from vlnr1_ros.navigation.errors import UserError

GROUNDED_RADIUS_M = 1.0


def grounded(info: dict, position, distance_to_goal_m: float) -> bool:
    """Whether a stop at `position` (3,) would be at the object the instruction names.

    At most 1 m (geodesic) from the goal positions, inside the goal's room, and the named
    object's footprint nearer, horizontally, than any other candidate's.
    """
    return (distance_to_goal_m <= GROUNDED_RADIUS_M
            and nearest_candidate(info, position) == info['goal_object'])


def nearest_candidate(info: dict, position) -> str | None:
    """Id of the candidate whose footprint is nearest to `position` (3,), horizontally.

    None outside the goal's room and where two are equally near.
    """
    x, z = float(position[0]), float(position[2])
    if _box_distance_m(info['room_box'], x, z) > 0.0:
        return None
    distances = {c['id']: _box_distance_m(c['box'], x, z) for c in info['candidates']}
    nearest = min(distances, key=distances.get)
    own = distances.pop(nearest)
    return None if own in distances.values() else nearest


def has_grounding(info: dict | None) -> bool:
    """Whether an episode's info carries what `grounded` needs (R2R and RxR do not)."""
    return bool(info) and all(k in info for k in ('room_box', 'candidates', 'goal_object'))


def _box_distance_m(box, x, z):
    x0, z0, x1, z1 = box
    return float(np.hypot(max(x0 - x, 0.0, x - x1), max(z0 - z, 0.0, z - z1)))


@functools.lru_cache(maxsize=4)
def ground_truth(path: str) -> dict:
    """{episode id: (M, 3) dense reference positions} of a VLN-CE `{split}_gt.json.gz`."""
    try:
        with gzip.open(path, 'rt', encoding='utf-8') as file:
            return {key: np.asarray(value['locations'], float)
                    for key, value in json.load(file).items()}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError,
            AttributeError) as error:
        raise UserError(f'{path} cannot be read ({error}); get it anew (vlnr1 worlds generates '
                        'that of apartments)') from error


class _Measure(Measure):
    """What all measures here share: the simulator, the configuration, a uuid."""

    depends_on: tuple = ()

    def __init__(self, *args, sim, config, **kwargs):
        self._sim = sim
        self._config = config
        super().__init__()

    def _get_uuid(self, *args, **kwargs):
        return self.cls_uuid

    def _check(self, task):
        task.measurements.check_measure_dependencies(self.uuid, list(self.depends_on))

    def _position(self):
        return np.array(self._sim.get_agent_state().position, float)


def _value(task, uuid):
    return task.measurements.measures[uuid].get_metric()


@registry.register_measure
class OracleSuccess(_Measure):
    """1 once any position was strictly within the success distance."""

    cls_uuid = 'oracle_success'
    depends_on = ('distance_to_goal',)

    def reset_metric(self, *args, task, **kwargs):
        self._check(task)
        self._success_distance_m = float(self._config.success_distance)
        self._metric = 0.0
        self.update_metric(task=task)

    def update_metric(self, *args, task, **kwargs):
        if _value(task, 'distance_to_goal') < self._success_distance_m:
            self._metric = 1.0


@registry.register_measure
class PathLength(_Measure):
    """Sum of Euclidean step lengths in metres (TL)."""

    cls_uuid = 'path_length'

    def reset_metric(self, *args, **kwargs):
        self._previous = self._position()
        self._metric = 0.0

    def update_metric(self, *args, **kwargs):
        position = self._position()
        self._metric += float(np.linalg.norm(position - self._previous))
        self._previous = position


@registry.register_measure
class StepsTaken(_Measure):
    """Actions executed; stop counts."""

    cls_uuid = 'steps_taken'

    def reset_metric(self, *args, **kwargs):
        self._metric = 0

    def update_metric(self, *args, **kwargs):
        self._metric += 1


@registry.register_measure
class NDTW(_Measure):
    """Similarity of the path to the dense reference, computed when asked for, not every step."""

    cls_uuid = 'ndtw'

    def reset_metric(self, *args, episode, **kwargs):
        paths = list(self._config.ground_truth)
        found = (ground_truth(path).get(str(episode.episode_id)) for path in paths)
        self._reference = next((one for one in found if one is not None), None)
        if self._reference is None:
            raise UserError(f'{" and ".join(paths)}: no episode {episode.episode_id} there, it '
                            'does not belong to these episodes; get or generate both anew')
        self._success_distance_m = float(self._config.success_distance)
        self._path = [self._position()]

    def update_metric(self, *args, **kwargs):
        self._path.append(self._position())

    def get_metric(self):
        return metrics.ndtw(np.array(self._path), self._reference, self._success_distance_m)


@registry.register_measure
class SDTW(_Measure):
    """nDTW of a success, 0 otherwise."""

    cls_uuid = 'sdtw'
    depends_on = ('success', 'ndtw')

    def reset_metric(self, *args, task, **kwargs):
        self._check(task)
        self._measures = task.measurements.measures

    def update_metric(self, *args, **kwargs):
        pass

    def get_metric(self):
        success = self._measures['success'].get_metric()
        return success * self._measures['ndtw'].get_metric() if success else 0.0


class _Grounded(_Measure):
    """None for episodes that name no object (R2R, RxR)."""

    depends_on = ('distance_to_goal',)

    def reset_metric(self, *args, episode, task, **kwargs):
        self._check(task)
        self._info = episode.info if has_grounding(episode.info) else None
        self._metric = None if self._info is None else 0.0
        self.update_metric(task=task)

    def _here(self, task):
        return grounded(self._info, self._position(), _value(task, 'distance_to_goal'))


@registry.register_measure
class GroundedSuccess(_Grounded):
    """Stop called where `grounded` holds."""

    cls_uuid = 'grounded_success'

    def update_metric(self, *args, task, **kwargs):
        if self._info is not None:
            self._metric = float(task.is_stop_called and self._here(task))


@registry.register_measure
class GroundedOracleSuccess(_Grounded):
    """1 once `grounded` held at any position."""

    cls_uuid = 'grounded_oracle_success'

    def update_metric(self, *args, task, **kwargs):
        if self._metric == 0.0:
            self._metric = float(self._here(task))


@registry.register_measure
class GroundedSPL(_Measure):
    """Grounded success weighted by path length."""

    cls_uuid = 'grounded_spl'
    depends_on = ('distance_to_goal', 'path_length', 'grounded_success')

    def reset_metric(self, *args, task, **kwargs):
        self._check(task)
        self._start_m = _value(task, 'distance_to_goal')
        self.update_metric(task=task)

    def update_metric(self, *args, task, **kwargs):
        success = _value(task, 'grounded_success')
        self._metric = success and metrics.spl(success, self._start_m,
                                               _value(task, 'path_length'))


@dataclass
class _Plain(MeasurementConfig):
    type: str = MISSING


@dataclass
class _WithRadius(_Plain):
    success_distance: float = 3.0


@dataclass
class _WithReference(_WithRadius):
    ground_truth: List[str] = field(default_factory=list)


def _store(measure, node=_Plain):
    name = measure.cls_uuid
    ConfigStore.instance().store(group='habitat/task/measurements', name=name,
                                 package=f'habitat.task.measurements.{name}',
                                 node=node(type=measure.__name__))


_store(OracleSuccess, _WithRadius)
_store(NDTW, _WithReference)
for _measure in (PathLength, StepsTaken, SDTW, GroundedSuccess, GroundedOracleSuccess,
                 GroundedSPL):
    _store(_measure)
