"""The published VLN-Ego files: conversation JSON, and the episode folders it was made from.

    IMAGES/ep_<episode id>/traj_<trajectory id>/
        instruction.txt      the sentence
        action_list.json     actions taken, the last one stop
        step_<i>.jpg         what was seen before action i

The JSON has a record a frame, in any order; it may be larger than memory.
"""
from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import Iterator

from training.conversation_file import conversations
from training.ego_files import EPISODE_PREFIX, TRAJECTORY_PREFIX
from training.prompt_of_data import read_prompt, template_of
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average, Exponential, LongShort, Sampler
from vlnr1_ros.navigation.prompt import Template, check_instruction

FIRST_RECORDS = 2000
"""Records from which prompt, actions and horizon are told."""
_PATH = re.compile(r'^(?:(.*)/)?ep_([^/]+)/traj_([^/]+)/step_(\d+)\.\w+$')
_FORWARD = re.compile(r'A\. Move forward ([\d.]+) cm')
_TURN = re.compile(r'[BC]\. Turn (?:left|right) ([\d.]+) degrees')


@dataclass(frozen=True)
class Found:
    """An episode before its files are read.

    rows: {frame: the actions that its record answers}, empty without a conversation JSON.
    """

    episode_id: str
    trajectory_id: str
    folder: Path
    instruction: str
    rows: dict[int, list[int]]

    @property
    def name(self) -> str:
        """How reports call it."""
        return f'{EPISODE_PREFIX}{self.episode_id}/{TRAJECTORY_PREFIX}{self.trajectory_id}'


@dataclass
class Tally:
    """How often something happened, and where first."""

    counts: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """Count it once."""
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def lines(self) -> list[str]:
        """One line a kind, the most frequent first."""
        return [f'{count:>9}  {what} (first: {self.first[what]})'
                for what, count in self.counts.most_common()]


class EpisodeFolders:
    """Episodes of a folder of episode folders."""

    action_set = template = horizon = sampler = None

    def __init__(self, folder: Path):
        self.folder = folder
        self.dropped, self.repaired = Tally(), Tally()

    def episodes(self) -> Iterator[Found]:
        """Every episode folder, sorted by name."""
        for path in sorted(self.folder.glob(f'{EPISODE_PREFIX}*/{TRAJECTORY_PREFIX}*')):
            yield Found(path.parent.name.removeprefix(EPISODE_PREFIX),
                        path.name.removeprefix(TRAJECTORY_PREFIX), path,
                        instruction_in(path) or '', {})


