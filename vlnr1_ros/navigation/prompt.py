"""The prompt as data: a template with slots that travels in the checkpoint's card."""
from __future__ import annotations

import re
from dataclasses import dataclass

from .actions import ActionSet
from .errors import UserError

SLOTS = ('instruction', 'history', 'current', 'options', 'n')
MAX_INSTRUCTION_CHARACTERS = 2000

DEFAULT_TEMPLATE = (
    'You steer a robot by what its camera sees. Follow this instruction: "{instruction}"\n'
    'Camera frames from the oldest to the newest, the last one is what the robot sees now: '
    '{history}{current}\n'
    'Choose the next {n} actions, each from these options: {options}. '
    'Write them in order with their letters, separated by commas.'
)
NANO_TEMPLATE = '{instruction}{history}{current}'


def check_instruction(text: str) -> str:
    """The instruction with its white space tidied; UserError when empty or too long."""
    tidy = ' '.join(text.split())
    if not tidy:
        raise UserError('the instruction is empty; send a sentence')
    if len(tidy) > MAX_INSTRUCTION_CHARACTERS:
        raise UserError(f'the instruction has {len(tidy)} characters; '
                        f'at most {MAX_INSTRUCTION_CHARACTERS} are taken')
    return tidy


@dataclass(frozen=True)
class Template:
    """Text with the slots {instruction} {history} {current} {options} {n}.

    The first three stand exactly once, the last two at most once. Other braces are plain text.
    ``history_separator`` stands between the images of the history.
    """

    text: str = DEFAULT_TEMPLATE
    history_separator: str = ''

    def __post_init__(self):
        for slot in SLOTS:
            count = self.text.count('{' + slot + '}')
            if count > 1 or (count == 0 and slot in SLOTS[:3]):
                raise UserError(f'the prompt template has {{{slot}}} {count} times; '
                                'instruction, history and current are needed exactly once, '
                                'options and n at most once')

    def blocks(self, instruction: str, history_count: int, action_set: ActionSet,
               n: int) -> list[dict]:
        """Content blocks of the user's turn: texts, and one image block per frame in order."""
        values = {'instruction': instruction, 'options': ', '.join(action_set.phrases),
                  'n': str(n)}
        images = {'history': history_count, 'current': 1}
        blocks: list[dict] = []
        text = ''
        for part in re.split('({(?:' + '|'.join(SLOTS) + ')})', self.text):
            slot = part[1:-1] if part.startswith('{') else None
            if slot in images:
                for k in range(images[slot]):
                    text += self.history_separator if k else ''
                    blocks += [{'type': 'text', 'text': text}] if text else []
                    blocks.append({'type': 'image'})
                    text = ''
            else:
                text += values.get(slot, part)
        return blocks + ([{'type': 'text', 'text': text}] if text else [])

    def conversation(self, instruction: str, history_count: int, action_set: ActionSet,
                     n: int) -> str:
        """The user's turn as one string, ``<image>`` standing for each frame."""
        return ''.join(block.get('text', '<image>') for block in
                       self.blocks(instruction, history_count, action_set, n))

    def instruction_of(self, conversation: str, history_count: int, action_set: ActionSet,
                       n: int) -> str | None:
        """Inverse of :meth:`conversation`: the instruction, None in a text it never makes."""
        before, after = self.conversation('\0', history_count, action_set, n).split('\0')
        fits = (conversation.startswith(before) and conversation.endswith(after)
                and len(conversation) > len(before) + len(after))
        return conversation[len(before):len(conversation) - len(after)] if fits else None
