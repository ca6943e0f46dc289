"""The ways to decide that `vlnr1 bench decide` holds side by side, on one model."""
from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Callable

import numpy as np
import torch

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.fast import FastPolicy
from vlnr1_ros.policy.frame_features import FrameFeatures
from vlnr1_ros.policy.lvlm import LvlmPolicy
from vlnr1_ros.policy.prompt_rows import PromptRows

PLAIN, FAST, FLOOR = 'plain generate', '+ last plan as draft: all steps', 'floor'
ACCEPTED, REFUSED = 'all steps, drafts all accepted', 'all steps, drafts all refused'


@dataclass
class Variant:
    """One way to decide. plan: (policy, history, what plain decided) -> actions, None of the
    floor. seconds and plans: of every decision.
    """

    name: str
    policy: FastPolicy
    plan: Callable[[FastPolicy, History, list[Action]], list[Action] | None]
    seconds: list[float] = field(default_factory=list)
    plans: list[list[Action] | None] = field(default_factory=list)


class TokenByToken(PromptRows):
    """Feeds an answer as plain decoding does: a token at a time."""

    def feed(self, new):
        """As PromptRows.feed, for a single row."""
        pieces = new[0]
        if len(pieces) > 1 or not self._pieces[0]:
            return super().feed(new)
        return torch.cat([super(TokenByToken, self).feed({0: [(token,)]})
                          for token in pieces[0]], dim=1)


def clone(policy: FastPolicy) -> FastPolicy:
    """The same model with caches of its own."""
    other = copy.copy(policy)
    other.begin(1)
    return other


def variants(policy: FastPolicy) -> list[Variant]:
    """Plain first, then each step added to the ones before, then what bounds them."""
    def one_by_one(keep):
        other = clone(policy)
        other.prompts = TokenByToken(other.model, 1)
        other.drafts = lambda histories: None
        return other, plan_keeping if keep else plan_anew

    forced = clone(policy)
    forced.drafts = lambda histories: None
    return [
        Variant(PLAIN, clone(policy), lambda p, history, _: LvlmPolicy.plan(p, history)),
        Variant('+ frames encoded once', *one_by_one(keep=False)),
        Variant("+ prefix's keys kept", *one_by_one(keep=True)),
        Variant('+ forced text in one pass', forced, plan_keeping),
        Variant(FAST, clone(policy), plan_keeping),
        Variant(ACCEPTED, clone(policy), plan_drafted),
        Variant(REFUSED, clone(policy), plan_refused),
        Variant(FLOOR, clone(policy), Floor()),
    ]


def plan_keeping(policy, history, plain):
    """With all that is kept."""
    return policy.plan(history)


def plan_anew(policy, history, plain):
    """Without the keys of the last prompt."""
    policy.prompts.cut_to(0, [])
    return policy.plan(history)


def plan_drafted(policy, history, plain):
    """With a draft that is right."""
    policy.episodes[0].plan, policy.episodes[0].frames = plain, len(history)
    return policy.plan(history)


def plan_refused(policy, history, plain):
    """With a draft whose first action is wrong."""
    wrong = Action.TURN_LEFT if plain[0] != Action.TURN_LEFT else Action.MOVE_FORWARD
    policy.episodes[0].plan = [wrong] * len(plain)
    policy.episodes[0].frames = len(history)
    return policy.plan(history)


class Floor:
    """What cannot be left out: the new frames encoded in one batch, one forward pass over their
    tokens, and one over a single token per action that no accepted draft covers.

    New are the frames whose place in the prompt nothing was computed for, hence all behind the
    first change when the history is rebuilt. Drafts are the rest of the last plan.
    """

    @torch.inference_mode()
    def __call__(self, policy, history, plain):
        """One decision's worth of work, with no result."""
        [draft] = policy.drafts({0: history}).values()
        [pieces] = policy._prompts({0: history}).values()
        rows = policy.prompts
        frames = [piece for piece in pieces if isinstance(piece, FrameFeatures)]
        rows.feed({0: rows.cut_to(0, [pieces[0], *frames])})
        for _ in range(uncovered(draft, plain)):
            hidden = rows.feed({0: [(policy.grammar.end,)]})
            policy.model.lm_head(hidden[:, -1]).argmax().item()
        policy.episodes[0].plan, policy.episodes[0].frames = plain, len(history)


def uncovered(draft: list[Action], plan: list[Action]) -> int:
    """Choices of a plan that remain when it is drafted; nothing is chosen behind a stop."""
    choices = plan.index(Action.STOP) + 1 if Action.STOP in plan else len(plan)
    agreed = next((i for i, (a, b) in enumerate(zip(draft, plan)) if a != b),
                  min(len(draft), len(plan)))
    return max(0, choices - agreed)


def gap(policy: LvlmPolicy, history: History, plan: list[Action], other: list[Action]) -> float:
    """How close the plain way was to the other choice where two plans part.

    The difference of the two best scores there, from one whole forward pass.
    """
    first, second = (policy.grammar.tokens_of(actions) for actions in (plan, other))
    parting = next(i for i, (a, b) in enumerate(zip(first, second)) if a != b)
    begun = policy.grammar.begin(first[:parting])
    inputs = dict(policy.inputs(history))
    tail = torch.tensor([begun.tokens], dtype=torch.long, device=policy.device)
    inputs['input_ids'] = torch.cat([inputs['input_ids'], tail], 1)
    inputs['attention_mask'] = torch.ones_like(inputs['input_ids'])
    inputs['mm_token_type_ids'] = torch.cat([inputs['mm_token_type_ids'], 0 * tail.int()], 1)
    with torch.inference_mode():
        logits = policy.model(**inputs, logits_to_keep=1).logits[0, -1].float()
    scores = sorted(logits[token].item() + policy.card.stop_bias * (token == begun.stop_token())
                    for token in begun.options())
    return float(np.diff(scores[-2:])[0])
