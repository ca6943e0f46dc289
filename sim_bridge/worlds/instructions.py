"""Sentences for routes: clause kinds, their wordings, and how clauses become a sentence.

A clause is (kind, slots). `{goal}` is the named object and is filled in last, so that the same
sentence can be said of another object.
"""
from __future__ import annotations

import re

from sim_bridge.worlds.furniture import COLOURS, NOUNS
from sim_bridge.worlds.rooms import ROOM_NAMES

WORDINGS = {
    'leave': ('leave the {room}', 'exit the {room}', 'walk out of the {room}',
              'go out of the {room}', 'move out of the {room}', 'get out of the {room}'),
    'enter': ('go through the door into the {room}', 'enter the {room}', 'walk into the {room}',
              'go into the {room}', 'step into the {room}', 'take the door to the {room}',
              'head through the door to the {room}'),
    'turn': ('turn {side}', 'make a {side} turn', 'take a {side}', 'go {side}', 'head {side}',
             'turn to the {side}'),
    'turn_after': ('turn {side} after the door', 'turn {side}', 'after the door turn {side}',
                   'make a {side} turn', 'take a {side} after the door', 'head {side}',
                   'go {side} after the door'),
    'straight': ('go straight', 'walk straight ahead', 'continue straight', 'keep going straight',
                 'head straight on', 'move straight ahead'),
    'pass': ('pass the {piece} on your {side}', 'walk past the {piece} on your {side}',
             'go past the {piece} on your {side}', 'keep the {piece} on your {side}',
             'pass by the {piece} on the {side}', 'move past the {piece} on the {side}'),
    'go': ('go to the {goal}', 'walk to the {goal}', 'walk over to the {goal}',
           'head to the {goal}', 'move to the {goal}', 'find the {goal}', 'go over to the {goal}'),
    'go_stop': ('go to the {goal} and stop', 'walk to the {goal} and stop beside it',
                'walk over to the {goal} and stop by it', 'go to the {goal} and wait there',
                'move to the {goal} and stop next to it', 'find the {goal} and stop there'),
    'stop': ('stop by the {goal}', 'stop next to the {goal}', 'stop at the {goal}',
             'wait by the {goal}', 'wait next to the {goal}', 'stop beside the {goal}',
             'stop near the {goal}'),
    'stop_front': ('stop in front of the {goal}', 'walk up to the {goal} and stop in front of it',
                   'go to the {goal} and stop in front of it', 'wait in front of the {goal}',
                   'walk to the front of the {goal} and stop',
                   'move in front of the {goal} and stop'),
}

# Kept for val_unseen. Every word occurs in WORDINGS, in another clause.
HELD_OUT = {
    'leave': ('head out of the {room}', 'step out of the {room}'),
    'enter': ('move through the door into the {room}', 'get into the {room}'),
    'turn': ('move to your {side}', 'make a turn to the {side}'),
    'turn_after': ('after the door head {side}', 'make a turn to the {side} after the door'),
    'straight': ('walk straight on', 'keep going ahead'),
    'pass': ('continue past the {piece} on your {side}', 'head past the {piece} on the {side}'),
    'go': ('head over to the {goal}', 'continue to the {goal}'),
    'go_stop': ('head over to the {goal} and wait by it', 'get to the {goal} and stop near it'),
    'stop': ('wait near the {goal}', 'wait at the {goal}'),
    'stop_front': ('head to the front of the {goal} and wait',
                   'step in front of the {goal} and stop'),
}

LINKS = (', ', ', then ', '. ', ' and ', ' then ')


def say(rng, clauses, held_out=False):
    """The sentence, with {goal} still open; clauses is a list of (kind, {slot: words})."""
    wordings = HELD_OUT if held_out else WORDINGS
    text = ''
    for kind, slots in clauses:
        wording = wordings[kind][rng.integers(len(wordings[kind]))]
        if text:
            text += LINKS[rng.integers(len(LINKS))]
        text += wording.format(goal='{goal}', **slots)
    return text


def vocabulary():
    """All words a sentence can have, alphabetically, after the two of VLN-CE's vocabularies."""
    texts = [w for table in (WORDINGS, HELD_OUT) for kind in table.values() for w in kind]
    words = set(tokenize(' '.join(re.sub(r'\{\w+\}', ' ', t) for t in (*texts, *LINKS))))
    words |= set(tokenize(' '.join((*COLOURS, *NOUNS, *ROOM_NAMES, 'left', 'right'))))
    return ['<pad>', '<unk>', *sorted(words)]


def tokenize(text):
    return re.findall('[a-z]+', text.lower())
