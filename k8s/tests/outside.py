"""What is outside of our manifests: Redis, a backend, the contents of secrets."""

import asyncio
import contextlib
import subprocess

from kubelet import free_port

SECRETS = {
    "jwt-secret": "a secret of the drill, thirty-two bytes",
    "link-token": "link-token",
    "api-keys": "backend:api-key",
    "redis-password": "redis-password",
}


@contextlib.asynccontextmanager
async def redis():
    port = free_port()
    command = f"redis-server --port {port} --bind 127.0.0.1 --requirepass {SECRETS['redis-password']} --save".split()
    process = await asyncio.create_subprocess_exec(*command, "", stdout=subprocess.DEVNULL)
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


def backend():
    """Lets everybody in."""
    return answering('{"allowed":true}')


def issuer():
    """Of tokens; the key is that of RFC 8037, appendix A.2."""
    key = '{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    return answering(f'{{"keys":[{key}]}}')


@contextlib.asynccontextmanager
async def answering(body):
    """An HTTP server with one answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    async def answer(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write((head + body).encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
