"""What the real binaries say of themselves."""

import functools
import os
import re
import subprocess

from manifests import ROOT

BINARIES = os.environ.get("BINARIES", ROOT / "target" / "debug")


def path(tier):
    return f"{BINARIES}/{tier}"


def run(tier, *arguments, environment=None):
    command = [path(tier), *arguments]
    return subprocess.run(command, env=environment or {}, capture_output=True, text=True, check=False, timeout=30)


@functools.cache
def settings(tier):
    """Names of all environment variables that a tier reads: those of `--help`, and the secrets of README's table."""
    names = set(re.findall(r"\[env: (\w+)=", run(tier, "--help").stdout))
    assert len(names) > 10
    readme = (ROOT / "README.md").read_text()
    title = {"edge": "Of an edge:", "fanout": "Of a fanout node:"}[tier]
    table = readme.split(f"\n{title}\n")[1].split("\n\n")[0]
    secrets = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) - names
    assert secrets
    return names | secrets | {f"{name}_FILE" for name in secrets}
