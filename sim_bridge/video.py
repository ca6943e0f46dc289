"""What an episode looked like: a video of it, and one sheet with all episodes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from sim_bridge.floor_plan import font
from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.errors import UserError

WIDTH, HEIGHT = 1280, 720
VIEW = 512
PLAN_WIDTH = 712
EDGE = 24
BACKGROUND, INK, FAINT = (28, 30, 36), (240, 240, 236), (150, 154, 164)
GREEN, RED, AMBER = (38, 148, 92), (200, 62, 52), (226, 128, 32)
CHIP, CHIP_OLD = 30, (62, 66, 76)
HOLD_S = 2.0


@dataclass(frozen=True)
class Moment:
    """One camera image uint8 (H, W, 3), when (s) and where (habitat's frame) it was taken."""

    time_s: float
    rgb: np.ndarray
    x: float
    z: float
    yaw_rad: float


@dataclass(frozen=True)
class Decision:
    """The actions (habitat's ids) that the policy chose at a time, those sent to be executed."""

    time_s: float
    actions: list


@dataclass(frozen=True)
class Take:
    """An episode as it was seen. `reached` and `line` (one line of text) say how it ended."""

    policy: str
    tier: str
    instruction: str
    moments: list
    decisions: list
    reached: bool
    line: str


def write_video(path, take, plan_of, fps, speed):
    """Write an H.264 file that browsers play, whole or not at all.

    `plan_of(width, height)` makes the floor plan of its apartment; the video runs `speed` times
    as fast as the robot. Raises UserError when it cannot be written.
    """
    screen = Screen(take, plan_of(PLAN_WIDTH, VIEW))
    part = path.with_name(f'{path.stem}.part.mp4')
    writer = imageio_ffmpeg.write_frames(
        str(part), (WIDTH, HEIGHT), fps=fps, codec='libx264', macro_block_size=8,
        pix_fmt_out='yuv420p', quality=None, ffmpeg_log_level='error',
        output_params=['-crf', '24', '-preset', 'veryfast', '-threads', '1',
                       '-movflags', '+faststart'])
    try:
        writer.send(None)
        for moment_count in _due(take.moments, fps, speed):
            writer.send(screen.frame(moment_count))
        last = screen.frame(len(take.moments), over=True)
        for _ in range(round(HOLD_S * fps)):
            writer.send(last)
        writer.close()
        os.replace(part, path)
    except OSError as error:
        raise UserError(f'{path} cannot be written ({error}); is the disk full?') from error
    finally:
        part.unlink(missing_ok=True)


def _due(moments, fps, speed):
    """How many moments have passed at each frame of the video."""
    times = np.array([moment.time_s for moment in moments])
    ticks = np.arange(times[0], times[-1] + 1e-9, speed / fps)
    return np.maximum(1, np.searchsorted(times, ticks + 1e-9, side='right'))


class Screen:
    """Draws a take's frames; what does not change is drawn once."""

    def __init__(self, take, plan):
        self._take, self._plan = take, plan
        self._still = Image.new('RGB', (WIDTH, HEIGHT), BACKGROUND)
        _draw_instruction(ImageDraw.Draw(self._still), take.instruction)
        self._shown = None

    def frame(self, moment_count, over=False):
        """One frame, uint8 (720, 1280, 3): the first `moment_count` moments have happened."""
        take = self._take
        moments = take.moments[:moment_count]
        now = moments[-1]
        decisions = [d for d in take.decisions if d.time_s <= now.time_s + 1e-9]
        if self._shown != (len(decisions), over):
            _draw_decisions(ImageDraw.Draw(self._still), decisions, over)
            self._shown = len(decisions), over
        picture = self._still.copy()
        picture.paste(Image.fromarray(_enlarged(now.rgb, VIEW)), (EDGE, EDGE))
        path = [(m.x, m.z) for m in moments]
        seen = self._plan.draw(path, now.yaw_rad, _places(moments, decisions))
        picture.paste(Image.fromarray(seen), (WIDTH - EDGE - PLAN_WIDTH, EDGE))
        pen = ImageDraw.Draw(picture, 'RGBA')
        seconds = now.time_s - take.moments[0].time_s
        _label(pen, (EDGE + 10, EDGE + 10), f'{take.policy} · {take.tier} · {seconds:.0f} s')
        if over:
            _label(pen, (EDGE + 10, EDGE + VIEW - 46), take.line, GREEN if take.reached else RED)
        return np.asarray(picture)


def _places(moments, decisions):
    """Where the policy was asked: the last moment not after each decision."""
    times = [moment.time_s for moment in moments]
    found = np.searchsorted(times, [d.time_s + 1e-9 for d in decisions], side='right') - 1
    return [(moments[k].x, moments[k].z) for k in np.maximum(0, found)]


def _enlarged(rgb, side):
    return cv2.resize(np.ascontiguousarray(rgb), (side, side), interpolation=cv2.INTER_CUBIC)


def _label(pen, corner, text, fill=(0, 0, 0, 150)):
    typeface = font(18)
    x0, y0 = corner
    pen.rounded_rectangle([x0, y0, x0 + pen.textlength(text, font=typeface) + 20, y0 + 34],
                          radius=6, fill=fill)
    pen.text((x0 + 10, y0 + 17), text, font=typeface, fill=(255, 255, 255), anchor='lm')


def wrapped(text, typeface, width_px, line_count):
    """Lines no wider than `width_px`; what does not fit into `line_count` lines ends in dots."""
    lines, line = [], ''
    for word in text.split():
        longer = f'{line} {word}'.strip()
        if line and typeface.getlength(longer) > width_px:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    if len(lines) <= line_count:
        return lines
    kept = lines[:line_count]
    while typeface.getlength(kept[-1] + ' ...') > width_px:
        kept[-1] = kept[-1][:-1]
    return [*kept[:-1], kept[-1] + ' ...']


def _draw_instruction(pen, text):
    for size, count in ((26, 2), (21, 3)):
        typeface = font(size)
        lines = wrapped(text, typeface, WIDTH - 2 * EDGE, 99)
        if len(lines) <= count:
            break
    lines = wrapped(text, typeface, WIDTH - 2 * EDGE, count)
    top = EDGE + VIEW + 16
    for k, line in enumerate(lines):
        pen.text((EDGE, top + k * (size + 7)), line, font=typeface, fill=INK)


def _draw_decisions(pen, decisions, over):
    """The chosen actions, a box a decision, the newest to the right."""
    top = HEIGHT - EDGE - CHIP - 12
    pen.rectangle([0, top, WIDTH, HEIGHT], fill=BACKGROUND)
    widths = [len(d.actions) * CHIP + 12 for d in decisions]
    room, first = WIDTH - 2 * EDGE, len(decisions)
    while first > 0 and sum(w + 10 for w in widths[first - 1:]) <= room + 10:
        first -= 1
    left = EDGE
    for k in range(first, len(decisions)):
        newest = k == len(decisions) - 1 and not over
        pen.rounded_rectangle([left, top, left + widths[k], top + CHIP + 12], radius=8,
                              fill=AMBER if newest else CHIP_OLD)
        for j, action in enumerate(decisions[k].actions):
            _draw_action(pen, left + 6 + (j + 0.5) * CHIP, top + 6 + CHIP / 2, action)
        left += widths[k] + 10


def _draw_action(pen, x, y, action):
    """An arrow ahead, a bent arrow to a side, or a square for stop."""
    ink = (255, 255, 255)
    if action == Action.STOP:
        pen.rectangle([x - 8, y - 8, x + 8, y + 8], fill=ink)
    elif action == Action.MOVE_FORWARD:
        pen.line([(x, y + 11), (x, y - 2)], fill=ink, width=4)
        pen.polygon([(x, y - 11), (x - 8, y), (x + 8, y)], fill=ink)
    else:
        side = -1 if action == Action.TURN_LEFT else 1
        pen.line([(x - 7 * side, y + 10), (x - 7 * side, y - 4), (x + 2 * side, y - 4)], fill=ink,
                 width=4, joint='curve')
        pen.polygon([(x + 11 * side, y - 4), (x + side, y - 12), (x + side, y + 4)], fill=ink)


SHEET_WIDTH, ROW, THUMB, SHEET_PLAN, SHEET_TEXT = 1600, 276, 260, 400, 330


def draw_sheet(takes, plans_of):
    """One picture of all episodes, a row each: three views, the floor plan, sentence and result.

    Returns uint8 (H, 1600, 3).
    """
    sheet = Image.new('RGB', (SHEET_WIDTH, ROW * len(takes) + 2 * EDGE - 16), BACKGROUND)
    pen = ImageDraw.Draw(sheet, 'RGBA')
    for k, (take, plan_of) in enumerate(zip(takes, plans_of)):
        top, left = EDGE + k * ROW, EDGE
        for share in (0.0, 0.5, 1.0):
            moment = take.moments[round(share * (len(take.moments) - 1))]
            sheet.paste(Image.fromarray(_enlarged(moment.rgb, THUMB)), (left, top))
            left += THUMB + 8
        last = take.moments[-1]
        seen = plan_of(SHEET_PLAN, THUMB).draw([(m.x, m.z) for m in take.moments], last.yaw_rad,
                                               _places(take.moments, take.decisions))
        sheet.paste(Image.fromarray(seen), (left, top))
        left += SHEET_PLAN + 16
        pen.text((left, top + 2), f'{take.policy} · {take.tier}', font=font(20), fill=FAINT)
        for size in (24, 20, 17, 15):
            lines = wrapped(take.instruction, font(size), SHEET_TEXT, 99)
            if len(lines) * (size + 6) <= THUMB - 84:
                break
        for j, line in enumerate(wrapped(take.instruction, font(size), SHEET_TEXT,
                                         (THUMB - 84) // (size + 6))):
            pen.text((left, top + 32 + j * (size + 6)), line, font=font(size), fill=INK)
        _label(pen, (left, top + THUMB - 34), take.line, GREEN if take.reached else RED)
    return np.asarray(sheet)
