"""The flight recorder: every run as a bag, and the last minutes as one when something happened.

It knows no ROS and no thread. Stamps are nanoseconds of the node's clock; what it waits for
itself is measured by the steady clock it is told.
"""
from __future__ import annotations

import time
from dataclasses import dataclass

from .ring import Recorded, Ring
from .write import BagFile, Folder

MB = 1_000_000
REPEATED_NS = 5_000_000_000
"""An instruction is repeated until it is accepted; the first of these began the run."""


@dataclass(frozen=True)
class Limits:
    """What may be written. budget_mb: all of the folder, older recordings included."""

    ring_s: float = 120.0
    ring_mb: int = 256
    run_mb: int = 4000
    budget_mb: int = 20000
    min_free_mb: int = 1000
    tail_s: float = 1.0      # a run's recording goes on this long after its end
    aftermath_s: float = 2.0   # an event's this long after it
    flush_s: float = 1.0     # of what was heard, this much is lost by a kill -9
    runs: bool = True


class FlightRecorder:
    """folder: where; say: a function told of everything people should know, (text, is_trouble).

    kept: names of topics whose last message begins what is not the recording of a run, whenever
    it came.
    """

    def __init__(self, folder: Folder, limits: Limits, say, kept: tuple[str, ...] = ()):
        self.ring = Ring(limits.ring_s, limits.ring_mb * MB)
        self.trouble = ''
        self.recordings = 0
        self._folder, self._limits, self._say, self._kept = folder, limits, say, kept
        self._last: dict[str, Recorded] = {}
        self._heard_ns = 0              # stamp of the newest message
        self._bag: BagFile | None = None
        self._instruction = ''          # the sentence of the run that is followed
        self._said = ('', 0, 0)         # sentence, stamp of its first and of its last repetition
        self._by_hand = False
        self._end_at_s: float | None = None
        self._save_at_s: float | None = None
        self._save_why = ''
        self._flushed_s = 0.0
        self._written_bytes = folder.size_bytes()

    @property
    def recording(self) -> str:
        """Folder of the bag that is being written; empty without one."""
        bag = self._bag   # asked by another thread than the one that ends it
        return str(bag.path) if bag else ''

    @property
    def bag_bytes(self) -> int:
        """Of the bag that is being written."""
        bag = self._bag
        return bag.bytes if bag else 0

    # What is heard

    def hear(self, message: Recorded) -> None:
        """Take a message of any topic."""
        self._heard_ns = message.stamp_ns
        self.ring.add(message)
        if message.topic.endswith(self._kept):
            self._last[message.topic] = message
        if self._bag is not None:
            self._guarded(self._bag.write, *message)

    def hear_instruction(self, stamp_ns: int, text: str) -> None:
        """Take a sentence that was said; whether it is followed, the run's state tells.

        To be called before :meth:`hear`, so that it does not end up behind the run before.
        """
        if self._end_at_s is not None:
            self._finish('a new instruction')
        text = ' '.join(text.split())   # as the navigator tidies it
        said, first_ns, last_ns = self._said
        repeated = text == said and 0 <= stamp_ns - last_ns <= REPEATED_NS
        self._said = (text, first_ns if repeated else stamp_ns, stamp_ns)

    def hear_state(self, stamp_ns: int, steady_s: float, active: bool, instruction: str) -> None:
        """Take the navigator's word on what it follows."""
        followed = instruction if active else ''
        if followed == self._instruction:
            return
        self._instruction = followed
        if not followed:
            self._said = ('', 0, 0)   # the same sentence would begin another run
        if self._by_hand or not self._limits.runs:
            return
        if not followed:
            self._end_at_s = steady_s + self._limits.tail_s
            return
        self._finish('a new instruction')
        text, first_ns, _ = self._said
        self._begin('run', self.ring.since(first_ns if text == followed else stamp_ns))

    def record(self, on: bool) -> tuple[bool, str]:
        """Begin or end a recording by hand; returns whether it was done, and the bag's folder or
        what is wrong.
        """
        if on:
            self._finish('recording by hand')
            self._begin('hand', self._head(self._heard_ns))
            self._by_hand = self._bag is not None
            return self._by_hand, self.recording or self.trouble
        if not self._by_hand:
            return False, 'nothing is recorded by hand now'
        path = self.recording
        self._finish('ended by hand')
        return True, path

    def event(self, steady_s: float, why: str) -> None:
        """Something happened: the ring is saved soon, unless a run's bag holds it anyway."""
        if self._bag is not None:
            self._say(f'{why}: it is in {self._bag.path.name}', False)
            return
        if self._save_at_s is None:
            self._save_at_s, self._save_why = steady_s + self._limits.aftermath_s, why

    def save(self, why: str) -> tuple[bool, str]:
        """Write the ring to a bag now and empty it; returns whether it was done, and the bag's
        folder or what is wrong.
        """
        self._save_at_s = None
        if not len(self.ring):
            return False, 'nothing was heard yet'
        room = self._no_room()
        if room:
            self._trouble(room)
            return False, room
        bag = None
        try:
            bag = BagFile(self._folder.path, _name('ring'))
            heard = self.ring.take()
            for message in self._head(heard[0].stamp_ns) + heard:
                bag.write(*message)
            self._written_bytes += bag.bytes
            path = bag.finish()
        except OSError as error:
            if bag is not None:
                bag.leave()
            self._broken(error)
            return False, self.trouble
        self.recordings += 1
        self._say(f'the last minutes are in {path} ({why})', False)
        return True, str(path)

    def tick(self, steady_s: float) -> None:
        """Do what is due; to be called several times a second."""
        if self._save_at_s is not None and steady_s >= self._save_at_s:
            self.save(self._save_why)
        if self._end_at_s is not None and steady_s >= self._end_at_s:
            self._finish('the run is over')
        if self._bag is not None and steady_s - self._flushed_s >= self._limits.flush_s:
            self._flushed_s = steady_s
            self._guarded(self._bag.flush)
            if self._bag is not None:
                self._keep_limits()

    def close(self) -> None:
        """Finish what is being written."""
        if self._save_at_s is not None:
            self.save(self._save_why)
        self._finish('the recorder ends')
        self._folder.close()

    # What is done

    def _begin(self, name: str, messages: list[Recorded]):
        self._end_at_s = None
        room = self._no_room()
        if room:
            self._trouble(f'{room}; this run is not recorded')
            return
        try:
            self._bag = BagFile(self._folder.path, _name(name))
        except OSError as error:
            self._broken(error)
            return
        self.trouble = ''
        for message in messages:
            self._guarded(self._bag.write, *message)

    def _head(self, at_ns: int) -> list[Recorded]:
        """The last word on the kept topics up to a stamp, as if it had been said then."""
        return [message._replace(stamp_ns=at_ns) for message in self._last.values()
                if message.stamp_ns <= at_ns]

    def _finish(self, why: str):
        bag, self._bag, self._end_at_s, self._by_hand = self._bag, None, None, False
        if bag is None:
            return
        self._written_bytes += bag.bytes
        try:
            if not bag.messages:
                bag.discard()
                return
            path = bag.finish()
        except OSError as error:
            bag.leave()
            self._broken(error)
            return
        self.recordings += 1
        self._say(f'{bag.messages} messages, {bag.bytes / MB:.1f} MB in {path} ({why})', False)

    def _keep_limits(self):
        full = self._bag.bytes > self._limits.run_mb * MB
        room = f'the recording reached {self._limits.run_mb} MB (max_run_mb)' if full \
            else self._no_room()
        if room:
            self._finish(room)
            self._trouble(f'{room}; recording has ended, the robot goes on')

    def _no_room(self) -> str:
        """Why nothing more may be written; empty when it may."""
        used_mb = (self._written_bytes + self.bag_bytes) / MB
        free_mb = self._folder.free_bytes() / MB
        if used_mb > self._limits.budget_mb:
            return (f'{self._folder.path} holds {used_mb:.0f} MB, budget_mb is '
                    f'{self._limits.budget_mb}: delete recordings')
        if free_mb < self._limits.min_free_mb:
            return (f'the disk of {self._folder.path} has {free_mb:.0f} MB left, min_free_mb is '
                    f'{self._limits.min_free_mb}: free some space')
        return ''

    def _guarded(self, write, *arguments):
        """A disk that fails ends the recording and nothing else."""
        if self._bag is None:
            return
        try:
            write(*arguments)
        except OSError as error:
            bag, self._bag, self._end_at_s, self._by_hand = self._bag, None, None, False
            bag.leave()
            self._broken(error)

    def _broken(self, error: OSError):
        self._trouble(f'recording broke off: {error.strerror or error}; what was written is '
                      'repaired when the recorder is started again, the robot goes on')

    def _trouble(self, text: str):
        if text != self.trouble:
            self.trouble = text
            self._say(text, True)


def _name(kind: str) -> str:
    """A folder name that sorts by wall time."""
    now_s = time.time()
    return f'{kind}_{time.strftime("%Y%m%d_%H%M%S", time.localtime(now_s))}_' \
           f'{int(now_s % 1 * 1000):03d}'
