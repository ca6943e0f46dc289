"""Recordings read without ROS: ours, and any bag with a camera and odometry.

A topic is found by its message type and the last part of its name, wherever its namespace is,
unless its whole name is given.
"""
from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError

from ..motion.safety import Odometry
from ..navigation.camera import Camera
from ..navigation.errors import UserError
from ..navigation.run_state import EXECUTING, FINISHED, FOLLOWING
from . import values
from .write import PARTIAL, typestore

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
ODOMETRY, STRING = 'nav_msgs/msg/Odometry', 'std_msgs/msg/String'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
PATH, DIAGNOSTICS = 'nav_msgs/msg/Path', 'diagnostic_msgs/msg/DiagnosticArray'
LAST_NS = 2**63 - 1
DEPTH = ('depth', 'disparity', 'infra')   # parts of names of images that are no colour images


@dataclass(frozen=True)
class Topics:
    """Names of topics, empty for those to be found."""

    image: str = ''
    odom: str = ''
    instruction: str = ''


@dataclass
class Run:
    """A sentence and what was seen from then on; images_ns: ascending stamps.

    end_ns: what is stamped later is not of this run; the camera may have died before.
    states: what the navigator said of this run meanwhile ('executing', 'finished', ...).
    frames_at: {number of a decision: frames in the history it was made with}, in order.
    """

    instruction: str
    images_ns: list[int] = field(default_factory=list)
    end_ns: int = LAST_NS
    states: list[str] = field(default_factory=list)
    frames_at: dict[int, int] = field(default_factory=dict)

    @property
    def arrived(self) -> bool:
        """A navigator says whether it arrived; a person who drove did."""
        return not set(FOLLOWING) & set(self.states) or self.states[-1] == FINISHED

    def seconds(self, stamp_ns: int) -> float:
        """From its first image to a stamp."""
        return (stamp_ns - self.images_ns[0]) * 1e-9

    def between(self, from_ns: int, to_ns: int) -> str:
        """A stretch of it for people."""
        return f'{self.seconds(from_ns):.1f} s to {self.seconds(to_ns):.1f} s'

    def hear_state(self, text: str) -> None:
        """Take what the navigator's `~/state` said, if it is of this run."""
        try:
            said = json.loads(text)
            state, about = str(said['state']), ' '.join(said['instruction'].split())
            decisions, frames = int(said['decisions']), int(said['frames'])
        except (ValueError, KeyError, TypeError, AttributeError):
            return   # another node's
        if about == self.instruction:
            self.states.append(state)
            if state == EXECUTING:
                self.frames_at.setdefault(decisions, frames)


