"""The commands that README and OPERATIONS.md tell are ones that were checked."""

import os
import re
import subprocess

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
        elif words[1:3] == ["apply", "-f"]:
            applied = yaml.safe_load((ROOT / words[3]).read_text())
            assert load("gateway-api").find(applied["kind"], applied["metadata"]["name"])
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


def test_what_is_created_is_what_the_pods_want():
    """By the real client, which needs no cluster for it."""
    [command] = [command for command in KUBECTL if " create " in command]
    environment = dict.fromkeys(["JWT_SECRET", "LINK_TOKEN", "API_KEYS", "REDIS_PASSWORD"], "x")
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    command = ["sh", "-c", f"{command} --dry-run=client -o yaml"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    created = yaml.safe_load(run.stdout)
    cluster = load("gateway-api")
    wanted = set.union(*(set(deployment.files().values()) for deployment in cluster.deployments().values()))
    assert {(created["metadata"]["name"], key) for key in created["data"]} == wanted
    assert created["metadata"]["namespace"] == cluster.all("Namespace")[0]["metadata"]["name"]



def test_images_are_built_under_the_names_that_are_run():
    built = dict(re.findall(r"docker build --target (\w+) --tag (\S+) \.", README))
    assert built == {name: deployment.image for name, deployment in load("dev").deployments().items() if name != "redis"}
    loaded = next(command for command in COMMANDS if command.startswith("kind load"))
    assert set(loaded.split()[3:]) == set(built.values())
