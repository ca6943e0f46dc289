"""navigation.json: the contract that travels with a checkpoint.

    vlnr1 card CHECKPOINT --turn-deg 30 --camera 640x480 --hfov-deg 90 --camera-height-m 1.25
"""
from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .actions import Action, ActionSet
from .camera import Camera, parse_size
from .errors import UserError
from .memory import (
    SAMPLERS,
    Growing,
    History,
    LongShort,
    Sampler,
    sampler_from_dict,
    sampler_to_dict,
)
from .prompt import Template

FILE_NAME = 'navigation.json'
FORMAT = 1


@dataclass(frozen=True)
class NavigationCard:
    """How a checkpoint was trained and must be used.

    ``horizon`` actions are predicted per decision, the first ``execute`` are executed. Frames
    enter the model at ``frame_width`` x ``frame_height`` pixels. ``stop_bias`` is a logit added to
    the stop action when decoding; a ``blind`` model sees black frames.
    """

    action_set: ActionSet = field(default_factory=ActionSet)
    horizon: int = 6
    execute: int = 3
    sampler: Sampler = field(default_factory=LongShort)
    template: Template = field(default_factory=Template)
    camera: Camera = field(default_factory=Camera)
    frame_width: int = 224
    frame_height: int = 224
    stop_bias: float = 0.0
    blind: bool = False
    base_model: str = ''
    training_data: str = ''
    recipe: Any = ''

    def __post_init__(self):
        for name in ('horizon', 'execute', 'frame_width', 'frame_height'):
            if not isinstance(getattr(self, name), int):
                raise UserError(f'{name} is {getattr(self, name)!r}; give a whole number')
        for name in ('frame_width', 'frame_height'):
            if not 1 <= getattr(self, name) <= 8192:
                raise UserError(f'{name} is {getattr(self, name)}; give 1 to 8192 pixels')
        if not math.isfinite(self.stop_bias):
            raise UserError(f'stop_bias is {self.stop_bias}; give a finite logit')
        if not 1 <= self.horizon <= 64:
            raise UserError(f'horizon is {self.horizon}; give 1 to 64 actions')
        if not 1 <= self.execute <= self.horizon:
            raise UserError(f'execute is {self.execute}; give 1 to horizon ({self.horizon})')

    def decision_frames(self, length: int) -> range:
        """Frames of a run of that length whose history looks as it does when a run decides.

        A run decides at every ``execute``-th. The growing history looks otherwise in between,
        because its newest frame is then younger; the other samplers look alike at every frame.
        """
        return range(0, length, self.execute if isinstance(self.sampler, Growing) else 1)

    def check_history(self, history: History) -> None:
        """Raise UserError when its frames are not of the size that the model takes."""
        if (history.width, history.height) != (self.frame_width, self.frame_height):
            raise UserError(
                f'the history keeps frames of {history.width}x{history.height} pixels, the model '
                f'takes {self.frame_width}x{self.frame_height}; make the history with that size')

    def question(self, instruction: str, history: History) -> tuple[list[dict], list]:
        """(blocks of the prompt, its frames) of the next decision.

        Raises UserError when the history keeps frames of another size.
        """
        self.check_history(history)
        _, frames = history.sample(self.sampler)
        return self.template.blocks(
            instruction, len(frames) - 1, self.action_set, self.horizon), frames

    def to_dict(self) -> dict:
        """JSON form of the card."""
        actions = {**asdict(self.action_set),
                   'phrases': {a.name.lower(): self.action_set.phrase(a) for a in Action}}
        return {
            'format': FORMAT, 'actions': actions, 'horizon': self.horizon,
            'execute': self.execute, 'history': sampler_to_dict(self.sampler),
            'prompt': self.template.text,
            'history_separator': self.template.history_separator, 'camera': asdict(self.camera),
            'frame': {'width': self.frame_width, 'height': self.frame_height},
            'stop_bias': self.stop_bias, 'blind': self.blind, 'base_model': self.base_model,
            'training_data': self.training_data, 'recipe': self.recipe,
        }

    @classmethod
    def from_dict(cls, data: dict) -> NavigationCard:
        """Inverse of :meth:`to_dict`; a phrase that disagrees with its number is refused."""
        try:
            if data['format'] != FORMAT:
                raise UserError(f'card format is {data["format"]!r}, this program knows {FORMAT}')
            actions = ActionSet(float(data['actions']['forward_m']),
                                float(data['actions']['turn_deg']))
            for action in Action:
                stated = data['actions']['phrases'][action.name.lower()]
                if stated != actions.phrase(action):
                    raise UserError(f'phrase {stated!r} disagrees with forward_m '
                                    f'{actions.forward_m:g} and turn_deg {actions.turn_deg:g}: '
                                    f'expected {actions.phrase(action)!r}')
            return cls(
                action_set=actions, horizon=data['horizon'], execute=data['execute'],
                sampler=sampler_from_dict(data['history']),
                # cards written before there was a separator have none
                template=Template(data['prompt'], data.get('history_separator', '')),
                camera=Camera(**data['camera']), frame_width=data['frame']['width'],
                frame_height=data['frame']['height'], stop_bias=float(data['stop_bias']),
                blind=bool(data['blind']), base_model=data['base_model'],
                training_data=data['training_data'], recipe=data['recipe'])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f'missing or wrong entry {error}') from None

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``navigation.json`` into a checkpoint folder, whole or not at all."""
        path = Path(folder) / FILE_NAME
        temporary = path.with_suffix('.tmp')
        temporary.write_text(json.dumps(self.to_dict(), indent=2) + '\n', encoding='utf-8')
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike) -> NavigationCard:
        """Read a checkpoint's card; without one the error names the command that writes it."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise UserError(f'{folder} has no {FILE_NAME}, so its actions, camera and prompt are '
                            f'unknown; write one with: vlnr1 card {folder} --turn-deg 30 '
                            '(see vlnr1 card --help)')
        try:
            return cls.from_dict(json.loads(path.read_text(encoding='utf-8')))
        except (UserError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f'{path}: {error}; correct it or write it anew with vlnr1 card') \
                from None


