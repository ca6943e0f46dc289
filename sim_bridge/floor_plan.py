"""The floor plan of a generated apartment as a picture: rooms, doors, furniture, goal and path."""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sim_bridge.worlds.episodes import SUCCESS_M
from sim_bridge.worlds.furniture import COLOURS
from sim_bridge.worlds.rooms import WALL_THICKNESS_M

PAPER, FLOOR, WALL = (246, 243, 236), (255, 253, 248), (70, 68, 74)
ROOM_NAME, GOAL, REFERENCE = (176, 170, 160), (38, 148, 92), (150, 160, 175)
PATH, ROBOT, WHITE = (226, 108, 32), (24, 92, 178), (255, 255, 255)
ROBOT_RADIUS_M, VIEW_M = 0.17, 0.9
MARGIN_M = 0.25
# drawn this many times larger and shrunk: smooth edges
OVERSAMPLING = 2
SUBPIXEL_BITS = 4
# below this, names of furniture would run into one another
NAMES_FROM_PX_M = 45


def font(size):
    """Pillow's own typeface, so that nothing need be installed; size in pixels."""
    return ImageFont.load_default(size)


class FloorPlan:
    """One apartment seen from above, scaled to `width` x `height` pixels.

    Seen from above, habitat's x runs to the right and z down the page, so a turn to the left is
    counter-clockwise. A plan that fits better lying down is turned by a quarter, never mirrored.

    `layout` is the content of layout.json, `info` an episode's info, `goals` (G, 3) and
    `reference` (K, 3) positions in habitat's frame, in metres.
    """

    def __init__(self, layout, info, goals, reference, width, height):
        self._layout, self._info = layout, info
        self._goals = np.asarray(goals, float)
        self._reference = np.asarray(reference, float)
        boxes = np.array([room['box'] for room in layout['rooms']], float)
        self._low, self._high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        size = self._high - self._low + 2 * MARGIN_M
        scales = {turned: min(width / size[int(turned)], height / size[1 - int(turned)])
                  for turned in (False, True)}
        self._turned = scales[True] > 1.05 * scales[False]
        self._scale = scales[self._turned]
        self._width, self._height = width, height
        self._base = self._draw_base()

    def pixel(self, x, z):
        """(column, row) of a point, as floats; row 0 is the top."""
        dx, dz = np.array([x, z], float) - (self._low + self._high) / 2
        right, down = (dz, -dx) if self._turned else (dx, dz)
        return self._width / 2 + right * self._scale, self._height / 2 + down * self._scale

    def draw(self, path, yaw_rad, decided=()):
        """The plan with the path so far, (N, 2) of x and z, and the robot at its end.

        `decided` are the positions (x, z) at which the policy was asked. Returns uint8 (H, W, 3).
        """
        picture = self._base.copy()
        points = np.array([self.pixel(x, z) for x, z in path])
        thick = max(2, round(0.05 * self._scale))
        cv2.polylines(picture, [_fixed(points)], False, PATH, thick, cv2.LINE_AA, SUBPIXEL_BITS)
        for place in decided:
            self._disc(picture, self.pixel(*place), 0.06, PATH)
        self._disc(picture, points[0], 0.1, ROBOT)
        self._draw_robot(picture, points[-1], self._screen_angle(*path[-1], yaw_rad))
        return picture

    def _disc(self, picture, centre, radius_m, rim):
        radius = max(2.5, radius_m * self._scale)
        for size, colour in ((radius, rim), (0.6 * radius, WHITE)):
            cv2.circle(picture, tuple(_fixed(centre)), int(_fixed(size)), colour, -1, cv2.LINE_AA,
                       SUBPIXEL_BITS)

    def _screen_angle(self, x, z, yaw_rad):
        """Where a yaw points on the picture: radians from the right, clockwise."""
        (a, b), (c, d) = self.pixel(x, z), self.pixel(x - math.sin(yaw_rad), z - math.cos(yaw_rad))
        return math.atan2(d - b, c - a)

    def _draw_robot(self, picture, centre, angle):
        """A disc with an arrow in it, and the camera's field of view of 90 degrees."""
        reach = VIEW_M * self._scale
        sides = angle + np.radians(np.linspace(-45, 45, 16))
        rim = centre + reach * np.stack([np.cos(sides), np.sin(sides)], axis=1)
        view = picture.copy()
        cv2.fillPoly(view, [_fixed(np.vstack([centre, rim]))], ROBOT, cv2.LINE_AA, SUBPIXEL_BITS)
        cv2.addWeighted(view, 0.25, picture, 0.75, 0, dst=picture)
        radius = max(5.0, ROBOT_RADIUS_M * self._scale)
        for size, colour in ((radius + 2, WHITE), (radius, ROBOT)):
            cv2.circle(picture, tuple(_fixed(centre)), int(_fixed(size)), colour, -1, cv2.LINE_AA,
                       SUBPIXEL_BITS)
        corners = angle + np.array([0.0, 2.5, math.pi, -2.5])
        lengths = radius * np.array([0.8, 0.8, 0.3, 0.8])
        arrow = centre + lengths[:, None] * np.stack([np.cos(corners), np.sin(corners)], axis=1)
        cv2.fillPoly(picture, [_fixed(arrow)], WHITE, cv2.LINE_AA, SUBPIXEL_BITS)

    def _point(self, x, z):
        column, row = self.pixel(x, z)
        return column * OVERSAMPLING, row * OVERSAMPLING

    def _length(self, metres, least_px=1):
        return max(least_px, round(metres * self._scale * OVERSAMPLING))

    def _rectangle(self, box):
        (a, b), (c, d) = self._point(box[0], box[1]), self._point(box[2], box[3])
        return [min(a, c), min(b, d), max(a, c), max(b, d)]

    def _draw_base(self):
        picture = Image.new('RGB', (self._width * OVERSAMPLING, self._height * OVERSAMPLING),
                            PAPER)
        pen = ImageDraw.Draw(picture)
        for room in self._layout['rooms']:
            pen.rectangle(self._rectangle(room['box']), fill=FLOOR)
        self._draw_goal_region(picture)
        pen = ImageDraw.Draw(picture, 'RGBA')
        for room in self._layout['rooms']:
            self._draw_walls(pen, room['box'])
        for door in self._layout['doors']:
            pen.rectangle(self._rectangle(_door_box(door)), fill=FLOOR)
        for room in self._layout['rooms']:
            self._text(pen, self._clear_place(room['box']), room['name'].upper(), 12, ROOM_NAME)
        for item in self._layout['objects']:
            pen.rounded_rectangle(self._rectangle(item['box']), radius=self._length(0.05),
                                  fill=COLOURS[item['colour']], outline=WALL, width=2)
        self._draw_reference(pen)
        self._draw_names(pen)
        return np.asarray(picture.resize((self._width, self._height), Image.LANCZOS))

    def _draw_walls(self, pen, box):
        x0, z0, x1, z1 = box
        half = WALL_THICKNESS_M / 2
        for wall in ((x0 - half, z0 - half, x1 + half, z0 + half),
                     (x0 - half, z1 - half, x1 + half, z1 + half),
                     (x0 - half, z0 - half, x0 + half, z1 + half),
                     (x1 - half, z0 - half, x1 + half, z1 + half)):
            pen.rectangle(self._rectangle(wall), fill=WALL)

    def _draw_goal_region(self, picture):
        """Where a stop counts, but for detours round furniture.

        Within 1 m of the goal positions, in the room, nearer to the named object than to others.
        """
        rows, columns = np.mgrid[0:self._height, 0:self._width] + 0.5
        right = (columns - self._width / 2) / self._scale
        down = (rows - self._height / 2) / self._scale
        dx, dz = (-down, right) if self._turned else (right, down)
        x, z = np.stack([dx, dz]) + ((self._low + self._high) / 2)[:, None, None]
        x0, z0, x1, z1 = self._info['room_box']
        inside = (x0 <= x) & (x <= x1) & (z0 <= z) & (z <= z1)
        near = np.full(x.shape, np.inf)
        for goal in self._goals:
            near = np.minimum(near, np.hypot(x - goal[0], z - goal[2]))
        boxes = {item['id']: _box_distance(item['box'], x, z)
                 for item in self._info['candidates']}
        own = boxes.pop(self._info['goal_object'])
        counts = inside & (near <= SUCCESS_M)
        for other in boxes.values():
            counts &= own < other
        mask = Image.fromarray((counts * 70).astype(np.uint8)).resize(picture.size)
        picture.paste(Image.new('RGB', picture.size, GOAL), mask=mask)

    def _draw_reference(self, pen):
        """The shortest path, dashed."""
        points = self._reference[:, [0, 2]]
        for (ax, az), (bx, bz) in zip(points[:-1], points[1:]):
            length = math.hypot(bx - ax, bz - az)
            for start in np.arange(0.0, length, 0.24):
                a, b = start / length, min(start + 0.12, length) / length
                pen.line([self._point(ax + a * (bx - ax), az + a * (bz - az)),
                          self._point(ax + b * (bx - ax), az + b * (bz - az))],
                         fill=REFERENCE, width=self._length(0.03, 3))

    def _outside(self, box):
        """A place for the goal's name: above or below it on the page, away from the room."""
        x0, z0, x1, z1 = box
        places = [((x0 + x1) / 2, z0), ((x0 + x1) / 2, z1)]
        if self._turned:
            places = [(x0, (z0 + z1) / 2), (x1, (z0 + z1) / 2)]
        room = self._info['room_box']
        middle = np.array([(room[0] + room[2]) / 2, (room[1] + room[3]) / 2])
        edge = max(places, key=lambda place: math.dist(place, middle))
        centre = np.array([(x0 + x1) / 2, (z0 + z1) / 2])
        outwards = (edge - centre) / math.dist(edge, centre)
        return edge + outwards * 12 / self._scale

    def _clear_place(self, box):
        """The place in the middle of a room that is farthest from all furniture."""
        x0, z0, x1, z1 = box
        shares = (0.5, 0.4, 0.6, 0.3, 0.7)
        places = [(x0 + a * (x1 - x0), z0 + b * (z1 - z0)) for a in shares for b in shares]
        return max(places, key=lambda place: min(
            [_box_distance(item['box'], *place) for item in self._layout['objects']], default=0))

    def _draw_names(self, pen):
        for item in self._layout['objects']:
            x0, z0, x1, z1 = item['box']
            centre = ((x0 + x1) / 2, (z0 + z1) / 2)
            if item['id'] == self._info['goal_object']:
                pen.rounded_rectangle(self._rectangle(item['box']), radius=self._length(0.05),
                                      outline=GOAL, width=self._length(0.06, 6))
                self._text(pen, self._outside(item['box']), item['name'], 14, WHITE, GOAL, 3)
            elif self._scale >= NAMES_FROM_PX_M:
                self._text(pen, centre, item['noun'], 11, WALL, WHITE, 2)

    def _text(self, pen, centre, text, size, fill, halo=None, halo_px=0):
        """Text centred on a place, moved as far as it takes to stay on the picture."""
        typeface = font(size * OVERSAMPLING)
        column, row = self._point(*centre)
        half = pen.textlength(text, font=typeface) / 2 + halo_px * OVERSAMPLING
        column = min(max(column, half), self._width * OVERSAMPLING - half)
        row = min(max(row, size * OVERSAMPLING), (self._height - size) * OVERSAMPLING)
        pen.text((column, row), text, font=typeface, fill=fill, anchor='mm',
                 stroke_width=halo_px * OVERSAMPLING if halo else 0, stroke_fill=halo)


def _fixed(pixels):
    """Pixels in OpenCV's fixed point, so that what moves moves smoothly."""
    return np.round(np.asarray(pixels) * 2 ** SUBPIXEL_BITS).astype(np.int32)


def _door_box(door):
    half, deep = door['width'] / 2, WALL_THICKNESS_M / 2 + 0.01
    at, centre = door['at'], door['centre']
    if door['axis'] == 'x':
        return [at - deep, centre - half, at + deep, centre + half]
    return [centre - half, at - deep, centre + half, at + deep]


def _box_distance(box, x, z):
    x0, z0, x1, z1 = box
    return np.hypot(np.maximum(0, np.maximum(x0 - x, x - x1)),
                    np.maximum(0, np.maximum(z0 - z, z - z1)))