class ConversationEpisodes:
    """Episodes of a conversation JSON, put together on disk.

    images: folder of the episode folders; None follows the paths in the file from where it lies.
    base: only records whose image paths begin with it. Raises UserError where no prompt, action or
    horizon can be told from the file.

    action_set, horizon, template: what the file says. sampler, sampler_share: the rule that
    explains most histories, and how many. dropped, repaired: what became of records.
    """

    def __init__(self, path: Path, images: Path | None = None, base: str | None = None):
        self._path, self._images, self._base = path, images, base
        self.dropped, self.repaired = Tally(), Tally()
        # a private file that SQLite removes by itself
        self._store = sqlite3.connect('')
        self._store.executescript(
            'create table episode (episode, trajectory, folder, sentence,'
            ' primary key (episode, trajectory));'
            'create table row (episode, trajectory, t integer, labels,'
            ' primary key (episode, trajectory, t)) without rowid;')
        self._learn()
        self.records = self._read()

    def _learn(self):
        first = list(islice(self._wanted(), FIRST_RECORDS))
        if not first:
            raise UserError(f'{self._path} has no image path {self._base or ""}'
                            '.../ep_E/traj_T/step_I.jpg; is this a VLN-Ego file?')
        bases = sorted({match[1] or '' for _, match in first})
        if len(bases) > 1:
            raise UserError(f'{self._path} mixes images below {" and ".join(bases)}; import each '
                            f'by itself with --base, for example --base {bases[0]}')
        self._bases = bases[0]
        self.action_set = _action_set(record.answer for record, _ in first)
        lengths = Counter(record.answer.count(',') + 1 for record, _ in first)
        self.horizon = max(lengths, key=lengths.get)
        self.template: Template = template_of(
            (record.prompt, instruction_in(self._folder(match))) for record, match in first)
        most = max(len(record.images) for record, _ in first) - 1
        self._votes = {sampler: 0 for sampler in (Average(max(most, 1)), LongShort(),
                                                  Exponential(max(most, 1)))}

    def _wanted(self):
        for record in conversations(self._path):
            match = _PATH.match(record.images[-1])
            if match and (self._base is None or (match[1] or '').startswith(self._base)):
                yield record, match
            elif not match:
                self.dropped.add('records whose newest image is not ep_E/traj_T/step_I',
                                 f'record {record.number}, {record.images[-1]}')

    def _folder(self, match) -> Path:
        base = self._images if self._images else self._path.parent / (match[1] or '')
        return base / f'{EPISODE_PREFIX}{match[2]}' / f'{TRAJECTORY_PREFIX}{match[3]}'

    def _read(self) -> int:
        """Sort every record into the store; returns how many there are."""
        self.dropped = Tally()
        count = 0
        for record, match in self._wanted():
            count += 1
            if (match[1] or '') != self._bases:
                raise UserError(f'{self._path} mixes images below {self._bases} and {match[1]}; '
                                f'import each by itself with --base')
            fault = self._take(record, match)
            if fault:
                self.dropped.add(f'records {fault}', f'record {record.number}')
        self.sampler: Sampler = max(self._votes, key=self._votes.get)
        self.sampler_share = self._votes[self.sampler] / max(count, 1)
        self._store.commit()
        return count

    def _take(self, record, match) -> str:
        """Store a record; what is wrong with it in words, '' where nothing is."""
        read = read_prompt(self.template, record.prompt, len(record.images))
        if read is None:
            return 'whose prompt has another form than the others'
        instruction, overlooked = read
        if overlooked:
            self.repaired.add(f'prompts without {overlooked}', f'record {record.number}')
        try:
            labels = self.action_set.decode(record.answer)
        except UserError:
            return f'whose answer is not made of {self.action_set.phrases}'
        try:
            instruction = check_instruction(instruction)
        except UserError:
            return 'whose instruction is empty or too long'
        if len(labels) != self.horizon:
            return f'whose answer has not {self.horizon} actions'
        episode, trajectory, t = match[2], match[3], int(match[4])
        steps = [found and int(found[4]) for found in map(_PATH.match, record.images)]
        for sampler in self._votes:
            self._votes[sampler] += steps == _history(sampler, t)
        self._store.execute('insert or ignore into episode values (?, ?, ?, ?)',
                            (episode, trajectory, str(self._folder(match)), instruction))
        sentence, = self._store.execute('select sentence from episode where episode = ? and '
                                        'trajectory = ?', (episode, trajectory)).fetchone()
        text = ''.join(str(int(label)) for label in labels)
        if sentence != instruction:
            return 'whose instruction is not that of their episode'
        if self._store.execute('insert or ignore into row values (?, ?, ?, ?)',
                               (episode, trajectory, t, text)).rowcount:
            return ''
        known, = self._store.execute('select labels from row where episode = ? and trajectory = ?'
                                     ' and t = ?', (episode, trajectory, t)).fetchone()
        return ('that stand there twice' if known == text
                else 'that contradict another of the same frame')

    def episodes(self) -> Iterator[Found]:
        """Every episode, sorted by id."""
        rows = self._store.execute(
            'select episode, trajectory, folder, sentence, t, labels from row join episode '
            'using (episode, trajectory) order by episode, trajectory, t')
        for (episode, trajectory, folder, sentence), group in groupby(rows, key=lambda r: r[:4]):
            yield Found(episode, trajectory, Path(folder), sentence,
                        {t: [int(label) for label in labels] for *_, t, labels in group})


@lru_cache(maxsize=64)
def instruction_in(folder: Path) -> str | None:
    """The text of instruction.txt, None where it cannot be read."""
    try:
        return (folder / 'instruction.txt').read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError):
        return None


@lru_cache(maxsize=4096)
def _history(sampler, t):
    return sampler.indices(t) + [t]


def _action_set(answers) -> ActionSet:
    """The actions that some answers speak of; where none turns, of 30 degrees."""
    forward, turn = Counter(), Counter()
    for answer in answers:
        forward.update(_FORWARD.findall(answer))
        turn.update(_TURN.findall(answer))
    if not forward and not turn:
        raise UserError('no answer speaks of moving forward or turning as VLN-Ego does '
                        f'({ActionSet().phrases}); is this a VLN-Ego file?')
    return ActionSet(float(max(forward, key=forward.get, default='25')) / 100,
                     float(max(turn, key=turn.get, default='30')))
