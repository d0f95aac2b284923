"""Plays a script against a program on a terminal and prints all that was on it.

usage: terminal.py STEPS PROGRAM [ARGUMENT ...]

STEPS is a JSON list: ["expect", text] waits until the text appears after what was seen before,
["send", text] types, ["type", text] does so once the program waits at its prompt, ["until",
"url text"] asks an address until its answer has the text.
"""

import json
import os
import pty
import re
import select
import struct
import sys
import time
import urllib.request
import fcntl
import termios

SECONDS = 60
ROWS, COLUMNS = 40, 100
PROMPT = b"lambdalake> "


def at_prompt(screen):
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\r", b"", screen)
    return plain.endswith(PROMPT)


def main():
    steps = json.loads(sys.argv[1])
    program = sys.argv[2:]
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.execv(program[0], program)
    screen, seen = b"", 0
    deadline = time.monotonic() + SECONDS

    def read():
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if not ready:
            return None
        try:
            return os.read(terminal, 65536)
        except OSError:  # The program has ended.
            return b""

    def fail(why):
        sys.stdout.buffer.write(screen)
        sys.stderr.write(f"{why}; not seen in {screen[seen:]!r}\n")
        os.kill(pid, 9)
        sys.exit(1)

    for step in steps:
        if step[0] == "type":
            # Only what came after the last step counts, and only when nothing more comes.
            while (piece := read()) is not None or not at_prompt(screen[seen:]):
                if piece == b"" or time.monotonic() > deadline:
                    fail("no prompt")
                screen += piece or b""
            seen = len(screen)
        if step[0] in ("send", "type"):
            os.write(terminal, step[1].encode())
        elif step[0] == "until":
            url, text = step[1].split(" ", 1)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            while text not in opener.open(url, timeout=10).read().decode():
                if time.monotonic() > deadline:
                    fail(f"{url} never had {text!r}")
                time.sleep(0.05)
        else:
            wanted = step[1].encode()
            while wanted not in screen[seen:]:
                if time.monotonic() > deadline:
                    fail(f"{step[1]!r} did not come in time")
                piece = read()
                if piece == b"":
                    fail(f"ended before {step[1]!r}")
                screen += piece or b""
            seen = screen.index(wanted, seen) + len(wanted)
    while True:
        if time.monotonic() > deadline:
            fail("did not end")
        piece = read()
        if piece == b"":
            break
        screen += piece or b""
    _, status = os.waitpid(pid, 0)
    sys.stdout.buffer.write(screen)
    sys.stdout.buffer.write(f"\nexit {os.waitstatus_to_exitcode(status)}\n".encode())


main()
