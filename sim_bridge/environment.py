"""One episode API over habitat-lab: discrete actions as in VLN-CE, velocities as on a robot."""
from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_bridge import frames
from sim_bridge.benchmarks import preset
from sim_bridge.config import EnvironmentConfig, check_files, habitat_config, without_goals
from sim_bridge.expert import STOP, ShortestPathExpert
from sim_bridge.reference_expert import ReferencePathExpert
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.metrics import finite_or_none

MAX_SUBSTEP_M = 0.05
MAX_SUBSTEP_RAD = math.radians(5.0)
SAME_PLACE_M = 1e-5
FREE_SHARE = 0.95
"""A piece of motion that covers less of its length has run into something."""
PER_ACTION_MEASURES = ('collisions', 'steps_taken')


@dataclass(frozen=True)
class Episode:
    """One instruction with its start and goals, in habitat's frame and metres.

    start_yaw_rad is about +Y, positive to the left; goals (G, 3); reference_path (K, 3); both are
    empty in test splits. Several instructions may share a trajectory_id. `info` also holds RxR's
    instruction_id, language and role.
    """

    episode_id: str
    trajectory_id: str
    scene_id: str
    instruction: str
    info: dict
    start_position: np.ndarray
    start_yaw_rad: float
    goals: np.ndarray
    reference_path: np.ndarray


@dataclass(frozen=True)
class Observation:
    """What a step returns.

    rgb uint8 (H, W, 3); depth float32 (H, W) metres, 0 where nothing is near enough; semantic
    int32 (H, W); each None when it was not asked for. The pose is in habitat's frame. `step`
    counts discrete actions.
    """

    rgb: np.ndarray | None
    depth: np.ndarray | None
    semantic: np.ndarray | None
    x: float
    y: float
    z: float
    yaw_rad: float
    collided: bool
    step: int
    episode_over: bool


