"""Untrained checkpoints and frames that the tests of the policy share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.tiny import KINDS, build_tiny
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.memory import Average, History
from vlnr1_ros.navigation.prompt import NANO_TEMPLATE, Template

CORPUS = [
    'Leave the bedroom, turn right and wait by the white fridge.',
    'Go past the red chair into the kitchen, turn left, stop beside the blue table.',
] * 100
CASES = [(kind, phrase_tokens) for kind in KINDS for phrase_tokens in (True, False)]
CASE_IDS = [f'{kind}-{"phrase" if single else "bpe"}' for kind, single in CASES]


def card_for(kind: str, **changes) -> NavigationCard:
    """A card with three history frames whose size suits the kind, horizon 3."""
    pixels = 96 if kind == 'qwen3_vl' else 84
    card = NavigationCard(
        horizon=3, execute=1, sampler=Average(3), template=Template(NANO_TEMPLATE),
        frame_width=pixels, frame_height=pixels,
    )
    return replace(card, **changes)


def build(folder, kind: str = 'qwen2_vl', phrase_tokens: bool = True, **changes):
    """Write a checkpoint whose card has `changes`; returns its folder."""
    build_tiny(kind, folder, CORPUS, card_for(kind, **changes), phrase_tokens)
    return folder


def history_of(card: NavigationCard, count: int = 5, seed: int = 0) -> History:
    """Frames of noise at the card's size."""
    history = History(card.frame_width, card.frame_height)
    random = np.random.default_rng(seed)
    for _ in range(count):
        history.add(random.integers(0, 256, (card.frame_height, card.frame_width, 3), np.uint8))
    return history
