"""A model behind an OpenAI-compatible URL as policy: vLLM on a workstation, `vlnr1 serve`, ...

    http://gpu:8000/v1?card=models/nano
    http://gpu:8000/v1?card=FOLDER&model=NAME&image=png&deadline_s=3

The robot needs neither torch nor transformers for it, only the card: a folder with the
checkpoint's navigation.json, and its tokenizer.json if the card has a stop_bias. Prompt, frames
and grammar are those of the local policy. Where the server can constrain its answer (vLLM's
structured_outputs) it does; in any case the answer is checked, asked for once more when it is
outside the grammar, and then refused.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from vlnr1_ros.navigation.actions import OPTION_ORDER, SEPARATOR, Action, ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.navigation.prompt import check_instruction
from vlnr1_ros.policy.base import Unavailable
from vlnr1_ros.policy.exchange import Cancelled, Exchange, Reply
from vlnr1_ros.resources import given_or_shipped

SCHEMES = ('http', 'https')
KEY_VARIABLE = 'VLNR1_API_KEY'
MARKUP = re.compile(r'<\|.*?\|>')
# Statuses by which a server says: not now. Other errors are about the request itself.
NOT_NOW = (408, 429, *range(500, 600))


@dataclass(frozen=True)
class Server:
    """What the URL of a remote policy says.

    base: the API's URL, to which /models and /chat/completions are added.
    card: folder with navigation.json. model: the server's name for it, '' for its only one.
    image: 'jpeg' with `jpeg_quality` (1 to 100) or 'png', which loses nothing.
    deadline_s: how long a decision may take.
    """

    base: str
    card: str
    model: str = ''
    image: str = 'jpeg'
    jpeg_quality: int = 90
    deadline_s: float = 5.0

    @classmethod
    def parse(cls, url: str) -> Server:
        """Raises UserError that names the part that is wrong."""
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  (parsed when asked for)
        except ValueError as error:
            raise UserError(f'server URL {url!r}: {error}') from None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise UserError(f'server URL {url!r}: give http://HOST:PORT/v1?card=FOLDER')
        if parts.username is not None:
            raise UserError('the server URL holds a user or a key, which would be shown in states '
                            f'and logs; set the environment variable {KEY_VARIABLE} instead')
        settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = [field.name for field in fields(cls) if field.name != 'base']
        for name in settings:
            if name not in known:
                raise UserError(f'server URL: unknown setting {name!r}; known are '
                                f'{", ".join(known)}')
        if not settings.get('card'):
            raise UserError(f'server URL {url!r} names no card; add ?card=FOLDER, a folder with '
                            "the checkpoint's navigation.json")
        try:
            server = cls(f'{parts.scheme}://{parts.netloc}{parts.path.rstrip("/")}', **{
                **settings, 'jpeg_quality': int(settings.get('jpeg_quality', cls.jpeg_quality)),
                'deadline_s': float(settings.get('deadline_s', cls.deadline_s))})
        except ValueError as error:
            raise UserError(f'server URL {url!r}: {error}') from None
        if server.image not in ('jpeg', 'png') or not 1 <= server.jpeg_quality <= 100:
            raise UserError(f'server URL: image is {server.image!r} of quality '
                            f'{server.jpeg_quality}; give image=png, or image=jpeg with '
                            'jpeg_quality from 1 to 100')
        if not 0.05 <= server.deadline_s <= 600:
            raise UserError(f'server URL: deadline_s is {server.deadline_s:g}; give 0.05 to 600 s')
        return server

    def send(self, path: str, body: dict | None = None) -> Exchange:
        """Begin a request; the key is taken from the environment."""
        headers = {'Content-Type': 'application/json', 'Accept': 'application/json'}
        key = os.environ.get(KEY_VARIABLE, '').strip()
        if key:
            headers['Authorization'] = f'Bearer {key}'
        data = None if body is None else json.dumps(body).encode()
        return Exchange(self.base + path, self.deadline_s, data, headers)

    def receive(self, exchange: Exchange, timeout_s: float) -> Reply:
        """Its reply, whatever the status; Unavailable if there is none."""
        try:
            return exchange.reply(timeout_s)
        except TimeoutError:
            raise Unavailable(f'{self.base} gave no answer within {self.deadline_s:g} s '
                              '(deadline_s)') from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f'{self.base} cannot be reached: '
                              f'{error or type(error).__name__}') from None

    def models(self) -> list[str]:
        """Names of the models it lists; Unavailable if it is not there, UserError if it is none.

        Not every server can list its models; one that answers with an error of its own is there.
        """
        reply = self.receive(self.send('/models'), self.deadline_s)
        self.check_key(reply)
        if reply.status in NOT_NOW:
            return []
        try:
            return [str(entry['id']) for entry in json.loads(reply.body)['data']]
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{self.base}/models answered {_complaint(reply)}; is it the URL of '
                            'an OpenAI-compatible server, ending in /v1?') from None

    def check_key(self, reply: Reply) -> None:
        """UserError if the server wants another key."""
        if reply.status in (401, 403):
            raise UserError(f'{self.base} answered {_complaint(reply)}; set the environment '
                            f'variable {KEY_VARIABLE}')


class RemotePolicy:
    """A model on another computer. See the module; `url` is what `Server.parse` takes.

    Raises UserError when the URL or the card is wrong, or when the server is not there.
    """

    def __init__(self, url: str):
        self.server = Server.parse(url)
        folder = given_or_shipped(self.server.card)
        self.card = NavigationCard.load(folder)
        self._logit_bias = stop_bias_of(self.card, folder)
        self._answer = answer_regex(self.card.action_set, self.card.horizon)
        self._structured = True  # until the server says that it cannot
        self._model = self._chosen(self.server.models())
        self._instruction: str | None = None
        self._encoded: dict[int, tuple[np.ndarray, dict]] = {}
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode; decoding is greedy, so `seed` changes nothing.

        Raises UserError if the instruction is empty, too long or holds a model's markup.
        """
        instruction = check_instruction(instruction)
        markup = MARKUP.search(instruction)
        if markup:
            raise UserError(f'the instruction contains {markup.group()!r}, which the model may '
                            'read as markup; leave it out')
        self._instruction = instruction
        self._encoded = {}

    def plan(self, history: History) -> list[Action]:
        """The next `card.horizon` actions.

        Raises Unavailable if there is no answer by the deadline or the server is not there,
        UserError if its answer is outside the grammar twice or it refuses the question.
        """
        question = self._question(history)
        ends_s = time.monotonic() + self.server.deadline_s
        for _ in range(2):
            reply = self._ask(question, ends_s)
            try:
                return self._decode(reply)
            except UserError as error:
                wrong = error
        raise UserError(f'{self.server.base} answered outside the grammar twice: {wrong}')

    def cancel(self) -> None:
        """Give up the question in progress, from any thread; its `plan` raises UserError."""
        with self._lock:
            if self._exchange is not None:
                self._exchange.cancel()

    def _chosen(self, names: list[str]) -> str:
        if self.server.model:
            return self.server.model
        if len(names) != 1:
            listed = f': {", ".join(names)}' if names else ''
            raise UserError(f'{self.server.base} lists {len(names)} models{listed}; add '
                            'model=NAME to the URL')
        return names[0]

    def _question(self, history: History) -> dict:
        if self._instruction is None:
            raise UserError('there is no instruction yet; call reset first')
        card = self.card
        card.check_history(history)
        images = iter(self._images(*history.sample(card.sampler)))
        blocks = card.template.blocks(
            self._instruction, len(self._encoded) - 1, card.action_set, card.horizon
        )
        content = [next(images) if block['type'] == 'image' else block for block in blocks]
        question = {
            'model': self._model, 'messages': [{'role': 'user', 'content': content}],
            'temperature': 0,
            # no token is shorter than a character
            'max_tokens': card.horizon * max(
                len(SEPARATOR + phrase) for phrase in card.action_set.phrases),
        }
        if self._logit_bias:
            question['logit_bias'] = self._logit_bias
        return question

    def _images(self, indices, frames) -> list[dict]:
        """Content blocks of the frames; those of the last decision are not encoded again."""
        kept, self._encoded = self._encoded, {}
        for index, frame in zip(indices, frames):
            known = kept.get(index)
            self._encoded[index] = known if known and known[0] is frame \
                else (frame, self._image(np.zeros_like(frame) if self.card.blind else frame))
        return [block for _, block in self._encoded.values()]

    def _image(self, frame) -> dict:
        options = [cv2.IMWRITE_JPEG_QUALITY, self.server.jpeg_quality] \
            if self.server.image == 'jpeg' else []
        _, data = cv2.imencode(f'.{self.server.image}', frame[:, :, ::-1], options)
        text = base64.b64encode(data).decode('ascii')
        return {'type': 'image_url',
                'image_url': {'url': f'data:image/{self.server.image};base64,{text}'}}

    def _ask(self, question, ends_s) -> Reply:
        """The server's reply to a question, constrained if it can be."""
        if self._structured:
            reply = self._send({**question, 'structured_outputs': {'regex': self._answer}}, ends_s)
            if reply.status not in (400, 422) or b'structured_outputs' not in reply.body:
                return self._accepted(reply)
            self._structured = False
        return self._accepted(self._send(question, ends_s))

    def _send(self, body, ends_s) -> Reply:
        with self._lock:
            self._exchange = self.server.send('/chat/completions', body)
        try:
            return self.server.receive(self._exchange, ends_s - time.monotonic())
        except Cancelled:
            raise UserError('the question was given up for another one') from None
        finally:
            with self._lock:
                self._exchange = None

    def _accepted(self, reply) -> Reply:
        self.server.check_key(reply)
        if reply.status in NOT_NOW:
            raise Unavailable(f'{self.server.base} answered {_complaint(reply)}')
        if reply.status != 200:
            raise UserError(f'{self.server.base} refused the question: {_complaint(reply)}')
        return reply

    def _decode(self, reply) -> list[Action]:
        try:
            text = json.loads(reply.body)['choices'][0]['message']['content']
        except (ValueError, KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise UserError(f'no chat completion: {_start(reply.body)!r}')
        if not re.fullmatch(self._answer, text.strip()):
            raise UserError(f'{_start(text.encode())!r} is not {self.card.horizon} actions of '
                            f'{", ".join(self.card.action_set.phrases)}')
        return self.card.action_set.decode(text)


def answer_regex(action_set: ActionSet, horizon: int) -> str:
    """All answers of `horizon` actions, and nothing else; once stop is chosen the rest is stop.

    Without what the regular expressions of some servers lack: groups that do not capture, an
    escaped space.
    """
    phrases = [re.escape(phrase).replace(r'\ ', ' ') for phrase in action_set.phrases]
    stop = phrases.pop(OPTION_ORDER.index(Action.STOP))
    move = f'({"|".join(phrases)})'

    def more(text, count):
        return f'({SEPARATOR}{text}){{{count}}}' if count else ''

    answers = [move + more(move, moves - 1) + more(stop, horizon - moves)
               for moves in range(horizon, 0, -1)]
    return '|'.join(f'({answer})' for answer in [*answers, stop + more(stop, horizon - 1)])


def stop_bias_of(card: NavigationCard, folder: str | Path) -> dict[str, float]:
    """The card's stop_bias as `logit_bias`: the tokens by which an answer decides for stop.

    They are where the stop phrase parts from the others, at the beginning of an answer and behind
    a separator. Raises UserError if the tokenizer is needed and not there.
    """
    if not card.stop_bias:
        return {}
    path = Path(folder) / 'tokenizer.json'
    if not path.is_file():
        raise UserError(f'the card has a stop_bias, for which {path} is needed; copy it from the '
                        'checkpoint')
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    biased = set()
    for before in ('', SEPARATOR):
        tokens = {action: tokenizer.encode(before + card.action_set.phrase(action),
                                           add_special_tokens=False).ids for action in Action}
        stop = tokens.pop(Action.STOP)
        shared = max(len(os.path.commonprefix([stop, other])) for other in tokens.values())
        biased.add(stop[shared])
    return {str(token): card.stop_bias for token in sorted(biased)}


def _start(data: bytes, characters: int = 160) -> str:
    """The beginning of what a server sent, on one line."""
    text = ' '.join(data[:4 * characters].decode('utf-8', 'replace').split())
    return text if len(text) <= characters else text[:characters] + '...'


def _complaint(reply: Reply) -> str:
    """Status and message of an error reply."""
    try:
        said = json.loads(reply.body)
        said = said.get('error') or said.get('detail') or said
        text = str(said.get('message', said) if isinstance(said, dict) else said)
    except (ValueError, AttributeError):
        text = reply.body.decode('utf-8', 'replace')
    return f'{reply.status} {_start(text.encode())}'.strip()
