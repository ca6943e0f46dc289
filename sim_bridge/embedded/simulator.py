"""EmbeddedSim-v0: a simulator for habitat-lab that needs neither habitat-sim nor a GPU.

One agent, a still scene. Importing this module registers the simulator and its
sensors (EmbeddedRGBSensor, EmbeddedDepthSensor, EmbeddedSemanticSensor) with habitat-lab.
"""
from __future__ import annotations

import math

import numpy as np

from sim_bridge.embedded import lab_compat
from sim_bridge.embedded.scenes import load_scene
from vlnr1_ros.navigation.errors import UserError

lab_compat.install()

# ruff: noqa: E402  (habitat-lab can only be imported after install)
import quaternion
from gym import spaces
from habitat.config.default import get_agent_config
from habitat.core.registry import registry
from habitat.core.simulator import (
    AgentState,
    DepthSensor,
    Observations,
    RGBSensor,
    SemanticSensor,
    SensorSuite,
    Simulator,
)
from habitat.sims.habitat_simulator.actions import HabitatSimActions

BLOCKED_M2 = 1e-5    # habitat-sim's rule: a step collided when it fell short by this, squared


class _Sensor:
    """A pinhole camera fixed to the agent; its settings are read once, omegaconf is slow."""

    def __init__(self, config):
        if config.sensor_subtype != 'PINHOLE' or config.noise_model != 'None':
            raise UserError(f'the embedded simulator has no {config.sensor_subtype} camera with '
                            f'noise model {config.noise_model}: only PINHOLE without noise')
        self.view = (int(config.width), int(config.height), float(config.hfov),
                     tuple(map(float, config.position)), tuple(map(float, config.orientation)))
        super().__init__(config=config)

    def _box(self, low, high, channels, dtype):
        return spaces.Box(low, high, (self.view[1], self.view[0], channels), dtype)


@registry.register_sensor
class EmbeddedRGBSensor(_Sensor, RGBSensor):
    """uint8 (H, W, 3)."""

    shows = 'rgb'

    def _get_observation_space(self, *args, **kwargs):
        return self._box(0, 255, 3, np.uint8)

    def get_observation(self, images):
        return images[self.view]['rgb']


@registry.register_sensor
class EmbeddedDepthSensor(_Sensor, DepthSensor):
    """float32 (H, W, 1): z in metres cut to [min_depth, max_depth], or that range as 0..1."""

    shows = 'depth'

    def __init__(self, config):
        self._low, self._high = float(config.min_depth), float(config.max_depth)
        self._normalize = bool(config.normalize_depth)
        super().__init__(config)

    def _get_observation_space(self, *args, **kwargs):
        low, high = (0, 1) if self._normalize else (self._low, self._high)
        return self._box(low, high, 1, np.float32)

    def get_observation(self, images):
        depth = np.clip(images[self.view]['depth'], self._low, self._high)[..., None]
        return (depth - self._low) / (self._high - self._low) if self._normalize else depth


@registry.register_sensor
class EmbeddedSemanticSensor(_Sensor, SemanticSensor):
    """int32 (H, W, 1): index into the simulator's object_names, -1 = nothing."""

    shows = 'objects'

    def _get_observation_space(self, *args, **kwargs):
        return self._box(-1, np.iinfo(np.int32).max, 1, np.int32)

    def get_observation(self, images):
        return images[self.view]['objects'][..., None]


def _turn(angle_rad, axis):
    coefficients = [math.cos(angle_rad / 2), 0.0, 0.0, 0.0]
    coefficients[axis] = math.sin(angle_rad / 2)
    return quaternion.quaternion(*coefficients)


class _Agent:
    """What habitat-lab's map asks the simulator for."""

    def __init__(self):
        self.state = AgentState(np.zeros(3, np.float32), quaternion.quaternion(1, 0, 0, 0))


