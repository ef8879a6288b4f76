"""Mistakes that are easily made in the manifests. Each is made alone, and must be noticed."""

import dataclasses

GONE = object()


@dataclasses.dataclass
class Mutation:
    what: str
    kind: str
    name: str
    path: str
    value: object
    # What the kubelet drill must say of it; None where only the test of meaning can see it.
    drill: str | None = None

    def apply(self, cluster):
        """A copy with the mistake in it."""
        broken = cluster.copy()
        place = broken.find(self.kind, self.name)
        *way, last = [int(step) if step.isdigit() else step for step in self.path.split("/")]
        for step in way:
            place = place[step]
        assert last in place if isinstance(place, dict) else last < len(place), f"{self.what}: nothing stands there"
        if self.value is GONE:
            del place[last]
        elif isinstance(self.value, Renamed):
            place[self.value.to] = place.pop(last)
        else:
            assert place[last] != self.value, f"{self.what}: it is so already"
            place[last] = self.value
        return broken


@dataclasses.dataclass
class Renamed:
    to: str


POD = "spec/template/spec"
CONTAINER = f"{POD}/containers/0"

MUTATIONS = [
    Mutation("another port for sockets", "Deployment", "edge", f"{CONTAINER}/ports/0/containerPort", 8081, "cannot connect"),
    Mutation("another port for probes", "Deployment", "fanout", f"{CONTAINER}/ports/2/containerPort", 9102, "never ready"),
    Mutation("another readiness path", "Deployment", "edge", f"{CONTAINER}/readinessProbe/httpGet/path", "/ready", "never ready"),
    Mutation("another liveness path", "Deployment", "edge", f"{CONTAINER}/livenessProbe/httpGet/path", "/healthz", "liveness"),
    Mutation("a name that edges do not know", "ConfigMap", "edge", "data/FANOUT_ADDR", Renamed("FANOUT_ADDRESS"), "never ready"),
    Mutation("a consent that is not given", "ConfigMap", "fanout", "data/ALLOW_PLAINTEXT", GONE, "exited with 64"),
    Mutation("a Service for other pods", "Service", "edge", "spec/selector", {"app.kubernetes.io/name": "edges"}, "cannot connect"),
    Mutation("links to other pods", "Service", "fanout-headless", "spec/selector", {"app.kubernetes.io/name": "fan"}, "never ready"),
    Mutation("links to another port", "ConfigMap", "edge", "data/FANOUT_ADDR", "dns://fanout-headless:7001", "never ready"),
    Mutation("a grace too short for edges", "Deployment", "edge", f"{POD}/terminationGracePeriodSeconds", 40, "killed|cut off"),
    Mutation("no preStop of edges", "Deployment", "edge", f"{CONTAINER}/lifecycle", GONE, "cannot connect"),
    Mutation("no preStop of fanout nodes", "Deployment", "fanout", f"{CONTAINER}/lifecycle", GONE, "cannot publish"),
    Mutation("a drain longer than the stop", "ConfigMap", "edge", "data/DRAIN_WINDOW", "70s", "exited with 64"),
    Mutation("a secret's file elsewhere", "Deployment", "edge", f"{CONTAINER}/volumeMounts/0/mountPath", "/etc/secrets", "exited with 64"),
    Mutation("the publish API's Service at another port", "Service", "fanout", "spec/ports/0/targetPort", "link", "cannot publish"),
    Mutation("a floating tag", "Deployment", "edge", f"{CONTAINER}/image", "espigon/edge:latest"),
    Mutation("another version", "Deployment", "fanout", f"{CONTAINER}/image", "espigon/fanout:0.0.9"),
    Mutation("a Deployment for other pods", "Deployment", "fanout", "spec/selector/matchLabels", {"x": "y"}),
    Mutation("spread among other pods", "Deployment", "edge", f"{POD}/topologySpreadConstraints/0/labelSelector/matchLabels", {"x": "y"}),
    Mutation("a budget for other pods", "PodDisruptionBudget", "edge", "spec/selector/matchLabels", {"x": "y"}),
    Mutation("a budget of none", "PodDisruptionBudget", "fanout", "spec/maxUnavailable", 0),
    Mutation("an autoscaler of nothing", "HorizontalPodAutoscaler", "edge", "spec/scaleTargetRef/name", "edges"),
    Mutation("replicas beside the autoscaler", "Deployment", "edge", "spec/minReadySeconds", Renamed("replicas")),
    Mutation("a metric that nobody serves", "HorizontalPodAutoscaler", "edge", "spec/metrics/0/pods/metric/name", "connections"),
    Mutation("scaling down in one go", "HorizontalPodAutoscaler", "edge", "spec/behavior/scaleDown/policies/0/type", "Percent"),
    Mutation("scaling down before the last is gone", "HorizontalPodAutoscaler", "edge", "spec/behavior/scaleDown/policies/0/periodSeconds", 60),
    Mutation("scaling up when full", "HorizontalPodAutoscaler", "edge", "spec/metrics/0/pods/target/averageValue", "19k"),
    Mutation("links only to those ready", "Service", "fanout-headless", "spec/publishNotReadyAddresses", GONE),
    Mutation("one address for all links", "Service", "fanout-headless", "spec/clusterIP", GONE),
    Mutation("readiness by life", "Deployment", "edge", f"{CONTAINER}/readinessProbe/httpGet/path", "/livez"),
    Mutation("life by readiness", "Deployment", "fanout", f"{CONTAINER}/livenessProbe/httpGet/path", "/readyz"),
    Mutation("a grace too short for fanout nodes", "Deployment", "fanout", f"{POD}/terminationGracePeriodSeconds", 54),
    Mutation("a secret in a ConfigMap", "ConfigMap", "edge", "data/LINK_TOKEN_FILE", Renamed("LINK_TOKEN")),
    Mutation("a key that the Secret has not", "Deployment", "fanout", f"{POD}/volumes/0/secret/items/0/key", "token"),
    Mutation("a listener on loopback", "ConfigMap", "fanout", "data/API_LISTEN", "127.0.0.1:7100"),
    Mutation("no store", "ConfigMap", "fanout", "data/REDIS_ADDR", GONE),
    Mutation("root", "Deployment", "edge", f"{POD}/securityContext/runAsNonRoot", False),
    Mutation("a token of the API server", "Deployment", "edge", f"{POD}/automountServiceAccountToken", GONE),
    Mutation("no limit of memory", "Deployment", "fanout", f"{CONTAINER}/resources/limits", {}),
    Mutation("any pod in the namespace", "Namespace", "espigon", "metadata/labels", {}),
    Mutation("publishing open to all", "NetworkPolicy", "fanout", "spec/ingress/1/from", GONE),
    Mutation("every port open", "NetworkPolicy", "edge", "spec/egress/0/ports", GONE),
    Mutation("links shut", "NetworkPolicy", "fanout", "spec/ingress/0/from/0/podSelector/matchLabels", {"x": "y"}),
    Mutation("Redis at another port", "NetworkPolicy", "fanout-to-redis", "spec/egress/0/ports/0/port", 6380),
    Mutation("the backend shut off", "NetworkPolicy", "edge-to-backend", "spec/egress/0/ports/0/port", 80),
    Mutation("metrics open to the namespace", "NetworkPolicy", "metrics", "spec/ingress/0/from/0/podSelector", GONE),
    Mutation("no default", "NetworkPolicy", "default-deny", "spec/policyTypes", ["Egress"]),
    Mutation("a monitor that asks elsewhere", "PodMonitor", "edge", "spec/podMetricsEndpoints/0/port", "metrics"),
]