class Bag:
    """One recording: a folder with metadata.yaml, or a single .mcap or .db3 file.

    UserError names what cannot be read or what is missing.
    """

    def __init__(self, path: str | Path, topics: Topics = Topics()):
        self.path = Path(path)
        self._given = topics
        if not self.path.exists():
            raise UserError(f'{path} does not exist; give a recording')
        self._recorded_ns: dict[int, int] = {}   # of every image of a run, by its stamp

    def __enter__(self) -> Bag:
        try:
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._reader.open()
        except (AnyReaderError, ReaderError, OSError, ValueError) as error:
            where = 'start the recorder, which repairs it' if PARTIAL in self.path.parts \
                else 'was it cut off? ros2 bag reindex writes a lost metadata.yaml'
            raise UserError(f'{self.path} cannot be read ({error}); {where}') from None
        return self

    def __exit__(self, *_) -> None:
        self._reader.close()

    def topic(self, kinds: Sequence[str], name: str, given: str = '') -> str:
        """The one topic of these types whose name ends with `name`; empty without one."""
        found = sorted({c.topic for c in self._reader.connections if c.msgtype in kinds})
        if given:
            if given not in found:
                raise UserError(f'{self.path} has no topic {given} of type {" or ".join(kinds)}; '
                                f'it has {", ".join(found) or "none of that type"}')
            return given
        ending = [topic for topic in found if topic.endswith(f'/{name}')]
        if len(ending) > 1:
            raise UserError(f'{self.path} has several topics for {name}: {", ".join(ending)}; '
                            f'say which')
        return ending[0] if ending else ''

    def image_topic(self) -> str:
        """The camera's: the one given, image_raw, its compressed form, or the only one."""
        if self._given.image:
            return self.topic((IMAGE, COMPRESSED), '', self._given.image)
        for kind, name in ((IMAGE, 'image_raw'), (COMPRESSED, 'image_raw/compressed')):
            ending = [c.topic for c in self._reader.connections if c.msgtype == kind
                      and c.topic.endswith(f'/{name}') and not _is_depth(c.topic)]
            if len(set(ending)) == 1:
                return ending[0]
        found = sorted({c.topic for c in self._reader.connections
                        if c.msgtype in (IMAGE, COMPRESSED) and not _is_depth(c.topic)})
        if len(found) == 1:
            return found[0]
        raise UserError(f'{self.path}: which of its topics is the camera: '
                        f'{", ".join(found) or "it has no images"}? Give --image-topic')

    def odom_topic(self) -> str:
        """Of odometry: the one given, .../odom, or the only one."""
        topic = self.topic((ODOMETRY,), 'odom', self._given.odom)
        found = sorted({c.topic for c in self._reader.connections if c.msgtype == ODOMETRY})
        if not topic and len(found) != 1:
            raise UserError(f'{self.path}: which of its topics is odometry: '
                            f'{", ".join(found) or "it has none"}? Give --odom-topic')
        return topic or found[0]

    def instruction_topic(self) -> str:
        """Of the sentence; empty where there is none."""
        return self.topic((STRING,), 'instruction', self._given.instruction)

    def messages(self, *topics: str, **span) -> Iterator[tuple[str, int, Any]]:
        """(topic, when it was recorded in ns, message) of some topics, in order.

        span: start and stop, in ns of the time of recording.
        """
        for topic, recorded_ns, data, kind in self._raw(*topics, **span):
            yield topic, recorded_ns, self._reader.deserialize(data, kind)

    def odometry(self, from_ns: int = 0, to_ns: int = LAST_NS) -> list[Odometry]:
        """What is stamped between the two, in the order it came."""
        return [values.odometry(self._reader.deserialize(data, kind))
                for _, _, data, kind in self._raw(self.odom_topic())
                if from_ns <= _stamp_ns(data) <= to_ns]

    def runs(self, instruction: str = '') -> list[Run]:
        """What was asked for, one after the other: with `instruction` all is one run.

        The images are not read for it. A run without a sentence has an empty one.
        """
        image, sentence = self.image_topic(), '' if instruction else self.instruction_topic()
        state = self.topic((STRING,), 'navigator/state')
        runs = [Run(instruction)]
        for topic, recorded_ns, data, kind in self._raw(image, sentence, state):
            if topic == image:
                stamp_ns = _stamp_ns(data)
                # a repeated stamp is no new image, and one that goes back no later one
                if not runs[-1].images_ns or stamp_ns > runs[-1].images_ns[-1]:
                    runs[-1].images_ns.append(stamp_ns)
                    self._recorded_ns[stamp_ns] = recorded_ns
                continue
            text = self._reader.deserialize(data, kind).data
            if topic == state:
                runs[-1].hear_state(text)
            elif (text := ' '.join(text.split())) and text != runs[-1].instruction:
                runs.append(Run(text))
        for run, following in zip(runs, runs[1:]):
            run.end_ns = min(following.images_ns[:1], default=LAST_NS) - 1
        return [run for run in runs if run.images_ns and (run.instruction or len(runs) == 1)]

    def _raw(self, *topics, **span):
        chosen = [c for c in self._reader.connections if c.topic in topics]
        for connection, recorded_ns, data in self._reader.messages(
                chosen, **span) if chosen else ():
            yield connection.topic, recorded_ns, data, connection.msgtype

    def rgb(self, stamp_ns: int) -> np.ndarray:
        """uint8 (H, W, 3) of the image of a run with that stamp; UserError when it is broken."""
        recorded_ns = self._recorded_ns[stamp_ns]
        for _, _, message in self.messages(self.image_topic(), start=recorded_ns,
                                           stop=recorded_ns + 1):
            if values.time_ns(message.header.stamp) == stamp_ns:
                return image_rgb(message)
        raise UserError(f'{self.path} has lost the image of {stamp_ns} ns')

    def image_size(self) -> tuple[int, int]:
        """(width, height) of its images in pixels."""
        for _, _, message in self.messages(self.image_topic()):
            height, width, _ = image_rgb(message).shape
            return width, height
        raise UserError(f'{self.path} has no image')

    def hfov_deg(self) -> float | None:
        """Horizontal field of view by the camera's calibration, None without one."""
        camera = self.image_topic().removesuffix('/compressed').rpartition('/')[0]
        infos = sorted({c.topic for c in self._reader.connections if c.msgtype == CAMERA_INFO})
        beside = [topic for topic in infos if topic.rpartition('/')[0] == camera] or infos
        for _, _, message in self.messages(*beside[:1]):
            if message.k[0] > 0 and message.width > 0:
                return Camera.from_intrinsics(
                    int(message.width), int(message.height), float(message.k[0]), 1.0).hfov_deg
        return None


def image_rgb(message) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a raw or a compressed image."""
    return values.image_rgb(message) if hasattr(message, 'encoding') \
        else values.compressed_rgb(message)


def _stamp_ns(data: bytes) -> int:
    """Of a serialised message that begins with its header.

    CDR: four bytes, the second of which tells the byte order, then the stamp.
    """
    seconds, nanoseconds = struct.unpack_from('<2I' if data[1] & 1 else '>2I', data, 4)
    return seconds * values.NS + nanoseconds


def _is_depth(topic: str) -> bool:
    return any(part in topic for part in DEPTH)