@registry.register_simulator(name='EmbeddedSim-v0')
class EmbeddedSim(Simulator):
    """habitat-lab's Simulator over a Scene and its NavMesh.

    Honours scene, forward_step_size, turn_angle, habitat_sim_v0.allow_sliding, the agent's radius,
    height and start state, and the sensors' size, hfov, position and orientation.
    """

    def __init__(self, config):
        if len(config.agents) != 1:
            raise UserError(f'the embedded simulator has one agent, not {len(config.agents)}')
        self._agent = _Agent()
        sensors = []
        for sensor_config in get_agent_config(config).sim_sensors.values():
            kind = registry.get_sensor(sensor_config.type)
            if kind is None or not issubclass(kind, _Sensor):
                raise UserError(f'the embedded simulator has no sensor {sensor_config.type!r}: '
                                'use EmbeddedRGBSensor, EmbeddedDepthSensor or '
                                'EmbeddedSemanticSensor')
            sensors.append(kind(sensor_config))
        self._sensor_suite = SensorSuite(sensors)
        self._views = {}    # what each distinct camera has to show: drawn once for all its sensors
        for sensor in sensors:
            self._views.setdefault(sensor.view, set()).add(sensor.shows)
        self._mounts = {view: _mount(view) for view in self._views}
        self._rendering = True
        self._collided = False
        self.reconfigure(config)

    def reconfigure(self, habitat_config, *args, **kwargs):
        """Opens the scene the configuration names and puts the agent at its start."""
        self.habitat_config = habitat_config
        self._forward_m = float(habitat_config.forward_step_size)
        self._turn_rad = math.radians(habitat_config.turn_angle)
        self._sliding = bool(habitat_config.habitat_sim_v0.allow_sliding)
        agent = get_agent_config(habitat_config)
        self._start = ((list(agent.start_position), list(agent.start_rotation))
                       if agent.is_set_start_state else None)
        self._scene, self.pathfinder = load_scene(
            habitat_config.scene, agent.radius, agent.height, habitat_config.scene_dataset)
        self._place_at_start()

    @property
    def sensor_suite(self):
        return self._sensor_suite

    @property
    def action_space(self):
        return spaces.Discrete(4)

    @property
    def object_names(self):
        """Name of every object of the scene, by semantic index."""
        return self._scene.names

    @property
    def previous_step_collided(self):
        """Whether the last step met an obstacle. A property: habitat-lab tests its truth."""
        return self._collided

    def set_render(self, on):
        """Whether observations carry images; without, a step costs a fraction."""
        self._rendering = bool(on)

    def seed(self, seed):
        self.pathfinder.seed(seed)

    def reset(self):
        self._collided = False
        self._place_at_start()
        return self._observe()

    def _place_at_start(self):
        if self._start is not None:
            self.set_agent_state(*self._start)

    def step(self, action, *args, **kwargs):
        """Executes one discrete action; None looks without acting."""
        self._collided = False
        state = self._agent.state
        if action == HabitatSimActions.move_forward:
            start = state.position
            step_m = self._forward_m * _heading(state.rotation)
            filtered = (self.pathfinder.try_step if self._sliding
                        else self.pathfinder.try_step_no_sliding)
            state.position = filtered(start, start + step_m)
            moved_m = state.position - start
            self._collided = bool(moved_m @ moved_m + BLOCKED_M2 < step_m @ step_m)
        elif action == HabitatSimActions.turn_left:
            state.rotation = (state.rotation * _turn(self._turn_rad, 2)).normalized()
        elif action == HabitatSimActions.turn_right:
            state.rotation = (state.rotation * _turn(-self._turn_rad, 2)).normalized()
        elif action is not None and action != HabitatSimActions.stop:
            raise UserError(f'action {action} is not one of stop (0), move_forward (1), '
                            'turn_left (2), turn_right (3)')
        return self._observe()

    def step_physics(self, delta_time):
        """Nothing moves by itself; habitat-lab's task calls this after every step."""

    def get_agent(self, agent_id=0):
        return self._agent

    def get_agent_state(self, agent_id=0):
        state = self._agent.state
        return AgentState(state.position.copy(), state.rotation.copy())

    def set_agent_state(self, position, rotation, agent_id=0, reset_sensors=True):
        """position (3,), rotation a quaternion or its coefficients x, y, z, w."""
        if not isinstance(rotation, quaternion.quaternion):
            x, y, z, w = (float(value) for value in rotation)
            rotation = quaternion.quaternion(w, x, y, z)
        position = np.array(position, np.float32)
        length = rotation.abs()
        if not (np.isfinite(position).all() and math.isfinite(length) and length > 0):
            raise UserError(f'agent position {position} and rotation {rotation} must be finite, '
                            'the rotation not zero')
        self._agent.state = AgentState(position, rotation.normalized())
        return True

    def get_observations_at(self, position=None, rotation=None, keep_agent_at_new_pose=False):
        """Observations from a pose, by default where the agent is."""
        before = self.get_agent_state()
        self.set_agent_state(before.position if position is None else position,
                             before.rotation if rotation is None else rotation)
        observations = self._observe()
        if not keep_agent_at_new_pose:
            self._agent.state = before
        return observations

    def _observe(self):
        if not self._rendering:
            return Observations({})
        state = self._agent.state
        body = quaternion.as_rotation_matrix(state.rotation)
        images = {}
        for view, shown in self._views.items():
            offset, turned = self._mounts[view]
            camera = np.eye(4)
            camera[:3, :3] = body @ turned
            camera[:3, 3] = state.position + body @ offset
            rgb, depth, objects = self._scene.render(
                camera, *view[:3], rgb='rgb' in shown, depth='depth' in shown,
                objects='objects' in shown)
            images[view] = {'rgb': rgb, 'depth': depth, 'objects': objects}
        return self._sensor_suite.get_observations(images)

    def geodesic_distance(self, position_a, position_b, episode=None):
        """Metres of the shortest way from a to b, or to the nearest of several; inf when none."""
        return self.pathfinder.geodesic(position_a, position_b)

    def get_straight_shortest_path_points(self, position_a, position_b):
        """Corner points (K, 3) of the shortest way from a to b."""
        return self.pathfinder.shortest_path(position_a, position_b)[1]

    def sample_navigable_point(self):
        return self.pathfinder.get_random_navigable_point().tolist()

    def is_navigable(self, point):
        return self.pathfinder.is_navigable(point)

    def semantic_annotations(self):
        """None: the scene knows its objects' names (object_names) and nothing else of them."""

    def render(self, mode='rgb'):
        return self._observe()[mode]

    def close(self, destroy=True):
        """Nothing to free: scenes are shared."""


def _mount(view):
    """(offset (3,), rotation (3, 3)) of a camera on the agent.

    Euler angles are applied about the agent's x, then y, then z axis, as habitat-sim does.
    """
    _, _, _, position, (x, y, z) = view
    turned = _turn(z, 3) * _turn(y, 2) * _turn(x, 1)
    return np.array(position), quaternion.as_rotation_matrix(turned)


def _heading(rotation):
    """Unit vector (3,) float32 the agent looks along: -z turned by its rotation."""
    w, x, y, z = rotation.w, rotation.x, rotation.y, rotation.z
    return np.array([-2 * (x * z + w * y), -2 * (y * z - w * x), -1 + 2 * (x * x + y * y)],
                    np.float32)
