"""The kubelet drill: a rollout of both tiers that nobody notices; and one that somebody does, for each mistake."""

import asyncio
import statistics

import pytest

from crowd import Crowd
from kubelet import Noticed, World
from manifests import TIERS, load
from mutations import MUTATIONS
from outside import SECRETS, backend, redis

async def drill(cluster, clients, directory, patience, tiers=TIERS):
    """Two pods of each tier, as the autoscaler has at least; those of some replaced. Raises what was noticed first."""
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
                for tier in tiers:
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
        asyncio.run(drill(mutation.apply(load("prod")), 50, tmp_path, 8, [mutation.name.split("-")[0]]))
