"""The client that the cases speak through: their `self.p`. It sends what it is told, be it right or wrong, and is strict
with what it gets. Strings are bytes: a character for each."""

import asyncio
import os
import struct

from cases import Protocol

# How long a good server may take on a busy machine where the cases allow seconds or less: only the bad ones take it.
PATIENCE = 20

# Codes that a server may send (RFC 6455, section 7.4, and the registry).
MAY_CLOSE_WITH = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013} | set(range(3000, 5000))

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Factory:
    isServer = False


class Peer(asyncio.Protocol, Protocol):
    factory = Factory

    def __init__(self, case, request):
        self.request = request
        self.state = self.STATE_CONNECTING
        self.connectionWasOpen = self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.remoteCloseCode = self.localCloseReason = None
        self.createWirelog = False
        self.autoFragmentSize = 0
        self.txFrameStats = {}
        self.read = bytearray()
        self.message = None
        self.timers = []
        # What the server did against the RFC.
        self.wrong = None
        self.ended = asyncio.get_running_loop().create_future()
        self.case = case(self)

    # What happens to the socket.

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.read += data
        try:
            if self.state == self.STATE_CONNECTING and not self.opened():
                return
            while self.state != self.STATE_CLOSED and (frame := self.next_frame()):
                self.received(*frame)
        except Wrong as wrong:
            self.wrong = str(wrong)
            self.transport.abort()

    def connection_lost(self, _):
        self.state = self.STATE_CLOSED
        for timer in self.timers:
            timer.cancel()
        self.case.onConnectionLost(self.failedByMe)
        self.ended.set_result(None)

    def opened(self):
        head, end, rest = self.read.partition(b"\r\n\r\n")
        if not end:
            return False
        check(head.startswith(b"HTTP/1.1 101 "), f"no upgrade: {head[:80]}")
        for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="]:
            check(line.encode() in head.lower(), f"no {line}")
        self.read = rest
        self.state, self.connectionWasOpen = self.STATE_OPEN, True
        self.case.onOpen()
        return True

    def next_frame(self):
        if len(self.read) < 2:
            return None
        first, length = self.read[0], self.read[1]
        check(first & 0x70 == 0, "reserved bits")
        check(length < 128, "a masked frame")
        at = 2
        if length >= 126:
            form, at = ("!H", 4) if length == 126 else ("!Q", 10)
            if len(self.read) < at:
                return None
            (long,) = struct.unpack(form, self.read[2:at])
            check(long > (125 if length == 126 else 0xFFFF), "a length in too many bytes")
            length = long
        if len(self.read) < at + length:
            return None
        payload = bytes(self.read[at : at + length])
        del self.read[: at + length]
        return first >= 128, first & 0x0F, payload

    def received(self, fin, opcode, payload):
        if opcode >= CLOSE:
            check(fin and len(payload) <= 125, "a control frame that is long, or in fragments")
        if opcode == CLOSE:
            self.closed(payload)
        elif opcode == PING:
            self.case.onPing(text(payload))
        elif opcode == PONG:
            self.case.onPong(text(payload))
        else:
            check(opcode in (CONTINUATION, TEXT, BINARY), f"opcode {opcode}")
            check((opcode == CONTINUATION) == (self.message is not None), "fragments out of order")
            kind, start = self.message or (opcode, b"")
            self.message = (kind, start + payload)
            if fin:
                kind, whole = self.message
                self.message = None
                check(kind != TEXT or is_utf8(whole), "text that is not UTF-8")
                self.case.onMessage(text(whole), kind == BINARY)

    def closed(self, payload):
        check(len(payload) != 1 and is_utf8(payload[2:]), "a close frame that is none")
        code = struct.unpack("!H", payload[:2])[0] if payload else None
        check(code is None or code in MAY_CLOSE_WITH, f"close code {code}")
        self.remoteCloseCode, self.wasClean = code, True
        if self.state == self.STATE_OPEN:
            self.close_frame(1000, "", reply=True)
        self.later(1 * PATIENCE, self.drop)

    def drop(self):
        self.droppedByMe = True
        self.transport.abort()

    # What the cases ask for.

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, payload_len=None, chopsize=None, sync=False):
        if payload_len is not None:
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        mask = os.urandom(4)
        self.write(header(opcode, fin, rsv, len(payload), mask) + masked(bytes_of(payload), mask), chopsize)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None, sync=False):
        size = fragmentSize or self.autoFragmentSize or max(len(payload), 1)
        opcode = BINARY if isBinary else TEXT
        parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [""]
        for index, part in enumerate(parts):
            self.sendFrame(opcode if index == 0 else CONTINUATION, part, fin=index == len(parts) - 1)

    def beginMessage(self):
        self.opcode = TEXT

    def beginMessageFrame(self, length):
        self.mask, self.sent = os.urandom(4), 0
        self.write(header(self.opcode, False, 0, length, self.mask))
        self.opcode = CONTINUATION

    def sendMessageFrameData(self, payload, sync=False):
        turned = self.mask[self.sent % 4 :] + self.mask[: self.sent % 4]
        self.write(masked(bytes_of(payload), turned))
        self.sent += len(payload)

    def endMessage(self):
        self.sendFrame(CONTINUATION)

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, reason)

    def sendCloseFrame(self, code=None, reasonUtf8=None):
        if self.state == self.STATE_OPEN:
            self.close_frame(code, reasonUtf8 or "", reply=False)
            self.later(1 * PATIENCE, self.drop)

    def close_frame(self, code, reason, reply):
        self.state, self.closedByMe = self.STATE_CLOSING, not reply
        self.localCloseReason = reason
        self.sendFrame(CLOSE, (text(struct.pack("!H", code)) if code is not None else "") + reason)

    def continueLater(self, delay, part, tag=None):
        self.later(delay, lambda: self.state != self.STATE_CLOSED and part())

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def killAfter(self, delay):
        self.later(delay * PATIENCE, self.fail)

    def enableWirelog(self, enable):
        pass

    def fail(self):
        self.failedByMe = True
        self.sendCloseFrame(1001, "Going Away")

    def later(self, delay, what):
        self.timers.append(asyncio.get_running_loop().call_later(delay, what))

    def write(self, data, chopsize=None):
        for at in range(0, len(data), chopsize or len(data)):
            self.transport.write(data[at : at + (chopsize or len(data))])


class Wrong(Exception):
    pass


def check(right, what):
    if not right:
        raise Wrong(what)


def header(opcode, fin, rsv, length, mask):
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length < 126:
        return struct.pack("!BB", first, 0x80 | length) + mask
    if length < 1 << 16:
        return struct.pack("!BBH", first, 0x80 | 126, length) + mask
    return struct.pack("!BBQ", first, 0x80 | 127, length) + mask


def masked(data, mask):
    """As one large number, which Python does fast."""
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")


def text(data):
    return data.decode("latin-1")


def bytes_of(payload):
    return payload.encode("latin-1")


def is_utf8(data):
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
