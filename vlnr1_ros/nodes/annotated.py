"""What the policy saw and what it decided, as a picture for people."""
from __future__ import annotations

import textwrap
from typing import Sequence

import cv2
import numpy as np

WIDTH = 420
LINE = 18
FONT, SCALE, CHARACTERS = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 52


def annotated(frame: np.ndarray, instruction: str, actions: Sequence[str]) -> np.ndarray:
    """The newest frame at the model's size, enlarged, above the sentence and the actions' texts.

    frame and result: uint8 (H, W, 3) RGB.
    """
    height = round(frame.shape[0] * WIDTH / frame.shape[1])
    picture = cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_NEAREST)
    # the font has ASCII only
    plain = instruction.encode('ascii', 'replace').decode()
    lines = textwrap.wrap(plain, CHARACTERS)[:3] + [f'  {action}' for action in actions]
    caption = np.zeros((LINE * len(lines) + LINE // 2, WIDTH, 3), np.uint8)
    for k, line in enumerate(lines):
        cv2.putText(caption, line, (6, LINE * (k + 1) - 4), FONT, SCALE, (255, 255, 255), 1,
                    cv2.LINE_AA)
    return np.vstack([picture, caption])