class Environment:
    """habitat-lab's Env behind reset, step, move and metrics.

    beside: one in this process whose episodes it shares, so that they are read once.
    Raises UserError for missing or broken files and for actions that make no sense now.
    """

    def __init__(self, config: EnvironmentConfig, beside: Environment | None = None):
        self.config = config
        self._dataset = beside._dataset if beside else _load_dataset(config)
        lab_config, dataset, self.episodes = self._dataset
        import habitat

        self._lab_episodes = {str(e.episode_id): e for e in dataset.episodes}
        if len(self._lab_episodes) != len(dataset.episodes):
            raise UserError(f'{_files(config)} has an episode id twice; '
                            f'{preset(config.benchmark).get_episodes}')
        self._by_id = {e.episode_id: e for e in self.episodes}
        self._env = self._opened(dataset.episodes[0].scene_id, habitat.Env, lab_config, dataset)
        self._rendered = True
        self._episode: Episode | None = None
        self._step = 0

    @property
    def episode(self) -> Episode:
        """The episode of the last reset."""
        if self._episode is None:
            raise UserError('no episode yet: call reset first')
        return self._episode

    @property
    def pathfinder(self):
        """The scene's navigation mesh (NavMesh or habitat-sim's PathFinder)."""
        return self._env.sim.pathfinder

    @property
    def episode_over(self) -> bool:
        """Whether stop was called or `max_steps` are used up."""
        return self._env.episode_over

    def episode_by_id(self, episode_id: str) -> Episode:
        """One of `episodes`."""
        episode = self._by_id.get(str(episode_id))
        if episode is None:
            raise UserError(f'episode {episode_id} is not in {_files(self.config)}, whose '
                            f'first is {self.episodes[0].episode_id}')
        return episode

    def reset(self, episode_id: str) -> Observation:
        """Place the agent at the start of an episode."""
        episode = self.episode_by_id(episode_id)
        self._env.current_episode = self._lab_episodes[episode.episode_id]
        seen = self._opened(episode.scene_id, self._env.reset)
        self._episode = episode
        self._step = 0
        self._expert = None
        self._bumps = 0
        self._bumping = False
        self._read_pose()
        self._recorded = self._xyz()
        self._trail = [(self._recorded, self._yaw)]
        return self._observation(seen, False)

    def step(self, action: int) -> Observation:
        """Execute one discrete action (habitat's ids)."""
        if self._episode is None or self._env.episode_over:
            raise UserError('the episode is over (or none was started): call reset first')
        if action not in (0, 1, 2, 3):
            raise UserError(f'action {action!r} is unknown; 0 stop, 1 forward, 2 left, 3 right')
        seen = self._env.step(int(action))
        self._step += 1
        self._read_pose()
        self._recorded = self._xyz()
        self._trail.append((self._recorded, self._yaw))
        self._bumping = False
        return self._observation(seen, action == 1 and bool(self._env.sim.previous_step_collided))

    def steps(self, actions: list[int]) -> list[Observation]:
        """Execute actions one after the other until the episode is over; what each led to.

        To an environment in another process this is one question instead of several.
        """
        seen = []
        for action in actions:
            seen.append(self.step(action))
            if seen[-1].episode_over:
                break
        return seen

    def move(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> Observation:
        """Drive with constant velocities for a while, sliding along what is in the way.

        Positive angular velocity turns left. Measures see the path every `forward_m`, as they do
        with discrete actions; a collision counts once, when it begins.
        """
        if self._episode is None or self._env.episode_over:
            raise UserError('the episode is over (or none was started): call reset first')
        if not all(map(math.isfinite, (linear_m_s, angular_rad_s, duration_s))) or duration_s < 0:
            raise UserError(f'velocities {linear_m_s}, {angular_rad_s} and duration {duration_s} '
                            'must be finite, the duration not negative')
        collided = self._drive(linear_m_s * duration_s, angular_rad_s * duration_s)
        self._bumps += collided and not self._bumping
        self._bumping = collided
        here = self._xyz()
        self._env.sim.set_agent_state(here, list(frames.yaw_to_xyzw(self._yaw)),
                                      reset_sensors=False)
        if np.linalg.norm(here - self._recorded) >= self.config.forward_m:
            self._record()
        seen = self._env.sim.get_observations_at() if self._rendered else {}
        return self._observation(seen, collided)

    def look(self, x: float, y: float, z: float, yaw_rad: float) -> Observation:
        """What the cameras show from a pose, whether rendering is on or not; nothing moves.

        May be called in a thread of its own if nothing else of this environment is used meanwhile.
        """
        on = self._rendered
        self.set_render(True)
        try:
            seen = self._env.sim.get_observations_at([x, y, z],
                                                     list(frames.yaw_to_xyzw(yaw_rad)))
        finally:
            self.set_render(on)
        return Observation(*_images(seen), x, y, z, yaw_rad, False, self._step,
                           self._env.episode_over)

    def set_render(self, on: bool) -> None:
        """Whether observations carry images; poses and measures do not need them."""
        self._rendered = bool(on)
        self._env.sim.set_render(self._rendered)

    def expert_plan(self, n: int) -> list[int]:
        """The expert's next n actions from here, padded with stop.

        It takes the shortest way, or with `follow_reference` the reference path from the point to
        which this episode has come. Where no way leads to the goal it stops at once.
        """
        episode, config = self.episode, self.config
        if not math.isfinite(self.distance_to_goal_m()):
            return [STOP] * n
        follow = config.follow_reference and len(episode.reference_path)
        if self._expert is None:
            body = (self.pathfinder, config.forward_m, config.turn_deg, config.allow_sliding)
            self._expert = (ReferencePathExpert(episode.reference_path, episode.goals, *body)
                            if follow else ShortestPathExpert(*body))
        if follow:
            for place, yaw_rad in self._trail:
                self._expert.visit(place, yaw_rad)
            self._trail = []
            return self._expert.plan(self._xyz(), self._yaw, n=n)
        face, accept = _object_to_reach(episode.info)
        return self._expert.plan(self._xyz(), self._yaw, episode.goals, face, n, accept)

    def distance_to_goal_m(self) -> float:
        """Geodesic distance from here to the nearest goal position; inf where no way leads."""
        self._need_goals()
        return float(self._env.sim.geodesic_distance(self._xyz(), list(self.episode.goals)))

    def _need_goals(self):
        if not len(self.episode.goals):
            raise UserError(f'split {self.config.split} does not tell its goals: nobody but a '
                            'leaderboard can judge or direct an episode of it')

    def nearest_candidate(self) -> str | None:
        """Id of the object of the goal's room that is nearest; None outside that room."""
        from sim_bridge.measures import nearest_candidate

        return nearest_candidate(self.episode.info, self._xyz())

    def metrics(self) -> dict:
        """Numbers of the episode so far; empty when measures are off.

        Without goals (test splits) only what does not depend on them. Where no way leads to the
        goal, distance_to_goal is None and spl 0 (habitat-lab's are inf and nan): a failure.
        """
        self.episode  # noqa: B018  (raises before the first reset)
        if self.config.measures and np.any(self._xyz() != self._recorded):
            self._record()
        found = {k: v for k, v in self._env.get_metrics().items()
                 if v is not None and k != 'top_down_map'}
        if 'collisions' in found:
            found['collisions'] = found['collisions']['count'] + self._bumps
        if 'distance_to_goal' in found and math.isnan(found['spl']):
            found['spl'] = 0.0
        return {k: finite_or_none(v) if k == 'distance_to_goal' else
                v if isinstance(v, int) else float(v) for k, v in found.items()}

    def top_down_map(self, height: int) -> np.ndarray:
        """The map with path, goals and agent as an image, uint8 (height, W, 3)."""
        from habitat.utils.visualizations import maps

        measure = self._env.get_metrics().get('top_down_map')
        if measure is None:
            raise UserError('the map is off: set top_down_map in the EnvironmentConfig')
        return maps.colorize_draw_agent_and_fit_to_height(measure, height)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _opened(self, scene, call, *arguments):
        """Run what may load a scene; say which one when it is missing or broken."""
        get = preset(self.config.benchmark).get_scenes
        if not Path(scene).is_file():
            raise UserError(f'scene {scene} does not exist; set scenes_dir to the folder that '
                            f'holds it, or {get}')
        try:
            return call(*arguments)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, IndexError, RuntimeError, AssertionError) as error:
            # habitat-sim reports what it cannot load as an AssertionError (esp/core/Check.h)
            raise UserError(f'scene {scene} cannot be opened ({type(error).__name__}: {error}); '
                            f'{get}') from error

    def _read_pose(self):
        state = self._env.sim.get_agent_state()
        rotation = state.rotation
        self._x, self._y, self._z = (float(v) for v in state.position)
        self._yaw = frames.yaw_from_xyzw(rotation.x, rotation.y, rotation.z, rotation.w)

    def _xyz(self):
        return np.array([self._x, self._y, self._z], np.float32)

    def _drive(self, distance_m, turn_rad):
        """Move along an arc in short straight pieces; True when something was in the way."""
        pieces = max(1, math.ceil(max(abs(distance_m) / MAX_SUBSTEP_M,
                                      abs(turn_rad) / MAX_SUBSTEP_RAD)))
        pathfinder = self.pathfinder
        try_step = (pathfinder.try_step if self.config.allow_sliding
                    else pathfinder.try_step_no_sliding)
        wanted_m = abs(distance_m) / pieces
        collided = False
        for _ in range(pieces):
            middle = self._yaw + turn_rad / pieces / 2
            self._yaw = frames.wrap(self._yaw + turn_rad / pieces)
            if not wanted_m:
                continue
            # double precision: single would swallow the small steps of a slow robot
            end_x = self._x - math.sin(middle) * distance_m / pieces
            end_z = self._z - math.cos(middle) * distance_m / pieces
            after = try_step(self._xyz(), np.array([end_x, self._y, end_z], np.float32))
            moved_m = math.hypot(after[0] - self._x, after[2] - self._z)
            collided |= moved_m < FREE_SHARE * wanted_m
            if math.hypot(after[0] - end_x, after[2] - end_z) > SAME_PLACE_M:
                end_x, end_z = float(after[0]), float(after[2])
            self._x, self._y, self._z = end_x, float(after[1]), end_z
        return collided

    def _record(self):
        """Let the measures see where a velocity has brought the agent."""
        self._recorded = self._xyz()
        self._trail.append((self._recorded, self._yaw))
        task = self._env.task
        for name, measure in task.measurements.measures.items():
            if name not in PER_ACTION_MEASURES:
                measure.update_metric(episode=self._env.current_episode, task=task,
                                      action={'action': 1}, observations={})

    def _observation(self, seen, collided):
        return Observation(*_images(seen if self._rendered else {}), self._x, self._y, self._z,
                           self._yaw, collided, self._step, self._env.episode_over)


