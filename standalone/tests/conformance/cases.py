"""The published cases, as their authors wrote them, for a Python of today.

Their runner needs Python 2; the cases are small classes that need little of it. So their source is read as bytes (a
character of a string is a byte, as it was), and what has changed since is put right: `print`, division, the order of
base classes, imports of the runner.
"""

import ast
import codecs
import re
import sys
import types
from pathlib import Path

# Compression is not spoken here; 9.9 is switched off by its authors as well.
LEFT_OUT = re.compile(r"^.*(case12_x_x|case9_9_1|Case12_X_X|Case13_X_X).*$", re.MULTILINE)
PRINT = re.compile(r"^( *)print\b.*$", re.MULTILINE)


class Division(ast.NodeTransformer):
    """What is divided in the cases are whole numbers."""

    def visit_Div(self, node):
        return ast.copy_location(ast.FloorDiv(), node)


class Protocol:
    """Names that the cases know from their runner."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007


class Utf8Validator:
    """By Python's own decoder: whether it is valid so far, and whether it ends with a character."""

    def reset(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, text):
        try:
            self.decoder.decode(text.encode("latin-1"))
        except UnicodeDecodeError:
            return False, False
        return True, not self.decoder.getstate()[0]


def load(folder):
    """The classes of all cases, in their authors' order, by name: `Case1_1_1`."""
    folder = Path(folder)
    shim("binascii", b2a_hex=lambda text: text.encode("latin-1").hex())
    shim("autobahn")
    shim("autobahn.websocket")
    shim("autobahn.websocket.protocol", WebSocketProtocol=Protocol)
    shim("autobahn.websocket.utf8validator", Utf8Validator=Utf8Validator)
    base = module(folder, "case")
    # Theirs compares pickles, which tell equal strings apart when they are not the same object.
    base.Case.compare = lambda self, one, other: one == other
    for path in sorted(folder.glob("case*_*.py"), key=lambda path: [len(part) for part in path.stem.split("_")]):
        require(folder, path.stem)
    found = module(folder, "__init__").Cases
    return {case.__name__: case for case in found}


def require(folder, name):
    if name not in sys.modules and not LEFT_OUT.search(name):
        text = (folder / f"{name}.py").read_text("latin-1")
        for needed in re.findall(r"^from (case\d\w*) import", text, re.MULTILINE):
            require(folder, needed)
        module(folder, name)


def module(folder, name):
    text = (folder / f"{name}.py").read_text("latin-1")
    text = PRINT.sub(r"\1pass", LEFT_OUT.sub("", text)).replace("(object, Case, )", "(Case, )")
    code = compile(Division().visit(ast.parse(text)), f"{name}.py", "exec")
    return shim(name, xrange=range, unichr=chr, _code=code)


def shim(name, _code=None, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    sys.modules[name] = made
    if _code:
        exec(_code, made.__dict__)
    return made
