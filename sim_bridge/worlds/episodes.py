"""Episodes in a world: a start, a named goal, a sentence that is true, and the expert's walk."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim_bridge.expert import ShortestPathExpert
from sim_bridge.frames import heading, wrap, yaw_to_xyzw
from sim_bridge.worlds import instructions, routes
from sim_bridge.worlds.rooms import box_distance

TIERS = ('room', 'door', 'apartment')
MIN_PATH_M = {'room': 2.5, 'door': 5.0, 'apartment': 8.0}
MAX_PATH_M, MAX_DOORS = 16.0, 4
FORWARD_M, TURN_DEG = 0.25, 30.0
MAX_STEPS = 200
SUCCESS_M = 1.0
GOAL_RADIUS_M = 1.0
MIN_CANDIDATES = 3
SEEN_PX = 10
SEEN_AT_GOAL_PX = 25
TRIES_PER_TURN, IDLE_ROUNDS = 40, 3
MIN_SHARE, MAX_SHARE = 3, 0.25
START_YAW_DEG = 60.0  # to either side of the first leg
ROOM_YAW_DEG = 42.0   # to either side of the goal, within the camera's 90
SAY_FIRST_TURN, SAY_TURN, SAY_STRAIGHT, SAY_PASS, SAY_LEAVE = 0.3, 0.85, 0.3, 0.4, 0.5


@dataclass(frozen=True)
class Start:
    """A pose to start from, the piece to go to, and the shortest path (N, 3) between them."""
    x: float
    z: float
    yaw_rad: float
    piece: object
    length_m: float
    points: np.ndarray


@dataclass(frozen=True)
class Walk:
    """What the expert did: habitat actions ending with stop, poses (x, z, yaw) before each."""
    actions: list
    poses: list


class EpisodeMaker:
    """Draws episodes of one world; `rng` decides everything."""

    def __init__(self, world, rng):
        self._world, self._rng = world, rng
        self._expert = ShortestPathExpert(world.navmesh, FORWARD_M, TURN_DEG)
        self._goals = {key: np.array([(x, 0.0, z) for x, z in points], np.float32)
                       for key, points in world.goals.items()}

    def make(self, tier, count, held_out_half=False):
        """Up to `count` (episode, ground truth) pairs; fewer where the apartment offers fewer.

        Pieces take turns as the goal and none is the goal of more than a few episodes.
        """
        made, failed = [], 0
        left = dict.fromkeys(self._goals, max(MIN_SHARE, math.ceil(MAX_SHARE * count)))
        while len(made) < count and failed < IDLE_ROUNDS:
            before = len(made)
            for k in self._rng.permutation(len(self._world.pieces)):
                piece = self._world.pieces[k]
                if len(made) == count or not left[piece.id]:
                    continue
                start, walk = self._try_piece(tier, piece)
                if walk:
                    left[piece.id] -= 1
                    held_out = held_out_half and len(made) % 2 == 1
                    made.append((self._episode(tier, start, walk, held_out), self._truth(walk)))
            failed = 0 if len(made) > before else failed + 1
        return made

    def _try_piece(self, tier, piece):
        """(Start, Walk) to the piece; walk is None when no try gave a usable one."""
        draw = self._room_start if tier == 'room' else self._far_start
        # One heading for all tries: drawn anew each time, headings straight at the goal would
        # survive most often, and walking ahead blindly would find every second goal.
        aside = self._rng.uniform(-1, 1)
        for _ in range(TRIES_PER_TURN):
            start = draw(tier, piece, aside)
            if start:
                return start, self._walk(start)
        return None, None

    # starts

    def _start_at(self, x, z, piece):
        x, z = round(float(x), 3), round(float(z), 3)
        if not self._world.free(x, z):
            return None
        length, points = self._world.navmesh.shortest_path((x, 0.0, z), self._goals[piece.id])
        return Start(x, z, 0.0, piece, length, points) if math.isfinite(length) else None

    def _room_start(self, tier, piece, aside):
        """A start in the goal's room that sees the goal and at least two other pieces.

        ``aside``, -1 to 1, says how far to the side of the goal the camera looks.
        One of the others is far off too: the words decide, not what is worth walking to.
        """
        room = self._world.rooms[piece.room]
        x0, z0, x1, z1 = room.inside()
        start = self._start_at(self._rng.uniform(x0, x1), self._rng.uniform(z0, z1), piece)
        if start is None or start.length_m < MIN_PATH_M[tier]:
            return None
        if routes.crossings(routes.dense(start.points), self._world.rooms):
            return None
        others = self._world.candidates(piece)
        far = {p.id for p in others if p is not piece and self._far_enough(start, p)}
        if not far:
            return None
        bearings = {p.id: heading(p.centre[0] - start.x, p.centre[1] - start.z) for p in others}
        yaw = wrap(bearings[piece.id] + math.radians(ROOM_YAW_DEG * aside))
        if sum(abs(wrap(b - yaw)) < math.radians(48) for b in bearings.values()) < MIN_CANDIDATES:
            return None
        seen = self._seen(start.x, start.z, yaw, others)
        if piece.id in seen and far & seen and len(seen) >= MIN_CANDIDATES:
            return Start(start.x, start.z, yaw, piece, start.length_m, start.points)
        return None

    def _far_start(self, tier, piece, aside):
        """A start one door away from the goal's room ('door') or two and more ('apartment')."""
        room = self._world.rooms[self._rng.integers(len(self._world.rooms))]
        if room is self._world.rooms[piece.room]:
            return None
        x0, z0, x1, z1 = room.inside()
        start = self._start_at(self._rng.uniform(x0, x1), self._rng.uniform(z0, z1), piece)
        if start is None or not MIN_PATH_M[tier] <= start.length_m <= MAX_PATH_M:
            return None
        route = routes.dense(start.points)
        entered = [c.after for c in routes.crossings(route, self._world.rooms)]
        if (len(entered) == 1) != (tier == 'door') or len(entered) > MAX_DOORS:
            return None
        if len(set(entered)) < len(entered):
            return None
        leg = routes.direction(route, 0, 20)
        yaw = wrap(leg + math.radians(START_YAW_DEG * aside))
        return Start(start.x, start.z, yaw, piece, start.length_m, start.points)

    def _far_enough(self, start, piece):
        return self._world.navmesh.geodesic((start.x, 0.0, start.z),
                                            self._goals[piece.id]) >= MIN_PATH_M['room']

    def _seen(self, x, z, yaw_rad, pieces):
        pixels = self._world.pixels(x, z, yaw_rad, pieces)
        return {key for key, count in pixels.items() if count >= SEEN_PX}

    # the expert

    def _walk(self, start):
        """The expert's walk, or None when it does not end in grounded success, goal in view."""
        world, piece = self._world, start.piece
        room, others = world.rooms[piece.room], world.candidates(piece)

        def grounded(position):
            x, z = float(position[0]), float(position[2])
            return room.contains(x, z) and world.nearest(x, z, others) is piece

        face = np.array([piece.centre[0], 0.0, piece.centre[1]], np.float32)
        position, yaw = np.array([start.x, 0.0, start.z], np.float32), start.yaw_rad
        actions = self._expert.plan(position, yaw, self._goals[piece.id], face=face, n=MAX_STEPS,
                                    accept=grounded)
        if actions[-1] != 0:
            return None
        actions = actions[:actions.index(0) + 1]
        poses = []
        for action in actions:
            poses.append((float(position[0]), float(position[2]), yaw))
            if action == 1:
                wanted = position + FORWARD_M * np.array([-math.sin(yaw), 0.0, -math.cos(yaw)],
                                                         np.float32)
                position = world.navmesh.try_step(position, wanted)
            elif action:
                yaw = wrap(yaw + math.radians(TURN_DEG if action == 2 else -TURN_DEG))
        near = world.navmesh.geodesic(position, self._goals[piece.id]) <= SUCCESS_M
        if not (near and grounded(position)):
            return None
        if world.pixels(*poses[-1], [piece])[piece.id] < SEEN_AT_GOAL_PX:
            return None
        return Walk(actions, poses)

    def _truth(self, walk):
        locations = [walk.poses[0]] + [pose for action, pose in zip(walk.actions, walk.poses[1:])
                                       if action == 1]
        return {'locations': [[round(x, 4), 0.0, round(z, 4)] for x, z, _ in locations],
                'actions': walk.actions, 'forward_steps': walk.actions.count(1)}

    # the sentence

    def _clauses(self, start, walk):
        """True clauses of the route, in order, and the pieces they mention."""
        world, rng = self._world, self._rng
        route = routes.dense(start.points)
        doors = routes.crossings(route, world.rooms)
        clauses, mentioned = [], []
        first = routes.direction(route, 0, 20)
        side = routes.side_of(math.degrees(wrap(first - start.yaw_rad)))
        if side in ('left', 'right') and rng.random() < SAY_FIRST_TURN:
            clauses.append(('turn', {'side': side}))
        if doors and rng.random() < SAY_LEAVE:
            clauses.append(('leave', {'room': world.rooms[doors[0].before].name}))
        stops = [0, *(c.index for c in doors), len(route) - 1]
        for k, (begin, end) in enumerate(zip(stops[:-1], stops[1:])):
            passing = self._passing(route, begin, end, start.piece)
            if passing and not (k == 0 and clauses and clauses[-1][0] == 'leave'):
                mentioned.append(passing.piece)
                clauses.append(('pass', {'piece': passing.piece.name, 'side': passing.side}))
            if k < len(doors):
                clauses.append(('enter', {'room': world.rooms[doors[k].after].name}))
                side = routes.side_of(routes.turn_at(route, doors[k].index))
                if side in ('left', 'right') and rng.random() < SAY_TURN:
                    clauses.append(('turn_after', {'side': side}))
                elif side == 'straight' and rng.random() < SAY_STRAIGHT:
                    clauses.append(('straight', {}))
        clauses.append((self._last_kind(start.piece, walk, bool(doors)), {}))
        return clauses, mentioned

    def _last_kind(self, piece, walk, far):
        kinds = ['stop', 'stop', 'stop'] if far else ['go', 'go_stop', 'stop']
        if box_side(piece, walk.poses[-1]) == piece.quarter:
            kinds.append('stop_front')
        return kinds[self._rng.integers(len(kinds))]

    def _passing(self, route, begin, end, goal):
        """A landmark to mention between two doors: passed for sure and seen on the way."""
        if self._rng.random() >= SAY_PASS:
            return None
        middle = (begin + end) // 2
        point = route[middle]
        room = next(k for k, r in enumerate(self._world.rooms) if r.contains(*point))
        pieces = [p for p in self._world.pieces if p is not goal]
        for passing in routes.passings(route, room, begin, end, pieces):
            for back in routes.LOOK_BACK_M:
                k = max(begin, passing.index - round(back / routes.STEP_M))
                ahead = routes.direction(route, k, k + 10)
                if ahead is not None and self._seen(*route[k], ahead, [passing.piece]):
                    return passing
        return None

    def _swap(self, start, mentioned):
        """Another piece of the goal's room to name instead, far off too if there is one."""
        others = [p for p in self._world.candidates(start.piece)
                  if p is not start.piece and p not in mentioned]
        others = [p for p in others if self._far_enough(start, p)] or others
        return others[self._rng.integers(len(others))]

    # files

    def _episode(self, tier, start, walk, held_out):
        world, piece = self._world, start.piece
        clauses, mentioned = self._clauses(start, walk)
        text = instructions.say(self._rng, clauses, held_out)
        swap = self._swap(start, mentioned)
        room = world.rooms[piece.room]
        points = [[round(float(v), 4) for v in p] for p in start.points]
        return {
            'start_position': [start.x, 0.0, start.z],
            'start_rotation': [float(v) for v in yaw_to_xyzw(start.yaw_rad)],
            'info': {
                'geodesic_distance': float(start.length_m), 'tier': tier,
                'held_out_wording': held_out, 'goal_object': piece.id, 'goal_room': room.name,
                'room_box': room.box,
                'candidates': [{'id': p.id, 'name': p.name, 'box': list(p.box)}
                               for p in world.candidates(piece)],
                'swap': {'object': swap.id, 'name': swap.name,
                         'instruction_text': text.format(goal=swap.name)}},
            'goals': [{'position': [x, 0.0, z], 'radius': GOAL_RADIUS_M}
                      for x, z in world.goals[piece.id]],
            'instruction': {'instruction_text': text.format(goal=piece.name)},
            'reference_path': points}


def box_side(piece, pose):
    """Which side of the piece a pose is on, as quarter turns (0 = high z), None off a corner."""
    x, z = pose[0], pose[1]
    x0, z0, x1, z1 = piece.box
    gaps = {0: z - z1, 1: x0 - x, 2: z0 - z, 3: x - x1}
    side = max(gaps, key=gaps.get)
    return side if box_distance(piece.box, x, z) == gaps[side] else None
