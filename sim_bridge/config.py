"""The one place that turns our settings into habitat-lab's configuration.

The real simulator and the embedded one differ in the values set here and nowhere else.
"""
from __future__ import annotations

import glob
import importlib.util
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Tuple

from sim_bridge.benchmarks import APARTMENTS, preset
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

SIMULATORS = ('auto', 'habitat-sim', 'embedded')
MAX_DEPTH_M = 10.0

_AGENT = 'habitat.simulator.agents.main_agent.'
_SENSORS = _AGENT + 'sim_sensors.'
_MEASUREMENTS = 'habitat.task.measurements.'
MEASURES_WITHOUT_GOAL = ('collisions', 'path_length', 'steps_taken', 'ndtw')


@dataclass
class EnvironmentConfig:
    """Everything an Environment needs to know; lengths in metres, angles in degrees.

    `dataset` is the folder that holds `{split}/{split}.json.gz`, or `{split}_{role}.json.gz` with
    `roles`; `languages`: only these, all when empty; `scenes_dir` is what its scene ids are
    relative to. `benchmark` is the preset's name. `follow_reference`: the expert walks the
    reference path instead of the shortest way. A positive `camera_pitch_deg` looks up.
    """

    dataset: str = 'data/datasets/apartments/v1'
    split: str = 'val_unseen'
    scenes_dir: str = 'data/scene_datasets'
    camera: Camera = field(default_factory=Camera)
    camera_pitch_deg: float = 0.0
    forward_m: float = 0.25
    turn_deg: float = 30.0
    allow_sliding: bool = True
    depth: bool = False
    semantic: bool = False
    max_steps: int = 500
    simulator: str = 'auto'
    success_distance_m: float = 3.0
    measures: bool = True
    top_down_map: bool = False
    benchmark: str = APARTMENTS.name
    roles: Tuple[str, ...] = ()
    languages: Tuple[str, ...] = ()
    agent_radius_m: float = APARTMENTS.agent_radius_m
    agent_height_m: float = APARTMENTS.agent_height_m
    follow_reference: bool = False

    @property
    def episodes_files(self) -> list[Path]:
        """Where the split's episodes are, a file a role."""
        return self._files('.json.gz')

    @property
    def ground_truth_files(self) -> list[Path]:
        """Where the split's dense reference paths are (nDTW needs them), a file a role."""
        return self._files('_gt.json.gz')

    def _files(self, ending):
        names = [f'{self.split}_{role}' for role in self.roles] or [self.split]
        return [Path(self.dataset) / self.split / (name + ending) for name in names]


def simulator_name(choice: str = 'auto') -> str:
    """'habitat-sim' or 'embedded'; 'auto' takes habitat-sim where it is installed."""
    if choice not in SIMULATORS:
        raise UserError(f'simulator {choice!r} is unknown; choose one of {", ".join(SIMULATORS)}')
    installed = importlib.util.find_spec('habitat_sim') is not None
    if choice == 'habitat-sim' and not installed:
        raise UserError("simulator 'habitat-sim' is not installed; install it from conda "
                        "(channels aihabitat, conda-forge) or use 'embedded'")
    if choice == 'auto':
        return 'habitat-sim' if installed else 'embedded'
    return choice


def check_files(config: EnvironmentConfig) -> None:
    """Raise UserError naming the path and the remedy when the split is not there."""
    get = preset(config.benchmark)
    for path in config.episodes_files:
        if not path.is_file():
            ending = f'_{config.roles[0]}.json.gz' if config.roles else '.json.gz'
            splits = sorted(p.parent.name for p in Path(config.dataset).glob('*/*.json.gz')
                            if p.name == p.parent.name + ending)
            known = f'splits there: {", ".join(splits)}' if splits else 'no split is there'
            raise UserError(f'split {config.split!r}: {path} does not exist ({known}); '
                            f'{get.get_episodes}')
    if not os.path.isdir(config.scenes_dir):
        raise UserError(f'scenes folder {config.scenes_dir} does not exist; {get.get_scenes}')


def habitat_config(config: EnvironmentConfig):
    """habitat-lab's (omegaconf) configuration for our settings.

    `benchmark/nav/vln_r2r.yaml` with overrides, so that everything not named here is as VLN-CE
    has it. Registers our measures and, where it is chosen, the embedded simulator.
    """
    simulator = simulator_name(config.simulator)
    for name, degrees in (('turn_deg', config.turn_deg), ('hfov_deg', config.camera.hfov_deg)):
        if degrees != int(degrees):
            raise UserError(f'{name} {degrees} must be a whole number of degrees: '
                            'habitat-lab stores it as one')
    _require_habitat_lab()
    import habitat

    import sim_bridge.measures  # noqa: F401  (registers them)
    import sim_bridge.vlnce_dataset  # noqa: F401  (registers it)

    overrides = [
        *_dataset(config), *_agent(config), *_simulator(config, simulator), *_measures(config),
        f'habitat.environment.max_episode_steps={config.max_steps}',
        'habitat.environment.iterator_options.shuffle=False',
    ]
    return habitat.get_config('benchmark/nav/vln_r2r.yaml', overrides=overrides)


def without_goals(lab_config) -> None:
    """Drop the measures that need a goal from habitat-lab's configuration: test splits."""
    import habitat

    measurements = lab_config.habitat.task.measurements
    with habitat.config.read_write(lab_config):
        for name in [name for name in measurements if name not in MEASURES_WITHOUT_GOAL]:
            del measurements[name]


