"""What an episode looked like: frames, poses, decisions, in a folder."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 92


class Recorder:
    """Writes `folder/episode_{id}/frame_000000.jpg ... record.json`, whole or not at all.

    record.json: frame_s (F,) the stamps of the frames in seconds, poses (N, 5) as seconds, x, y,
    z in habitat's frame and yaw, decisions as [seconds, [action, ...]], executed as
    [seconds, action], and the result.
    """

    def __init__(self, folder: str | os.PathLike, episode_id: str):
        self.path = Path(folder) / f'episode_{episode_id}'
        self._temporary = self.path.with_name(self.path.name + '.tmp')
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._frame_s: list[float] = []

    def frame(self, seconds: float, rgb: np.ndarray) -> None:
        """Add a uint8 (H, W, 3) frame."""
        name = self._temporary / f'frame_{len(self._frame_s):06d}.jpg'
        if not cv2.imwrite(str(name), rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise OSError(f'{name} could not be written')
        self._frame_s.append(round(seconds, 6))

    def finish(self, result: dict, poses: list, decisions: list, executed: list) -> Path:
        """Write record.json and give the folder its name; an older one of that name goes."""
        record = {'frame_s': self._frame_s, 'poses': poses, 'decisions': decisions,
                  'executed': executed, 'result': result}
        (self._temporary / 'record.json').write_text(json.dumps(record), encoding='utf-8')
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(self._temporary, self.path)
        return self.path

    def discard(self) -> None:
        """Leave nothing of an episode that did not end."""
        shutil.rmtree(self._temporary, ignore_errors=True)
