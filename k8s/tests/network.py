"""The ways that NetworkPolicies open, as plain tuples."""

from manifests import selects

ANYONE = "anyone"


def ways(cluster):
    """All of them: ("in", from, to, port) and ("out", from, to, port), ends being Deployments or described peers."""
    opened = set()
    for policy in cluster.all("NetworkPolicy"):
        spec = policy["spec"]
        for deployment in cluster.selected(spec["podSelector"]):
            for rule in spec.get("ingress", []):
                for peer in peers(cluster, rule.get("from")):
                    opened.update(("in", peer, deployment.name, number(deployment, port)) for port in ports(rule))
            for rule in spec.get("egress", []):
                for peer in peers(cluster, rule.get("to")):
                    opened.update(("out", deployment.name, peer, port["port"]) for port in ports(rule))
    return opened


def peers(cluster, entries):
    if not entries:
        return {ANYONE}
    found = set()
    for entry in entries:
        if set(entry) == {"podSelector"}:
            # Of the policy's own namespace, where we know who is there.
            found.update(d.name for d in cluster.deployments().values() if selects(entry["podSelector"], d.labels))
        elif set(entry) == {"podSelector", "namespaceSelector"}:
            found.add(f"{labels(entry['namespaceSelector'])}/{labels(entry['podSelector'])}")
        else:
            found.add(str(entry))
    return found or {"nobody"}


def labels(selector):
    return ",".join(f"{key.split('/')[-1]}={value}" for key, value in selector.get("matchLabels", {}).items()) or "any"


def ports(rule):
    return rule.get("ports") or [{"port": "every"}]


def number(deployment, port):
    return deployment.port(port["port"])
