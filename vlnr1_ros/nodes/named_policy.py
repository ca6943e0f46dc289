"""The policy that the navigator's parameters name, loaded and warm."""
from __future__ import annotations

from rclpy.node import Node

from ..navigation.actions import ActionSet
from ..navigation.card import NavigationCard
from ..policy.base import Policy
from ..policy.load import BASELINES, is_url, load_policy
from ..resources import given_or_shipped
from .expert_policy import ExpertPolicy
from .navigator_config import NavigatorConfig


def named_policy(node: Node, config: NavigatorConfig) -> Policy:
    """UserError when there is no such policy, or it cannot be used here."""
    if is_url(config.policy):
        return load_policy(config.policy)
    if config.policy != 'expert' and config.policy not in BASELINES:
        return load_policy(
            given_or_shipped(config.policy), device=config.device or None,
            dtype=config.dtype or None, compiled=config.compiled)
    card = NavigationCard(action_set=ActionSet(config.forward_m, config.turn_deg))
    if config.policy == 'expert':
        return ExpertPolicy(node, card)
    return load_policy(config.policy, card=card)
