"""README's ways to publish from a backend, run as they are written there, against a real fanout node. Only the address is
another, as the usual port may be taken."""

import json
import os
import pathlib
import re
import subprocess
import time
import urllib.request

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
BINARIES = pathlib.Path(os.environ.get("ESPIGON_BIN", ROOT / "target" / "debug"))
ADDRESS = "127.0.0.1:7100"
PATIENCE = 20

SECTION = (ROOT / "README.md").read_text().split("\n## Publishing\n")[1].split("\n## ")[0]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


CURL, PYTHON_SETUP, NODE_SETUP, REMOVE = blocks("sh")
[PYTHON] = blocks("python")
[NODE] = blocks("js")


@pytest.fixture(name="api")
def fanout(tmp_path):
    """A node with the key that README shows; where it is. Nothing is kept after it."""
    log = tmp_path / "fanout.log"
    environment = {name: ":0" for name in ["API_LISTEN", "LINK_LISTEN", "OPS_LISTEN"]}
    environment |= {"API_KEYS": "shop:s3cret", "LOG_FORMAT": "json"}
    with log.open("w") as output:
        node = subprocess.Popen([BINARIES / "fanout"], env=environment, stdout=output, stderr=output)
    try:
        yield listening(node, log)
    finally:
        node.terminate()
        assert node.wait(PATIENCE) == 0


def listening(node, log):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and node.poll() is None:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return json.loads(line)["api"]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(name="project")
def repository(tmp_path):
    """A directory as README's reader has it: with the contract, and what was installed."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "proto").symlink_to(ROOT / "proto")
    (directory / "node_modules").symlink_to(HERE / "node_modules")
    return directory


def run(command, directory, api):
    """What it prints, in a shell that has the pinned packages."""
    assert re.search(r"127[\d.:]+", command + PYTHON + NODE)[0] == ADDRESS
    environment = {"PATH": f"{HERE / '.venv' / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", command.replace(ADDRESS, api)],
        cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def published(api):
    """The only publication of the room."""
    request = urllib.request.Request(f"http://{api}/v1/rooms/order-42/publications")
    request.add_header("authorization", "Bearer s3cret")
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        [publication] = json.load(response)["publications"]
    return {name: publication[name] for name in ["seq", "from", "key", "body"]}


STORED = {"seq": 1, "from": "@shop", "key": "order-42-shipped", "body": {"status": "shipped"}}


def test_with_curl(project, api):
    answer = json.loads(run(CURL, project, api))
    assert (answer["seq"], answer["duplicate"]) == (1, False)
    assert json.loads(run(CURL, project, api))["duplicate"], "a repeat is stored once"
    assert published(api) == STORED


def test_removing_a_user(project, api):
    assert run(REMOVE, project, api) == "{}"


def test_with_python(project, api):
    install, generate = PYTHON_SETUP.splitlines()
    pinned = (HERE / "requirements.txt").read_text()
    assert install.split()[:2] == ["pip", "install"]
    assert all(f"{name}==" in pinned for name in install.split()[2:])
    run(generate, project, api)
    (project / "publish.py").write_text(PYTHON.replace(ADDRESS, api))
    assert run("python publish.py", project, api) == "stored as 1\n"
    assert published(api) == STORED


def test_with_node(project, api):
    [install] = NODE_SETUP.splitlines()
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert install.split()[:2] == ["npm", "install"]
    assert set(install.split()[2:]) == set(pinned)
    (project / "publish.mjs").write_text(NODE.replace(ADDRESS, api))
    assert run("node publish.mjs", project, api) == "stored as 1\n"
    assert published(api) == STORED


@pytest.mark.parametrize("program", ["publish.py", "publish.mjs"])
def test_a_key_that_is_none_is_an_error(program, project, api):
    """So that the others do not pass whatever they show."""
    if program.endswith("py"):
        run(PYTHON_SETUP.splitlines()[1], project, api)
    text = PYTHON if program.endswith("py") else NODE
    (project / program).write_text(text.replace(ADDRESS, api).replace("s3cret", "wrong"))
    with pytest.raises(AssertionError, match="no valid API key"):
        run(f"{'python' if program.endswith('py') else 'node'} {program}", project, api)
