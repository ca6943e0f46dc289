"""Every clause of every sentence is checked against the scene by code of its own."""

import math
import re
from functools import cache

import numpy as np
import pytest
from worlds_data import worlds_data

from sim_bridge.worlds.instructions import HELD_OUT, LINKS, WORDINGS, tokenize, vocabulary

SLOTS = {'room': '[a-z ]+?', 'piece': '[a-z]+ [a-z]+', 'goal': '[a-z]+ [a-z]+',
         'side': 'left|right'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return worlds_data(tmp_path_factory.getbasetemp())


@cache
def patterns(held_out):
    table = HELD_OUT if held_out else WORDINGS
    return [(kind, re.compile(re.sub(r'\{(\w+)\}', lambda m: f'(?P<{m[1]}>{SLOTS[m[1]]})',
                                     wording)))
            for kind, wordings in table.items() for wording in wordings]


def parse(text, held_out, rooms):
    """All ways to read a sentence as [(kind, slots)]: 'turn left' is two kinds of clause."""
    if not text:
        return [[]]
    readings = []
    for kind, pattern in patterns(held_out):
        for end in [m.start() for link in LINKS for m in re.finditer(re.escape(link), text)] + [
                len(text)]:
            match = pattern.fullmatch(text[:end])
            if not match or match.groupdict().get('room', rooms[0]) not in rooms:
                continue
            link = next((k for k in sorted(LINKS, key=len, reverse=True)
                         if text[end:].startswith(k)), '')
            for rest in parse(text[end + len(link):], held_out, rooms):
                readings.append([(kind, match.groupdict()), *rest])
    return readings


class Route:
    """The shortest path of an episode, walked in steps of 2 cm."""

    STEP_M = 0.02

    def __init__(self, data, episode):
        self.layout = data.layout(episode)
        self.scene, self.navmesh = data.scene(episode)
        goals = [goal['position'] for goal in episode['goals']]
        _, corners = self.navmesh.shortest_path(episode['start_position'], goals)
        corners = np.array(corners)[:, [0, 2]]
        points = [corners[0]]
        for a, b in zip(corners[:-1], corners[1:]):
            count = max(1, math.ceil(np.linalg.norm(b - a) / self.STEP_M))
            points += [a + (b - a) * k / count for k in range(1, count + 1)]
        self.points = np.array(points)
        self.rooms = [self.room(p) for p in self.points]
        self.doors = [k for k in range(1, len(self.rooms)) if self.rooms[k] != self.rooms[k - 1]]

    def room(self, point):
        for room in self.layout['rooms']:
            x0, z0, x1, z1 = room['box']
            if x0 <= point[0] < x1 and z0 <= point[1] < z1:
                return room['name']
        raise AssertionError(f'{point} is in no room')

    def object(self, name):
        found = [o for o in self.layout['objects'] if o['name'] == name]
        assert len(found) == 1, f'{name} is not one object'
        return found[0]

    def part(self, k):
        """Point numbers between door k - 1 and door k."""
        stops = [0, *self.doors, len(self.points) - 1]
        return range(stops[k], stops[k + 1] + 1)

    def vector(self, start, length_m):
        end = int(np.clip(start + round(length_m / self.STEP_M), 0, len(self.points) - 1))
        return self.points[end] - self.points[start]


def left_deg(a, b):
    """How far to turn left (degrees) from direction a to b; z grows backwards."""
    return math.degrees(math.atan2(a[1] * b[0] - a[0] * b[1], a[0] * b[0] + a[1] * b[1]))


def assert_side(angle_deg, side):
    assert side == ('left' if angle_deg > 0 else 'right') and 30 < abs(angle_deg) < 155, angle_deg


def distance(box, point):
    return math.hypot(max(box[0] - point[0], 0, point[0] - box[2]),
                      max(box[1] - point[1], 0, point[1] - box[3]))


def assert_passed(route, part, slots):
    thing = route.object(slots['piece'])
    gaps = [distance(thing['box'], route.points[k]) for k in part]
    nearest = part[int(np.argmin(gaps))]
    assert thing['room'] == route.rooms[part[len(part) // 2]]
    assert min(gaps) <= 1.35
    assert part[0] < nearest < part[-1], 'it is not left behind'
    box = thing['box']
    to_it = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]) - route.points[nearest]
    assert_side_of_walk = left_deg(route.vector(nearest - 10, 0.4), to_it)
    assert slots['side'] == ('left' if assert_side_of_walk > 0 else 'right')
    before = [k for k in part if k <= nearest][::5]
    assert any(pixels(route, k, thing['id']) for k in before), 'it is never in view'


def pixels(route, k, object_id):
    ahead = route.vector(k, 0.5)
    if not ahead.any():
        return 0
    yaw = math.atan2(-ahead[0], -ahead[1])
    return count_pixels(route.scene, route.points[k], yaw, object_id)


def count_pixels(scene, point, yaw, object_id, size=84):
    c, s = math.cos(yaw), math.sin(yaw)
    pose = np.array([[c, 0, s, point[0]], [0, 1, 0, 1.25], [-s, 0, c, point[1]], [0, 0, 0, 1]])
    return int((scene.render(pose, size, size, 90.0)[2] == scene.names.index(object_id)).sum())


def assert_true(episode, truth, route, clauses):
    """Raises AssertionError at the first clause that does not hold."""
    door = -1
    left = False
    for number, (kind, slots) in enumerate(clauses):
        if kind == 'leave':
            assert door == -1 and not left and slots['room'] == route.rooms[0]
            left = True
        elif kind == 'enter':
            door += 1
            assert slots['room'] == route.rooms[route.doors[door]]
        elif kind == 'turn':
            assert number == 0
            q = episode['start_rotation']
            yaw = 2 * math.atan2(q[1], q[3])
            assert_side(left_deg((-math.sin(yaw), -math.cos(yaw)), route.vector(0, 1.0)),
                        slots['side'])
        elif kind in ('turn_after', 'straight'):
            assert clauses[number - 1][0] == 'enter'
            here = route.doors[door]
            before = -route.vector(here, -0.7)
            after_at = here + round(0.6 / route.STEP_M)
            angle = left_deg(before, route.vector(after_at, 1.0))
            if kind == 'straight':
                assert abs(angle) < 30, angle
            else:
                assert_side(angle, slots['side'])
        elif kind == 'pass':
            assert not (left and door == -1)
            assert_passed(route, route.part(door + 1), slots)
        else:
            assert number == len(clauses) - 1 and door == len(route.doors) - 1
            goal = route.object(slots['goal'])
            assert goal['id'] == episode['info']['goal_object']
            if kind == 'stop_front':
                x0, z0, x1, z1 = goal['box']
                end = truth['locations'][-1]
                beyond = np.maximum([end[0] - x1, end[2] - z1], 0) - np.maximum(
                    [x0 - end[0], z0 - end[2]], 0)
                assert np.dot(beyond, goal['front']) > 0.2
                assert abs(np.dot(beyond, np.flip(goal['front']))) < 1e-6


def test_every_clause_is_true(data):
    kinds = set()
    for episode, truth in data.all_episodes():
        text, route = episode['instruction']['instruction_text'], Route(data, episode)
        rooms = [room['name'] for room in route.layout['rooms']]
        readings = parse(text, episode['info']['held_out_wording'], rooms)
        assert readings, f'cannot be read: {text}'
        wrong = []
        for clauses in readings:
            try:
                assert_true(episode, truth, route, clauses)
                break
            except AssertionError as error:
                wrong.append(f'{clauses}: {error}')
        else:
            pytest.fail(f'{episode["episode_id"]} {text!r} in {episode["scene_id"]}: {wrong}')
        kinds |= {kind for kind, _ in clauses}
    assert kinds >= set(WORDINGS) - {'go', 'go_stop'}


def test_a_false_clause_is_found(data):
    """The checker itself: the same sentences with the sides or the rooms exchanged are refused."""
    refused = checked = 0
    for episode, truth in list(data.all_episodes())[:60]:
        text, route = episode['instruction']['instruction_text'], Route(data, episode)
        rooms = [room['name'] for room in route.layout['rooms']]
        swapped = re.sub('left|right', lambda m: {'left': 'right', 'right': 'left'}[m[0]], text)
        if swapped == text:
            continue
        checked += 1
        for clauses in parse(swapped, episode['info']['held_out_wording'], rooms):
            with pytest.raises(AssertionError):
                assert_true(episode, truth, route, clauses)
        refused += 1
    assert refused == checked > 10


def test_each_clause_has_wordings_and_held_out_ones():
    assert set(WORDINGS) == set(HELD_OUT)
    for kind, wordings in WORDINGS.items():
        assert len(set(wordings)) >= 6 and len(set(HELD_OUT[kind])) >= 2, kind
        assert not set(wordings) & set(HELD_OUT[kind])


def test_held_out_wordings_are_new_sentences_of_known_words(data):
    texts = [e['instruction']['instruction_text'] for e in data.episodes('train')]
    known = {word for wordings in WORDINGS.values() for w in wordings for word in tokenize(w)}
    for kind, wordings in HELD_OUT.items():
        for wording in wordings:
            assert set(tokenize(wording)) <= known, wording
            found = re.compile(re.sub(r'\\\{\w+\\\}', '[a-z]+( [a-z]+)?', re.escape(wording)))
            assert not any(found.search(text) for text in texts), (kind, wording)


@pytest.mark.parametrize('split', ['train', 'val_seen', 'calibration', 'val_unseen'])
def test_held_out_wordings_are_half_of_val_unseen_only(data, split):
    marked = [e['info']['held_out_wording'] for e in data.episodes(split)]
    if split == 'val_unseen':
        assert 0.4 <= np.mean(marked) <= 0.5
    else:
        assert not any(marked)


def test_tokens_spell_the_sentence(data):
    words = data.read('train')['instruction_vocab']['word_list']
    assert words == vocabulary() and len(set(words)) == len(words)
    for episode, _ in data.all_episodes():
        instruction = episode['instruction']
        assert [words[k] for k in instruction['instruction_tokens']] == re.findall(
            '[a-z]+', instruction['instruction_text'])


def test_swap_names_another_object_of_the_room_and_changes_nothing_else(data):
    for episode, _ in data.all_episodes():
        info, text = episode['info'], episode['instruction']['instruction_text']
        names = {c['id']: c['name'] for c in info['candidates']}
        swap = info['swap']
        assert names[swap['object']] == swap['name'] and swap['object'] != info['goal_object']
        name = names[info['goal_object']]
        assert text.count(name) == 1 and swap['name'] not in text
        assert swap['instruction_text'] == text.replace(name, swap['name'])


def test_sentences_vary(data):
    for tier in ('room', 'door', 'apartment'):
        texts = [e['instruction']['instruction_text'] for e in data.episodes('train')
                 if e['info']['tier'] == tier]
        assert len(set(texts)) > 0.8 * len(texts)
