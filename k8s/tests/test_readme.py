"""The commands that README and OPERATIONS.md tell are ones that were checked."""

import os
import re
import subprocess

import pytest
import yaml

from manifests import BIN, OVERLAYS, ROOT, load

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
KUBECTL = [command for command in COMMANDS if command.startswith("kubectl ")]


def test_overlays_are_those_that_are_checked():
    told = re.findall(r"k8s/overlays/([\w-]+)", README + (ROOT / "OPERATIONS.md").read_text())
    assert set(told) == set(OVERLAYS) == {path.name for path in (ROOT / "k8s" / "overlays").iterdir()}


def test_what_is_applied_waited_for_and_forwarded_is_there():
    cluster, seen = None, []
    for command in KUBECTL:
        words = command.split()
        if words[1:3] == ["apply", "-k"]:
            cluster = load(words[3].split("/")[-1])
        elif "rollout" in words or "port-forward" in words:
            assert words[1:3] == ["-n", cluster.all("Namespace")[0]["metadata"]["name"]]
            kind, name = next(word for word in words if "/" in word).split("/")
            found = cluster.find(kind.capitalize(), name)
            if "port-forward" in words:
                assert int(words[-1].split(":")[1]) in [port["port"] for port in found["spec"]["ports"]]
        else:
            assert "create" in words, command
        seen.append(words)
    assert len(seen) == 7


@pytest.mark.parametrize("command", [command for command in KUBECTL if " create " in command])
def test_what_is_created_is_what_the_pods_want(command):
    """By the real client, which needs no cluster for it."""
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}"} | dict.fromkeys(["JWT_SECRET", "LINK_TOKEN", "API_KEYS", "REDIS_PASSWORD"], "x")
    run = subprocess.run(f"{command} --dry-run=client -o yaml", shell=True, env=environment, capture_output=True, text=True, check=True)
    created = yaml.safe_load(run.stdout)
    cluster = load("gateway-api")
    if created["kind"] == "Secret":
        wanted = set.union(*(set(deployment.files().values()) for deployment in cluster.deployments().values()))
        assert {(created["metadata"]["name"], key) for key in created["data"]} == wanted
    assert created["metadata"].get("namespace", created["metadata"]["name"]) == cluster.all("Namespace")[0]["metadata"]["name"]


def test_images_are_built_under_the_names_that_are_run():
    built = dict(re.findall(r"docker build --target (\w+) --tag (\S+) \.", README))
    assert built == {name: deployment.image for name, deployment in load("dev").deployments().items() if name != "redis"}
    loaded = next(command for command in COMMANDS if command.startswith("kind load"))
    assert set(loaded.split()[3:]) == set(built.values())
