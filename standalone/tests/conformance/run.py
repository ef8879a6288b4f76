"""Runs the published cases against a server, and says what came of each.

    run.py CASES HOST:PORT PATH [PATTERN]

Prints a line of JSON for each case: its id, what its authors call the outcome (behavior, and behavior of the close), and
why. Ends with 1 if any of them failed.
"""

import asyncio
import json
import re
import socket
import sys
import time

import cases
from peer import Peer

# Cases under way at a time; of those that send megabytes, fewer. The server takes 16.
AT_A_TIME, LARGE = 12, 2

# No case takes longer.
LIMIT = 120

GOOD = {"OK", "INFORMATIONAL"}


async def run(case, host, port, path):
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    start = time.monotonic()
    transport, peer = await loop.create_connection(lambda: Peer(case, request.encode()), host, port)
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.wait_for(asyncio.shield(peer.ended), LIMIT)
    except TimeoutError:
        peer.wrong = "it never ended"
        transport.abort()
        await peer.ended
    played = peer.case
    good = not peer.wrong and played.behavior in GOOD and played.behaviorClose in GOOD
    return good, {
        "case": case.__name__.removeprefix("Case").replace("_", "."),
        "behavior": played.behavior,
        "close": played.behaviorClose,
        "why": peer.wrong or f"{played.result} {played.resultClose}",
        "code": peer.remoteCloseCode,
        "seconds": round(time.monotonic() - start, 2),
    }


async def main(folder, address, path, pattern="."):
    host, port = address.rsplit(":", 1)
    chosen = [case for name, case in cases.load(folder).items() if re.search(pattern, name)]
    failed = False
    places = {False: asyncio.Semaphore(AT_A_TIME), True: asyncio.Semaphore(LARGE)}

    async def one(case):
        nonlocal failed
        async with places[case.__name__.startswith("Case9_")]:
            good, outcome = await run(case, host, int(port), path)
        failed |= not good
        print(json.dumps(outcome), flush=True)

    # The large ones last: what they keep busy, the others' clocks would count.
    for large in (False, True):
        await asyncio.gather(*(one(case) for case in chosen if case.__name__.startswith("Case9_") == large))
    return failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