def _require_habitat_lab() -> None:
    if importlib.util.find_spec('habitat') is None:
        raise UserError('habitat-lab is not installed; run: pip install --no-deps habitat-lab')
    from sim_bridge.embedded import lab_compat

    _be_quiet()
    lab_compat.install()


def _be_quiet() -> None:
    """Keep gym's notice of its end and habitat's progress out of every program's output."""
    os.environ.setdefault('HABITAT_LAB_LOG', str(logging.WARNING))
    os.environ.setdefault('HABITAT_SIM_LOG', 'quiet')
    os.environ.setdefault('MAGNUM_LOG', 'quiet')
    try:
        from gym_notices.notices import notices
    except ImportError:
        return
    notices.clear()


def _quoted(text) -> str:
    # hydra's grammar reads braces, commas and spaces unless the value is quoted
    return "'" + str(text).replace('\\', '\\\\').replace("'", "\\'") + "'"


def _dataset(config):
    name = '{split}_{role}.json.gz' if config.roles else '{split}.json.gz'
    path = os.path.join(os.path.abspath(config.dataset), '{split}', name)
    return ['habitat/dataset/vln=vlnce',
            f'habitat.dataset.roles=[{",".join(config.roles)}]',
            f'habitat.dataset.languages=[{",".join(config.languages)}]',
            f'habitat.dataset.data_path={_quoted(path)}',
            f'habitat.dataset.split={_quoted(config.split)}',
            f'habitat.dataset.scenes_dir={_quoted(os.path.abspath(config.scenes_dir))}']


def _agent(config):
    camera = config.camera
    overrides = [f'{_AGENT}radius={config.agent_radius_m}',
                 f'{_AGENT}height={config.agent_height_m}']
    sensors = ['rgb_sensor']
    if config.depth:
        sensors.append('depth_sensor')
        overrides += [f'{_SENSORS}depth_sensor.normalize_depth=False',
                      f'{_SENSORS}depth_sensor.max_depth={MAX_DEPTH_M}']
    else:
        overrides.append(f'~{_SENSORS}depth_sensor')
    if config.semantic:
        sensors.append('semantic_sensor')
        overrides.insert(0, f'+habitat/simulator/sim_sensors@{_SENSORS}semantic_sensor='
                            'semantic_sensor')
    pitch_rad = math.radians(config.camera_pitch_deg)
    for sensor in sensors:
        overrides += [f'{_SENSORS}{sensor}.width={camera.width}',
                      f'{_SENSORS}{sensor}.height={camera.height}',
                      f'{_SENSORS}{sensor}.hfov={int(camera.hfov_deg)}',
                      f'{_SENSORS}{sensor}.position=[0,{camera.height_m},0]',
                      f'{_SENSORS}{sensor}.orientation=[{pitch_rad},0,0]']
    return overrides


def _simulator(config, name):
    overrides = [f'habitat.simulator.forward_step_size={config.forward_m}',
                 f'habitat.simulator.turn_angle={int(config.turn_deg)}',
                 f'habitat.simulator.habitat_sim_v0.allow_sliding={config.allow_sliding}',
                 f'habitat.simulator.habitat_sim_v0.gpu_device_id={_gpu_device_id()}']
    if name == 'embedded':
        import sim_bridge.embedded.simulator  # noqa: F401  (registers it)

        overrides += ['habitat.simulator.type=EmbeddedSim-v0',
                      f'{_SENSORS}rgb_sensor.type=EmbeddedRGBSensor']
        if config.depth:
            overrides.append(f'{_SENSORS}depth_sensor.type=EmbeddedDepthSensor')
        if config.semantic:
            overrides.append(f'{_SENSORS}semantic_sensor.type=EmbeddedSemanticSensor')
    else:
        import sim_bridge.habitat_simulator  # noqa: F401  (registers it)

        # the navigation mesh is made anew unless the scene's own is for an agent of this size
        overrides += ['habitat.simulator.type=CheckedSim-v0',
                      'habitat.simulator.default_agent_navmesh=True']
    return overrides


def _measures(config):
    if not config.measures:
        return ['~' + _MEASUREMENTS + name for name in ('spl', 'success', 'distance_to_goal')]
    names = ['collisions', 'oracle_success', 'path_length', 'steps_taken', 'grounded_success',
             'grounded_oracle_success', 'grounded_spl']
    radius_m = config.success_distance_m
    overrides = [f'{_MEASUREMENTS}success.success_distance={radius_m}',
                 f'{_MEASUREMENTS}oracle_success.success_distance={radius_m}']
    if all(path.is_file() for path in config.ground_truth_files):
        references = ','.join(_quoted(path.resolve()) for path in config.ground_truth_files)
        names += ['ndtw', 'sdtw']
        overrides += [f'{_MEASUREMENTS}ndtw.success_distance={radius_m}',
                      f'{_MEASUREMENTS}ndtw.ground_truth=[{references}]']
    if config.top_down_map:
        names.append('top_down_map')
        # the fog alone costs more than everything else of a step
        overrides.append(f'{_MEASUREMENTS}top_down_map.fog_of_war.draw=False')
        overrides.append(f'{_MEASUREMENTS}top_down_map.max_episode_steps={config.max_steps}')
    return [f'+habitat/task/measurements=[{",".join(names)}]', *overrides]


def _gpu_device_id() -> int:
    """0 with an NVIDIA device, else -1: habitat-sim ends the process when it finds no CUDA."""
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES', '0') in ('', '-1')
    return -1 if hidden or not glob.glob('/dev/nvidia[0-9]*') else 0