def main(argv: list[str] | None = None) -> int:
    """Write a card into a checkpoint folder that has none."""
    parser = argparse.ArgumentParser(prog='vlnr1 card', description=main.__doc__)
    parser.add_argument('checkpoint', help='folder that from_pretrained opens')
    parser.add_argument('--forward-m', type=float, default=0.25, help='metres per forward step')
    parser.add_argument('--turn-deg', type=float, required=True, help='degrees per turn')
    parser.add_argument('--horizon', type=int, default=6, help='actions predicted per decision')
    parser.add_argument('--execute', type=int, default=3, help='of them executed')
    parser.add_argument('--history', choices=sorted(SAMPLERS), default='long_short',
                        help='history sampler, with its default numbers')
    parser.add_argument('--camera', default='640x480', help='camera WIDTHxHEIGHT')
    parser.add_argument('--hfov-deg', type=float, default=90.0, help='horizontal field of view')
    parser.add_argument('--camera-height-m', type=float, default=1.25, help='above the floor')
    parser.add_argument('--frame',
                        help='WIDTHxHEIGHT at which frames enter the model (default: the camera)')
    parser.add_argument('--template', default=None, help='file with the prompt template')
    parser.add_argument('--base-model', default='', help='name of the base model')
    parser.add_argument('--force', action='store_true', help='replace a card that is there')
    args = parser.parse_args(argv)
    folder = Path(args.checkpoint)
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder; give the checkpoint folder')
    if (folder / FILE_NAME).exists() and not args.force:
        raise UserError(f'{folder / FILE_NAME} exists; give --force to replace it')
    template = Template(Path(args.template).read_text(encoding='utf-8')) if args.template \
        else Template()
    camera = parse_size(args.camera)
    frame = parse_size(args.frame) if args.frame else camera
    card = NavigationCard(
        action_set=ActionSet(args.forward_m, args.turn_deg), horizon=args.horizon,
        execute=args.execute, sampler=SAMPLERS[args.history](), template=template,
        camera=Camera(*camera, args.hfov_deg, args.camera_height_m),
        frame_width=frame[0], frame_height=frame[1], base_model=args.base_model)
    print(card.save(folder))
    return 0
