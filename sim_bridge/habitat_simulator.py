"""CheckedSim-v0: habitat-sim as habitat-lab wraps it, without its traps.

Without a GPU habitat-sim spends 10 to 20 seconds per opened scene on the reflections of materials
that VLN-CE's flat-shaded stages do not have; here they are left out. A question to a navigation
mesh that was never loaded and a texture that is missing end the process without a Python error;
here the first is refused and the second left out. Importing this module needs habitat-sim and
registers the simulator.
"""
from __future__ import annotations

import json
import logging
import os
import tempfile

import habitat_sim
from habitat.core.registry import registry
from habitat.core.simulator import Observations
from habitat.sims.habitat_simulator.habitat_simulator import HabitatSim
from habitat_sim.metadata import MetadataMediator

from sim_bridge.mended_glb import mended
from vlnr1_ros.navigation.errors import UserError

PBR_CONFIG = os.path.join('data', 'default.pbr_config.json')
NO_REFLECTIONS = {'enable_ibl': False, 'ibl_blut_filename': 'left_out_without_a_gpu.png',
                  'ibl_envmap_filename': 'left_out_without_a_gpu.hdr'}


def mediator_without_reflections():
    """A habitat-sim MetadataMediator whose default material settings have no reflections.

    habitat-sim reads those settings once, when the mediator is made, from PBR_CONFIG below the
    working directory and from nowhere else (esp/metadata/MetadataMediator.cpp). So it is made in
    a folder of its own; the user's working directory is left as it was, without a new file.
    """
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, PBR_CONFIG)
        os.makedirs(os.path.dirname(path))
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(NO_REFLECTIONS, file)
        os.chdir(folder)
        try:
            return MetadataMediator()
        finally:
            os.chdir(here)


@registry.register_simulator(name='CheckedSim-v0')
class CheckedSim(HabitatSim):
    """habitat-lab's HabitatSim; raises UserError where a scene has no navigation mesh."""

    def __init__(self, config):
        self._opened = {}    # scene -> what was opened in its place
        self._rendering = True
        self._blind = False    # while a step is made without images
        super().__init__(config)
        self._current_scene = config.scene    # habitat-lab compares it with the next episode's
        self._check_navmesh()

    def create_sim_config(self, _sensor_suite):
        """habitat-lab's configuration, of a scene and materials that can be rendered here."""
        configuration = super().create_sim_config(_sensor_suite)
        without_gpu = configuration.sim_cfg.gpu_device_id < 0
        configuration.sim_cfg.scene_id = self._openable(self.habitat_config.scene, without_gpu)
        if without_gpu:
            if not hasattr(self, '_mediator'):    # habitat-lab asks anew for every episode
                self._mediator = mediator_without_reflections()
            configuration.metadata_mediator = self._mediator
        return configuration

    def reconfigure(self, *args, **kwargs):
        """Opens the scene the configuration names."""
        super().reconfigure(*args, **kwargs)
        self._check_navmesh()

    def set_render(self, on):
        """Whether steps carry images; without, a step costs a fraction."""
        self._rendering = bool(on)

    def step(self, action):
        """Executes one discrete action; None looks without acting."""
        if self._rendering or action is None:
            return super().step(action)
        self._blind = True
        try:
            self._prev_sim_obs = habitat_sim.Simulator.step(self, action)
        finally:
            self._blind = False
        return Observations({})

    def get_sensor_observations(self, agent_ids=0):
        """What habitat-sim's step asks for after it has moved the agent."""
        if self._blind:
            return {agent_id: {} for agent_id in agent_ids}
        return super().get_sensor_observations(agent_ids)

    def _openable(self, scene, without_reflections):
        if scene not in self._opened:
            if not hasattr(self, '_folder'):
                self._folder = tempfile.TemporaryDirectory()
            folder = os.path.join(self._folder.name, str(len(self._opened)))
            path, lost = mended(scene, folder, without_reflections)
            if lost:
                logging.getLogger(__name__).warning(
                    '%s lacks %s: the colours of the materials are shown', scene, ', '.join(lost))
            self._opened[scene] = path
        return self._opened[scene]

    def _check_navmesh(self):
        if not self.pathfinder.is_loaded:
            agent = self.habitat_config.agents[self.habitat_config.agents_order[0]]
            raise UserError(
                f'scene {self.habitat_config.scene} has no navigation mesh: habitat-sim found no '
                f'floor for an agent of radius {agent.radius} m and height {agent.height} m. A '
                '.glb without a stage config is taken for Z-up; if yours is Y-up, write '
                '<name>.stage_config.json beside it with "up": [0, 1, 0], "front": [0, 0, -1]')
