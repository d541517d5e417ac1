"""Labels that come from data, of places, speakers and files: their parts, which of them mean nothing, how they are
shown.

An environment is `<source>/<name>`, or `<source>/<name>~<k>` behind the room or the filters of its k-th variant.
"""

from __future__ import annotations

UNKNOWN = "unknown"


def place_of(env_id: str) -> str:
    """An environment without its variant: the place that was recorded."""
    return env_id.split("~")[0]


def variant_of(env_id: str, number: int) -> str:
    """The name of an environment's variant, numbered from 1."""
    return f"{env_id}~{number}"


def is_unknown(label: str) -> bool:
    """Whether an environment, a recording or a speaker is not known: `unknown`, `local/unknown`, `local/unknown~2`."""
    return place_of(label).rpartition("/")[2] == UNKNOWN


def printable(text: str) -> str:
    """Text from data made safe for a terminal: control characters and bytes that are no text as `\\xNN`."""

    def escaped(c: str) -> str:
        code = ord(c)
        if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return "".join(c if c.isprintable() else escaped(c) for c in text)
