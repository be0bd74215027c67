"""MoELayer: routes one layer's call through the policy. Shape letters: T tokens, E experts, K top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.delivery import LocalShipment, Shipment, UntouchedShipment
from evenmoe.models.features import feature_entropy
from evenmoe.models.packing import Pairs, chosen_experts, dense_weights, kept_pairs
from evenmoe.models.probe import Confirmation, settle
from evenmoe.models.routers import Routing
from evenmoe.models.scores import ScoreRule
from evenmoe.models.session import LayerStep, Session
from evenmoe.models.sites import Site
from evenmoe.models.stopwatch import Stopwatch
from evenmoe.models.tokens import Tokens
from evenmoe.routing import RoutingContext, device_of_pair


class MoELayer:
    """One site with its score rule, within a session. The hooks of every kind of layer call `route`."""

    def __init__(self, index: int, site: Site, confirmation: Confirmation, session: Session) -> None:
        self.index, self.site, self.session = index, site, session
        self.subset: Tensor | None = None
        """Indices of the tokens that reach this layer, where not all do."""
        self._confirmation = confirmation

    @property
    def rule(self) -> ScoreRule | None:
        """The score rule in force; None where the weights are no known function of the logits."""
        return self._confirmation.rule

    @property
    def checked(self) -> bool:
        """Whether the rule has been checked against the router."""
        return self._confirmation.checked

    @property
    def stopwatch(self) -> Stopwatch:
        """What listens to this layer's phases."""
        return self.session.stopwatch

    def ship(self, routing: Routing, call: tuple[Tensor, Tensor, Tensor]) -> Shipment:
        """Return the experts' call, given as (hidden, experts, weights), as it is to be made instead."""
        pairs = self.route(routing, call[0])
        if pairs is None:
            self.stopwatch.mark("policy")
            return UntouchedShipment(call)
        hidden, parallel = call[0], self.session.parallel
        if parallel is None:
            self.stopwatch.mark("policy")
            return LocalShipment(hidden, pairs, self.stopwatch)
        num_tokens = routing.index_TK.shape[0]
        tokens = self.session.tokens(num_tokens, self.subset, hidden.device)
        device_P = device_of_pair(
            self.session.context(self.index, tokens),
            pairs.token_P,
            pairs.expert_P,
            num_tokens,
            self.site.num_experts,
        )
        self.stopwatch.mark("policy")
        return parallel.deliver(self.index, hidden, pairs, device_P, self.stopwatch)

    def route(self, routing: Routing, hidden: Tensor) -> Pairs | None:
        """Return the pairs that run, or None if the call is to pass untouched. Counts it either way.

        hidden [..., H] are the tokens' features, which some policies look at. Where experts are shared out over
        processes, no call passes untouched.
        """
        site, is_parallel = self.site, self.session.parallel is not None
        index_TK, weight_TK = routing.index_TK, routing.weight_TK
        with torch.no_grad():
            self._check_rule(routing)
            tokens = self.session.tokens(index_TK.shape[0], self.subset, index_TK.device)
            if tokens.num_real == 0 and not is_parallel:
                return None
            used_TK = weight_TK != 0 if site.kind == "zaya" else None
            all_chosen_TE = chosen_experts(index_TK, used_TK, site.num_experts + site.num_free_experts)
        weight_TE = dense_weights(index_TK, weight_TK, site.num_experts + site.num_free_experts)
        scores_TE = self._scores(routing.logits_TE, weight_TE)
        with torch.no_grad():
            real_chosen_TE = (
                all_chosen_TE if tokens.real_T is None else all_chosen_TE & tokens.real_T[:, None]
            )
            free_TE = real_chosen_TE[:, site.num_experts :]
            chosen_TE = real_chosen_TE[:, : site.num_experts]
            expert_scores_TE = scores_TE.detach()[:, : site.num_experts]
            acted_TE = self._acted(expert_scores_TE, chosen_TE, tokens, hidden)
            kept_TE = self._settled(acted_TE, expert_scores_TE, chosen_TE, free_TE, tokens)
            if not is_parallel and (kept_TE is chosen_TE or torch.equal(kept_TE, chosen_TE)):
                return None
            kept_TE = torch.cat([kept_TE, free_TE], dim=1)
        return kept_pairs(kept_TE, real_chosen_TE, weight_TE, scores_TE, self.rule)

    def _settled(
        self, acted_TE: Tensor | None, scores_TE: Tensor, chosen_TE: Tensor, free_TE: Tensor, tokens: Tokens
    ) -> Tensor:
        """Return [T, E]: the pairs of real tokens that run, given what the policy keeps; record and show them."""
        session, site = self.session, self.site
        applied = acted_TE is not None
        kept_TE = chosen_TE
        if acted_TE is not None:
            kept_TE = acted_TE
            if site.kind == "zaya":  # a token that skips the experts is given none
                kept_TE = kept_TE & chosen_TE.any(1, keepdim=True)
        session.recorder.layer(self.index, chosen_TE.device).add(
            chosen_TE=chosen_TE,
            kept_TE=kept_TE,
            free_T=free_TE.any(1) if site.num_free_experts else None,
            real_T=tokens.real_T,
            scores_TE=scores_TE,
            group_T=tokens.group_T,
            num_groups=session.recorder.num_groups,
        )
        if session.observers:
            step = LayerStep(
                layer=self.index,
                name=site.name,
                scores_TE=scores_TE,
                chosen_TE=chosen_TE,
                kept_TE=kept_TE,
                tokens=tokens,
                applied=applied,
            )
            for observer in tuple(session.observers):
                observer(step)
        return kept_TE

    def _acted(self, scores_TE: Tensor, chosen_TE: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor | None:
        """Return [T, E]: what runs by the policy's decision; None if it lets the call pass.

        Tokens that the policy is not about keep their experts and take no room.
        """
        acting = self.session.acting(tokens, self.site.num_experts, self.site.top_k)
        if acting is tokens:
            return self._kept(scores_TE, chosen_TE, tokens, hidden)
        assert acting.real_T is not None
        acting_TE = acting.real_T[:, None]
        kept_TE = self._kept(scores_TE, chosen_TE & acting_TE, acting, hidden)
        return None if kept_TE is None else torch.where(acting_TE, kept_TE, chosen_TE)

    def _kept(self, scores_TE: Tensor, chosen_TE: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor | None:
        """Return [T, E]: what the policy keeps of these real tokens' pairs; None if it lets them pass."""
        session, site = self.session, self.site

        def context() -> RoutingContext:
            entropy_T = feature_entropy(hidden) if session.policy.needs_entropy else None
            return session.context(self.index, tokens, entropy_T)

        def applies(decode: bool, num_tokens: int) -> bool:
            return session.applies(decode, num_tokens, site.num_experts, site.top_k)

        if session.parallel is None:
            if not applies(tokens.decode, tokens.num_real):
                return None
            return session.policy.keep(scores_TE, chosen_TE, context())
        return session.parallel.keep(
            session.policy,
            scores_TE,
            chosen_TE,
            context(),
            decode=tokens.decode,
            applies=applies,
        )

    def _scores(self, logits_TE: Tensor, weight_TE: Tensor) -> Tensor:
        """Return the scores of all experts in float32: the router's weights where no rule is known."""
        if self.rule is None:
            return weight_TE.float()
        return self.rule.scores(logits_TE)[:, : weight_TE.shape[1]]

    def _check_rule(self, routing: Routing) -> None:
        if self._confirmation.checked:
            return
        rule = settle(self._confirmation.rule, routing)
        self._confirmation = Confirmation(rule, checked=True)
        if rule is None and self.session.policy.needs_true_scores:
            raise unconfirmed(self.site, self.session.policy.name)


def unconfirmed(site: Site, policy: str) -> UnsupportedModelError:
    """Return the error for a policy that needs the scores of all experts where they cannot be told."""
    return UnsupportedModelError(
        f"{policy} needs the router's score of every expert, but the weights of {site.name} ({site.architecture}) are "
        "no known function of its logits. Token Drop, Expert Drop and Baseline work on this model."
    )
