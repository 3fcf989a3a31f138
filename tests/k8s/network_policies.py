"""What NetworkPolicies mean, as far as ours go: may one pod open a connection to another's port?

A pod that no policy of a direction selects may do everything in that direction; one that is selected may do what any
of those policies allows. A connection needs the consent of its source (egress) and of its target (ingress).
"""

import ipaddress
from collections.abc import Iterable
from typing import Any, NamedTuple

Policy = dict[str, Any]


class Peer(NamedTuple):
    """One end of a connection: a pod, or an address outside the cluster."""

    name: str
    namespace: str | None
    labels: dict[str, str]
    address: str = "10.0.0.1"

    @property
    def namespace_labels(self) -> dict[str, str]:
        return {"kubernetes.io/metadata.name": self.namespace or ""}


def may_reach(policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    policies = list(policies)
    leaves = _allows(policies, source, target, port, protocol, "Egress")
    return leaves and _allows(policies, target, source, port, protocol, "Ingress")


def _allows(policies: list[Policy], pod: Peer, other: Peer, port: int, protocol: str, direction: str) -> bool:
    """Whether the policies around `pod` let the connection through. Args: port: the target's, in both directions."""
    if pod.namespace is None:
        return True
    mine = [policy for policy in policies if _is_about(policy, pod, direction)]
    peers, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    return not mine or any(
        _fits(rule, peers, other, policy["metadata"]["namespace"]) and _opens(rule, port, protocol)
        for policy in mine
        for rule in policy["spec"].get(rules) or []
    )


def _is_about(policy: Policy, pod: Peer, direction: str) -> bool:
    spec = policy["spec"]
    return policy["metadata"]["namespace"] == pod.namespace and direction in spec["policyTypes"] and selects(spec["podSelector"], pod.labels)


def _opens(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports") or []
    return not ports or any(each.get("protocol", "TCP") == protocol and each["port"] <= port <= each.get("endPort", each["port"]) for each in ports)


def _fits(rule: dict[str, Any], peers: str, other: Peer, namespace: str) -> bool:
    listed = rule.get(peers) or []
    return not listed or any(_is_peer(each, other, namespace) for each in listed)


def _is_peer(listed: dict[str, Any], other: Peer, namespace: str) -> bool:
    """The most generous reading: some networks hold a block to name pods too, by their addresses."""
    if "ipBlock" in listed:
        address = ipaddress.ip_address(other.address)
        block = listed["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(address in ipaddress.ip_network(each) for each in block.get("except", []))
    if other.namespace is None:
        return False
    if "namespaceSelector" in listed:
        is_there = selects(listed["namespaceSelector"], other.namespace_labels)
    else:
        is_there = other.namespace == namespace
    return is_there and selects(listed.get("podSelector", {}), other.labels)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_holds(each, labels) for each in selector.get("matchExpressions") or [])


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression["operator"])
