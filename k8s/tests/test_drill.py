"""The kubelet drill: a rollout of both tiers that nobody notices; and one that somebody does, for each mistake."""

import asyncio
import contextlib
import subprocess
import statistics

import pytest

from crowd import Crowd
from kubelet import Noticed, World, free_port
from manifests import TIERS, load
from mutations import MUTATIONS

SECRETS = {
    "jwt-secret": "a secret of the drill, thirty-two bytes",
    "link-token": "link-token",
    "api-keys": "backend:api-key",
    "redis-password": "redis-password",
}


@contextlib.asynccontextmanager
async def redis():
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", SECRETS["redis-password"]]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def backend():
    """Lets everybody in."""

    async def answer(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"allowed":true}')
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def drill(cluster, clients, directory, patience):
    """Two pods of each tier, as the autoscaler has at least, all replaced. Raises what was noticed first."""
    async with redis() as store, backend() as judge:
        world = World(cluster, directory, store, judge, SECRETS, patience)
        crowd = Crowd(world, clients)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(world.watch())
                for tier in reversed(TIERS):
                    await asyncio.gather(world.start(tier), world.start(tier))
                tasks = [watch, *(group.create_task(client.run()) for client in crowd.clients)]
                async with asyncio.timeout(60):
                    for client in crowd.clients:
                        await client.joined.wait()
                tasks.append(group.create_task(crowd.visit()))
                publishing = group.create_task(crowd.publish())
                for tier in TIERS:
                    await world.roll_out(tier)
                publishing.cancel()
                await crowd.settled()
                for task in tasks:
                    task.cancel()
        except* Noticed as noticed:
            raise noticed.exceptions[0] from None
        finally:
            world.end()
        return crowd


def test_nobody_notices_a_rollout(tmp_path):
    crowd = asyncio.run(drill(load("prod"), 500, tmp_path, 30))
    assert all(client.moves >= 1 for client in crowd.clients)
    assert sum(crowd.heads.values()) > 500
    offline = statistics.quantiles(crowd.offline, n=100)
    print(f"{len(crowd.offline)} moves; offline p50 {offline[49] * 1000:.0f} ms, p99 {offline[98] * 1000:.0f} ms; "
          f"{sum(crowd.heads.values())} publications")  # fmt: skip


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.drill], ids=lambda mutation: mutation.what)
def test_mistakes_are_noticed(mutation, tmp_path):
    with pytest.raises(Noticed, match=mutation.drill):
        asyncio.run(drill(mutation.apply(load("prod")), 50, tmp_path, 10))
