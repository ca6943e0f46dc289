"""The prompt template of somebody's samples, read from the samples themselves."""
from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import replace
from typing import Iterable

from training.conversation_file import IMAGE
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.prompt import Template

SLOT = '{instruction}'
_OPENING_QUOTE = re.compile(r'(?<!\w)[\'"“]')
_CLOSING_QUOTE = re.compile(r'[\'"”](?!\w)')


def template_of(samples: Iterable[tuple[str, str | None]]) -> Template:
    """The template that made some prompts.

    samples: (prompt, its instruction where it is known). Where no instruction is known, it is what
    differs between the prompts, up to the quotes around it. Prompts with two history frames or
    more say how the history is written. Raises UserError where they have no common form.
    """
    forms: Counter = Counter()
    heads: dict[str, str | None] = {}
    for prompt, instruction in samples:
        head, *between, tail = prompt.split(IMAGE)
        if len(between) >= 3 and len(set(between[:-1])) == 1:
            forms[between[0], between[-1], tail] += 1
            heads[head] = heads.get(head) or instruction
    if not forms:
        raise UserError('no prompt has three images or more, so how it writes the history is '
                        'unknown; are these the samples of whole episodes?')
    separator, middle, tail = max(forms, key=forms.get)
    return Template(_common_head(heads) + '{history}' + middle + '{current}' + tail, separator)


def _common_head(heads):
    known = Counter(head.replace(text.strip(), SLOT) for head, text in heads.items()
                    if text and text.strip() and head.count(text.strip()) == 1)
    if known:
        return max(known, key=known.get)
    if len(heads) < 2:
        raise UserError('all prompts have the same instruction, so where it begins and ends is '
                        'unknown; put instruction.txt beside the images, or give more episodes')
    first, last = min(heads), max(heads)
    before = next(i for i in range(len(first) + 1) if first[:i + 1] != last[:i + 1])
    ends = [head[::-1] for head in heads]
    first, last = min(ends), max(ends)
    after = next(i for i in range(len(first) + 1) if first[:i + 1] != last[:i + 1])
    head = next(iter(heads))
    start, end = head[:before], head[len(head) - after:] if after else ''
    # sentences may begin and end alike: the slot is all that stands between the quotes, or
    # between colon or line end and line end
    opening = [m.end() for m in _OPENING_QUOTE.finditer(start)] or [
        m.end() for m in re.finditer(r':\s|\n', start)] or [before]
    closing = _CLOSING_QUOTE.search(end) or re.search(r'\n', end)
    found = start[:opening[-1]] + SLOT + (end[closing.start():] if closing else end)
    return _quoted(found, heads)


def _quoted(found, heads):
    """Quotes that flip with the sentence (a Python repr) belong to the template."""
    before, after = found.split(SLOT)
    slots = [head[len(before):len(head) - len(after)] for head in heads]
    quotes = Counter(slot[0] for slot in slots if slot[0] == slot[-1] and slot[0] in '\'"')
    if sum(quotes.values()) < len(slots):
        return found
    quote = max(quotes, key=quotes.get)
    return before + quote + SLOT + quote + after


def read_prompt(template: Template, prompt: str, images: int) -> tuple[str, str] | None:
    """(instruction, what had to be overlooked) of a prompt, None where it has another form.

    Overlooked are a word for the empty history of a first frame, and the other quotes and the
    backslashes that a Python repr puts around and into some sentences.
    """
    actions = ActionSet()
    for form, kind in _forms(template, images):
        text = form.instruction_of(prompt, images - 1, actions, 1)
        if text is None:
            continue
        if '\\' in text:
            try:
                text = ast.literal_eval(f'"""{text} """').rstrip()
            except (ValueError, SyntaxError):
                return None
        return text, kind
    return None


def _forms(template, images):
    empty = [''] if images > 1 else ['', 'None']
    other = {"'": '"', '"': "'"}
    for word in empty:
        form = replace(template, text=template.text.replace('{history}', word + '{history}'))
        yield form, 'a word for the empty history' if word else ''
        before, after = form.text.split(SLOT)
        if before[-1:] == after[:1] and after[:1] in other:
            quote = other[after[0]]
            yield (replace(form, text=before[:-1] + quote + SLOT + quote + after[1:]),
                   'the quotes of a Python repr')


def with_turn(template: Template, said_deg: float, true_deg: float) -> Template:
    """The template whose text names another turn angle."""
    return replace(template, text=re.sub(
        rf'(Turn (?:left|right)) {said_deg:g} degrees', rf'\1 {true_deg:g} degrees',
        template.text))
