"""Clients and a backend that notice everything: each message once, in order, no refusal, no close but the announced one."""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import random
import time

import websockets
from websockets.asyncio.client import connect

from kubelet import Noticed, http

# How often the backend publishes, in all, and new visitors come; a second.
PUBLICATIONS, VISITORS = 20, 20
# Clients that connect at once at the start.
OPENING = 20
PATIENCE = 15


def token(secret, user, **more):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"sub": user, "exp": int(time.time()) + 3600} | more
    signed = b".".join(part(json.dumps(value).encode()) for value in [{"alg": "HS256", "typ": "JWT"}, claims])
    return (signed + b"." + part(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


class Crowd:
    """Clients in rooms, visitors that come and go, a backend that publishes into the rooms by key."""

    def __init__(self, world, clients):
        self.world, self.heads, self.offline = world, {}, []
        self.clients = [Client(self, f"u{n}", f"room-{n % max(1, clients // 10)}") for n in range(clients)]
        self.gate = asyncio.Semaphore(OPENING)

    async def open(self, user):
        """A socket through the Service, as clients get one. Nobody may be sent away."""
        try:
            port = self.world.endpoint("edge")
            bearer = token(self.world.secrets["jwt-secret"], user)
            subprotocols = ["realtime.v1", f"bearer.{bearer}"]
            # Pings would answer for a server that has stopped to.
            return await connect(
                f"ws://127.0.0.1:{port}/ws?auto_join=false", subprotocols=subprotocols, ping_interval=None,
                compression=None, open_timeout=PATIENCE, close_timeout=PATIENCE, proxy=None,
            )  # fmt: skip
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            raise Noticed(f"{user} cannot connect: {error!r}") from error

    async def visit(self):
        for number in itertools.count():
            socket = await self.open(f"v{number}")
            await socket.close()
            await asyncio.sleep(random.expovariate(VISITORS))

    async def publish(self):
        """Until cancelled. Each publication must be stored at the first try."""
        key = self.world.secrets["api-keys"].split(":")[1]
        rooms = itertools.cycle(sorted({client.room for client in self.clients}))
        for number, room in enumerate(rooms):
            body = json.dumps({"body": {"n": number}, "key": str(number)}).encode()
            request = f"POST /v1/rooms/{room}/publications"
            try:
                status, answer = await http(self.world.endpoint("fanout"), request, body, key, PATIENCE)
            except (OSError, TimeoutError) as error:
                raise Noticed(f"the backend cannot publish: {error!r}") from error
            if status != 200:
                raise Noticed(f"the backend cannot publish: {status} {answer!r}")
            self.heads[room] = json.loads(answer)["seq"]
            await asyncio.sleep(1 / PUBLICATIONS)

    async def settled(self):
        """Everybody has everything."""
        limit = time.monotonic() + PATIENCE
        while behind := [client for client in self.clients if client.seq < self.heads.get(client.room, 0)]:
            if time.monotonic() > limit:
                raise Noticed(f"{len(behind)} clients lack messages, such as {behind[0]}")
            await asyncio.sleep(0.05)


class Client:
    def __init__(self, crowd, user, room):
        self.crowd, self.user, self.room = crowd, user, room
        self.epoch, self.seq, self.moves = None, None, 0
        self.joined = asyncio.Event()

    def __repr__(self):
        return f"{self.user} at {self.seq} of {self.crowd.heads.get(self.room)} in {self.room}"

    async def run(self):
        left = None
        while True:
            async with self.crowd.gate:
                socket = await self.crowd.open(self.user)
                await self.join(socket)
            if left:
                self.crowd.offline.append(time.monotonic() - left)
            await self.listen(socket)
            self.moves, left = self.moves + 1, time.monotonic()

    async def join(self, socket):
        payload = {"room": self.room} | ({"since": {"epoch": self.epoch, "seq": self.seq}} if self.epoch is not None else {})
        await socket.send(json.dumps({"type": "join", "id": "j", "payload": payload}))
        async with asyncio.timeout(PATIENCE):
            while (message := json.loads(await socket.recv()))["type"] != "joined":
                self.take(message)
        answer = message["payload"]
        if self.epoch is None:
            self.epoch, self.seq = answer["epoch"], answer["seq"]
        elif not answer["recovered"]:
            raise Noticed(f"{self} was not recovered: {answer}")
        self.joined.set()

    async def listen(self, socket):
        """Until the socket is closed, which must be announced."""
        announced = False
        try:
            async for text in socket:
                message = json.loads(text)
                announced |= message["type"] == "reconnect"
                self.take(message)
        except websockets.ConnectionClosed:
            pass
        if not announced or socket.close_code != 1012:
            raise Noticed(f"{self} was cut off: {socket.close_code} {socket.close_reason}, announced: {announced}")

    def take(self, message):
        if message["type"] == "message":
            # A room's first publication gives it its epoch.
            self.epoch = self.epoch or message.get("epoch")
            if message["seq"] != self.seq + 1 or message.get("epoch", self.epoch) != self.epoch:
                raise Noticed(f"{self} got {message}")
            self.seq += 1
        elif message["type"] not in ("welcome", "reconnect"):
            raise Noticed(f"{self} was told {message}")