def _images(seen):
    """(rgb, depth, semantic) of habitat-lab's observations, as Observation has them."""
    rgb, depth, semantic = seen.get('rgb'), seen.get('depth'), seen.get('semantic')
    return (None if rgb is None else np.ascontiguousarray(rgb[..., :3]),
            None if depth is None else np.asarray(depth, np.float32).reshape(depth.shape[:2]),
            None if semantic is None else np.asarray(semantic, np.int32).reshape(
                semantic.shape[:2]))


def load_episodes(config: EnvironmentConfig) -> list[Episode]:
    """The episodes of a split, without opening a simulator. Raises UserError like Environment."""
    return _load_dataset(config)[2]


def _load_dataset(config):
    """(habitat-lab's configuration, its dataset, our episodes)."""
    check_files(config)
    lab_config = habitat_config(config)
    from habitat.datasets import make_dataset

    get = preset(config.benchmark).get_episodes
    try:
        dataset = make_dataset(lab_config.habitat.dataset.type, config=lab_config.habitat.dataset)
        episodes = [_episode(e) for e in dataset.episodes]
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError,
            AttributeError) as error:
        raise UserError(f'{_files(config)} cannot be read ({type(error).__name__}: {error}); '
                        f'{get}') from error
    if not episodes:
        spoken = f' in {", ".join(config.languages)}' if config.languages else ''
        raise UserError(f'{_files(config)} has no episodes{spoken}; {get}')
    aimless = [e.episode_id for e in episodes if not len(e.goals)]
    if len(aimless) == len(episodes):
        without_goals(lab_config)
    elif aimless:
        raise UserError(f'{_files(config)}: episode {aimless[0]} has no goal, others have; {get}')
    return lab_config, dataset, episodes


def _files(config):
    return ' and '.join(map(str, config.episodes_files))


def _episode(lab_episode):
    goals = np.array([goal.position for goal in lab_episode.goals], np.float32).reshape(-1, 3)
    return Episode(
        str(lab_episode.episode_id), str(lab_episode.trajectory_id), lab_episode.scene_id,
        lab_episode.instruction.instruction_text, lab_episode.info or {},
        np.array(lab_episode.start_position, np.float32),
        frames.yaw_from_xyzw(*(float(v) for v in lab_episode.start_rotation)), goals,
        np.array(lab_episode.reference_path, np.float32).reshape(-1, 3))


def _object_to_reach(info):
    """(point to face, test of a place to stop) for the expert; (None, None) without an object."""
    from sim_bridge.measures import grounded, has_grounding

    if not has_grounding(info):
        return None, None
    x0, z0, x1, z1 = next(c['box'] for c in info['candidates'] if c['id'] == info['goal_object'])
    face = np.array([(x0 + x1) / 2, 0.0, (z0 + z1) / 2], np.float32)
    return face, lambda position: grounded(info, position, 0.0)
