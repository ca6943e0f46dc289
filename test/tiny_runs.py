"""Three expert runs of a few frames, and a Qwen2-VL small enough to learn them in seconds."""
from __future__ import annotations

import json

import numpy as np
import torch

from training.ego_files import EgoEpisode, EgoSettings, shifted_labels, write_episode
from training.tiny import build_tiny
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.memory import Average
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template

SIZE = 28
COLOURS = {'red': (220, 30, 30), 'green': (30, 200, 40), 'blue': (30, 40, 220)}
RUNS = {'red': [1, 1, 2, 0], 'green': [3, 3, 1, 1, 0], 'blue': [2, 1, 0]}
CARD = NavigationCard(sampler=Average(2), template=Template(NANO_TEMPLATE), frame_width=SIZE,
                      frame_height=SIZE, stop_bias=1.5)


def sentence(colour):
    return f'Go to the {colour} box.'


def frame(colour, step):
    """Walls of a colour, and a bar that grows with every step."""
    image = np.full((SIZE, SIZE, 3), COLOURS[colour], np.uint8)
    image[:5 * step + 1] = 255
    return image


def write_runs(root):
    """VLN-Ego samples of the three runs below `root`, in which colour and step tell what to do."""
    EgoSettings(frame_width=SIZE, frame_height=SIZE).bind(root)
    for k, (colour, actions) in enumerate(RUNS.items()):
        write_episode(root, 'train', EgoEpisode(
            str(k), str(k), sentence(colour), [frame(colour, i) for i in range(len(actions))],
            actions, shifted_labels(actions, 6), {'tier': 'room'}), 'jpg')
    return root


def tiny(folder, phrase_tokens):
    """An untrained checkpoint, with one token per action phrase or several."""
    build_tiny('qwen2_vl', folder, map(sentence, COLOURS), CARD, hidden=64, layers=2,
               vision_hidden=32, vision_layers=1, phrase_tokens=phrase_tokens,
               dtype=torch.float32)
    return folder


def logged(checkpoint, key):
    """A number of every training step from a trainer's checkpoint."""
    history = json.loads((checkpoint / 'trainer_state.json').read_text())['log_history']
    return [line[key] for line in history if key in line]


def losses(checkpoint):
    return logged(checkpoint, 'loss')
